"""The models and images that commands are given, checked for their fit."""

from __future__ import annotations

import argparse
import ast
import difflib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING
from typing import Any

from kmod.cli import console
from kmod.errors import ArtifactError
from kmod.errors import UsageError
from kmod.errors import reason_of
from kmod.files import check_output
from kmod.files import claim
from kmod.files.plain_yaml import shorten
from kmod.files.remote import is_url
from kmod.spec.licences import LicenseSyntaxError
from kmod.spec.licences import parse_license

if TYPE_CHECKING:
    import keras
    import numpy as np

    from kmod.composition.composition_manifest import CompositionManifest
    from kmod.data.image_data import ImageData
    from kmod.data.image_data import LabelledImages
    from kmod.data.image_data import UnlabelledImages
    from kmod.files.atomic import Listing
    from kmod.modules.manifest import InputContract

DATA_FORMS = (
    "digits, a data set of TensorFlow Datasets, a folder of images (of "
    "train, validation and test, or of classes), a .csv or .npz file, or "
    "module:function"
)

# A call that builds a network of `keras.applications`.
CALL = re.compile(r"(?:keras\.)?(?:applications\.)?[A-Z]\w*\(.*\)", re.DOTALL)
NO_RUN = "kmod: '{}' has no run to go on with, a new one begins."


def how_to_resume(args: argparse.Namespace) -> str:
    """Says after Ctrl-C how to go on, if anything was reached."""
    from kmod.files.run_directory import directory_beside

    directory = directory_beside(Path(args.out))
    if not directory.is_dir():
        return ""
    return (
        f" What it has reached is in '{directory}': the same command with "
        "`--resume` goes on from there."
    )


def check_out(out: str | Path, overwrite: bool, listing: Listing) -> Path:
    """Claims the directory to make, before any work is done for it.

    Args:
        out: The directory. An empty one may be there.
        overwrite: Whether what kmod wrote there may be replaced.
        listing: Reads what the manifest of such a directory lists.

    Returns:
        Its path.

    Raises:
        UsageError: If something would be lost; see `check_output`.
        ArtifactError: If another process makes the same one.
    """
    check_output(out, overwrite, listing)
    claim(out)
    return Path(out)


def positive_integer(text: str) -> int:
    """Reads a number of an option, for `argparse`."""
    number = int(text) if text.isdecimal() and len(text) < 20 else 0
    if number < 1:
        raise argparse.ArgumentTypeError(
            "must be a whole number of at least 1. Received: "
            f"{shorten(text)}"
        )
    return number


def seed(text: str) -> int:
    """Reads the seed of an option, for `argparse`."""
    number = int(text) if text.isdecimal() and len(text) < 20 else -1
    if not 0 <= number < 2**32:
        raise argparse.ArgumentTypeError(
            "must be a whole number from 0 to 4294967295. Received: "
            f"{shorten(text)}"
        )
    return number


def add_output_argument(parser: Any, model: str) -> None:
    """Adds `--output`.

    Args:
        parser: Parser of a command, or a group of its arguments.
        model: What the model is called that has outputs.
    """
    parser.add_argument(
        "--output",
        metavar="NAME",
        help=f"output of {model} to take, where it has several",
    )


def add_image_size_argument(parser: Any, help: str) -> None:
    """Adds `--image-size`.

    Args:
        parser: Parser of a command, or a group of its arguments.
        help: What has that size.
    """
    parser.add_argument(
        "--image-size",
        type=positive_integer,
        nargs=2,
        metavar=("HEIGHT", "WIDTH"),
        help=help,
    )


def add_seed_argument(parser: argparse.ArgumentParser) -> None:
    """Adds `--seed`."""
    parser.add_argument(
        "--seed",
        type=seed,
        default=0,
        metavar="N",
        help="seed of all that is drawn (default: 0)",
    )


def add_batch_size_argument(parser: argparse.ArgumentParser) -> None:
    """Adds `--batch-size`."""
    parser.add_argument(
        "--batch-size",
        type=positive_integer,
        default=64,
        metavar="N",
        help="images to a training step (default: 64)",
    )


def license_expression(text: str) -> str:
    """Reads a licence of an option, for `argparse`."""
    try:
        parse_license(text)
    except LicenseSyntaxError as error:
        raise argparse.ArgumentTypeError(
            "must be an SPDX expression, such as Apache-2.0. Received: "
            f"{shorten(text)}, {error}"
        ) from error
    return text


def check_path(path: str | Path, takes_calls: bool = False) -> None:
    """Refuses what is not there, before Keras is imported to read it.

    Args:
        path: A path, or a call as `read_call` reads it.
        takes_calls: Whether it may be a call.

    Raises:
        ArtifactError: If nothing is there, or no file of a call's weights.
        UsageError: If it is a call with other arguments than it may have.
    """
    path = Path(path)
    if path.exists() or (takes_calls and read_call(path)):
        return
    names = path.parent.iterdir() if path.parent.is_dir() else ()
    close = difflib.get_close_matches(path.name, [each.name for each in names])
    hint = "Look at the path, which starts in the working directory."
    if close:
        hint = f"Did you mean '{path.with_name(close[0])}'?"
    if is_call(path):
        hint = "Save the network with `model.save('name.keras')` first."
    raise ArtifactError(
        "A model, store or composed model must be there. Received: "
        f"'{path}', which does not exist. {hint}"
    )


def fetched(path: str) -> str:
    """Returns a path as it is; of a URL, where the store is that it names.

    Raises:
        ArtifactError: If the store can not be read, or is another one.
        UsageError: If the URL has no digest.
    """
    if not is_url(path):
        return path

    from kmod.modules.remote_store import fetch_store

    with console.status("fetching"):
        return str(fetch_store(path))


def read_call(path: str | Path) -> tuple[str, dict[str, Any]] | None:
    """Reads a call that builds a network of `keras.applications`.

    Args:
        path: Such as `MobileNetV2(weights="own.weights.h5", classes=4)`, the
            arguments as Keras has them.

    Returns:
        Name and arguments of the network; `None` if it is no such call.

    Raises:
        ArtifactError: If `weights` is no file.
        UsageError: If it has other than named arguments of plain values.
    """
    text = str(path)
    if not is_call(path):
        return None
    try:
        call = ast.parse(text, mode="eval").body
        is_plain = isinstance(call, ast.Call) and not call.args
        name = ast.unparse(call.func).rpartition(".")[2]
        arguments = {
            item.arg: ast.literal_eval(item.value) for item in call.keywords
        }
        is_plain = is_plain and name.isidentifier() and None not in arguments
    except Exception:  # Python has no common class for what it can not read.
        is_plain = False
    if not is_plain:
        raise UsageError(
            "A network of `keras.applications` is called with named arguments "
            "of plain values, such as "
            "'MobileNetV2(weights=\"own.weights.h5\", classes=4)'. Received: "
            f"{text!r}. Write its arguments so."
        )
    weights = arguments.get("weights")
    if not isinstance(weights, str) or not Path(weights).is_file():
        raise ArtifactError(
            "A network of `keras.applications` takes its `weights` from a "
            f"file; nothing is downloaded. Received: {text!r}, with "
            f"weights={weights!r}, which is no file. Save them with "
            "`model.save_weights('own.weights.h5')`."
        )
    return name, arguments


def is_call(path: str | Path) -> bool:
    """Tells whether it is written as a call, and no path that is there."""
    return bool(CALL.fullmatch(str(path))) and not Path(path).exists()


def model_name(path: str | Path) -> str:
    """Returns what a model is called: its file without the ending.

    Args:
        path: A path, or a call that `read_call` takes.
    """
    call = read_call(path)
    return call[0] if call else Path(path).stem


def load_model(path: str | Path, output: str | None = None) -> keras.Model:
    """Loads a `.keras` file, or one of legacy HDF5, in safe mode.

    Args:
        path: The file, or a call as `read_call` reads it.
        output: Name of the output to take, of several.

    Raises:
        ArtifactError: If it is missing, of another format or damaged, or
            weights do not fit the network that is called.
        UsageError: If it has no such output, or there is no such network.
    """
    from kmod.export.keras_file import load_keras_file
    from kmod.graph.sources import functional_of

    call = read_call(path)
    model = _build(*call) if call else load_keras_file(path, allow_custom=True)
    return model if output is None else functional_of(model, output)


def _build(name, arguments):
    """Builds a network of `keras.applications`."""
    import keras

    names = [each for each in dir(keras.applications) if each[0].isupper()]
    if name not in names:
        raise UsageError(
            f"A network is one of `keras.applications`: {', '.join(names)}. "
            f"Received: {name!r}. Correct the name."
        )
    try:
        return getattr(keras.applications, name)(**arguments)
    except Exception as error:  # Keras has no common class for its errors.
        raise ArtifactError(
            "Weights must be those of the network that is called. Received: "
            f"{name} with {arguments}, but {reason_of(error)}. Give the "
            "arguments that "
            "the model was made with, or save it with "
            "`model.save('name.keras')`."
        ) from error


def load_classifier(path: str | Path, output: str | None = None) -> keras.Model:
    """Loads a `.keras` file, or a composed model with its `class_names`.

    Args:
        path: The file, or the directory of a composed model.
        output: Name of the output of the file's model to take, of several.

    Raises:
        ArtifactError: If there is none, or it can not be loaded.
        IntegrityError: If a composed model is not as it was written.
        UsageError: If it has no such output, or is a composed model.
    """
    from kmod.composition.saving import load
    from kmod.export.presets import is_preset

    if not Path(path).is_dir() or is_preset(path):
        return load_model(path, output)
    if output is not None:
        raise UsageError(
            "`--output` names an output of a `.keras` file; a composed model "
            f"has one. Received: --output {output} for '{path}'. Leave it out."
        )
    return load(path)


def say_if_values_are_guessed(model: keras.Model, path: str | Path) -> None:
    """Says that a file's model is taken for one of values from 0 to 255.

    Args:
        model: What a `.keras` file holds, which does not name its values.
        path: The file.
    """
    if not _scales(model):
        console.print_message(
            f"kmod: '{path}' is taken for a model of values from 0 to 255, "
            "and does not scale them itself. If it was trained on others, "
            "give these, such as `--value-range 0 1`."
        )


def add_data_arguments(
    parser: argparse.ArgumentParser,
    help: str,
    split: bool = True,
    required: bool = True,
) -> None:
    """Adds `--data` and what says how it is read.

    Args:
        parser: Parser of a command.
        help: What the data are for.
        split: Whether one of their splits is to be named.
        required: Whether there must be data. If not, nor must a split.
    """
    metavar = "NAME:SPLIT" if split else "NAME"
    parser.add_argument(
        "--data",
        required=required,
        metavar=metavar if required else "NAME[:SPLIT]",
        help=f"{help}: {DATA_FORMS}",
    )
    parser.add_argument(
        "--data-dir", metavar="DIR", help="prepared TensorFlow Datasets"
    )
    add_image_size_argument(
        parser,
        "what images from files are brought to (default: what the model takes)",
    )
    parser.add_argument(
        "--color-mode",
        choices=("grayscale", "rgb", "rgba"),
        help="what images from files become (default: what the model takes)",
    )
    parser.add_argument(
        "--classes",
        type=lambda text: text.split(","),
        metavar="A,B,...",
        help="classes of the data to take, in the order of the model's "
        "outputs (default: all, in the order of the data; folders and labels "
        "are sorted as text, 10 before 2)",
    )
    parser.add_argument(
        "--value-range",
        type=float,
        nargs=2,
        metavar=("LOW", "HIGH"),
        help="pixel values that the model takes, such as 0 1, which images "
        "are scaled to (default: as the data have them, files 0 to 255)",
    )


def load_images(
    name: str,
    args: argparse.Namespace,
    shape: Sequence[int | None],
    splits: Sequence[str] = ("train", "validation", "test"),
) -> ImageData:
    """Loads the data that the options of `add_data_arguments` name.

    Args:
        name: The data, without a split.
        args: Arguments of the command.
        shape: Of the images that the model takes.
        splits: Those that are wanted; of others images may be missing.

    Raises:
        ArtifactError, UsageError: As `kmod.load_data`.
    """
    from kmod.data.load import load_data

    options = _image_options(name, args, shape)
    options |= {"classes": args.classes, "splits": splits}
    return _scaled(load_data(name, args.data_dir, **options), args)


def load_images_alone(
    name: str, args: argparse.Namespace, shape: Sequence[int | None]
) -> UnlabelledImages:
    """Does what `load_images` does, for images without labels."""
    from kmod.data.load import load_unlabelled

    options = _image_options(name, args, shape)
    return _scaled(load_unlabelled(name, args.data_dir, **options), args)


def _image_options(name, args, shape):
    from kmod.data.own_images import file_options

    options = file_options(name, shape, args.data_dir)
    given = {"image_size": args.image_size, "color_mode": args.color_mode}
    return options | {key: value for key, value in given.items() if value}


def _scaled(data, args):
    from kmod.data.value_range import scale_values

    if args.value_range is None:
        return data
    return scale_values(data, args.value_range)


def load_unlabelled_images(
    text: str,
    contract: InputContract,
    args: argparse.Namespace,
    limit: int | None = None,
) -> UnlabelledImages:
    """Loads images without their labels, in the size that a model takes.

    Args:
        text: Name and split, folder or file, such as `photos:train`.
        contract: What images the model takes.
        args: Arguments of the command with `data_dir`.
        limit: Integer, take at most this many. Defaults to all.
    """
    from kmod.data.load import load_unlabelled
    from kmod.data.load import split_name
    from kmod.data.own_images import file_options

    name, split = split_name(text)
    options = file_options(name, contract.shape, args.data_dir)
    return load_unlabelled(
        name, args.data_dir, split=split, limit=limit, **options
    )


def are_learned_from(
    test: str,
    data: str,
    splits: Sequence[str] | None,
    data_dir: str | Path | None,
) -> bool:
    """Tells whether images to measure on are among those to learn from.

    Args:
        test: Name and split of the images to measure on.
        data: Name of the data to learn from.
        splits: Splits of the data that are learned from. Defaults to what
            `load_unlabelled` takes: all of one's own, and of a data set the
            images to train on.
        data_dir: Directory of the prepared data sets.

    Raises:
        ArtifactError, UsageError: If there are no data of such a name.
    """
    from kmod.data.load import parse_split
    from kmod.data.own_images import own_path

    name, split = parse_split(test)
    own, other = (own_path(each, data_dir) for each in (data, name))
    if None in (own, other):
        is_same = data == name
    else:
        is_same = own.resolve() == other.resolve()
    if splits is None:
        return is_same and (own is not None or split == "train")
    return is_same and split in splits


def load_test_images(
    args: argparse.Namespace, manifest: CompositionManifest
) -> LabelledImages | None:
    """Loads the images of `--test`, as a model takes them.

    Args:
        args: Arguments with `test`, which may be `None`, and `data_dir`.
        manifest: Of the model.

    Returns:
        Images, labelled in the model's classes; `None` without `--test`.
    """
    from kmod.composition.labelled_images import reader_of_manifest
    from kmod.data.load import load_data
    from kmod.data.load import parse_split
    from kmod.data.own_images import file_options

    if args.test is None:
        return None
    name, split = parse_split(args.test)
    options = file_options(name, manifest.input.shape, args.data_dir)
    data = load_data(name, args.data_dir, splits=[split], **options)
    return reader_of_manifest(manifest).read(data, split)


def image_shape(model: keras.Model) -> tuple[int | None, ...]:
    """Returns the shape of the images that a model takes, if it tells."""
    inputs = getattr(model, "inputs", None) or ()
    return tuple(inputs[0].shape[1:]) if len(inputs) == 1 else ()


def images_for(
    model: keras.Model, data: ImageData, split: str
) -> LabelledImages:
    """Picks the images for a `.keras` file, and says what it may miss.

    Args:
        model: Classifier of the classes of the data set.
        data: Data set.
        split: `"train"`, `"validation"` or `"test"`.

    Raises:
        ArtifactError: If images or classes do not fit the model.
        UnsupportedModelError: If its graph can not be read.
        UsageError: If it has several outputs.
    """
    from kmod.graph.sources import functional_of

    functional = functional_of(model)
    images = data.images_of(split)
    shape, wanted = images.images.shape[1:], image_shape(functional)
    sizes = zip(wanted, shape)
    if len(wanted) != len(shape) or any(w not in (None, s) for w, s in sizes):
        raise ArtifactError(
            f"The model takes images of shape {wanted}. Received: data set "
            f"{data.name!r} with images of shape {shape}. Give the data set "
            "that the model was made for."
        )
    num_classes = len(data.class_names)
    answer = tuple(functional.outputs[0].shape)
    takes_one = num_classes == 2 and answer == (None, 1)
    if answer != (None, num_classes) and not takes_one:
        raise ArtifactError(
            "A `.keras` file does not name its classes, so they must be those "
            f"of the data set, {num_classes} in {data.name!r}. "
            f"Received: an output of shape {answer}. Give "
            "`--classes` with those of the model in the order of its outputs, "
            "another data set, or the directory of a composed model."
        )
    say_if_unscaled(model, images.images, data.name)
    return images


def say_if_unscaled(model: keras.Model, images: np.ndarray, name: str) -> None:
    """Says that images are bytes, if a model does not scale them itself.

    Args:
        model: What a `.keras` file holds.
        images: Array of images.
        name: Name of the data.
    """
    if images.dtype == "uint8" and not _scales(model):
        console.print_message(
            f"kmod: {name!r} has values from 0 to 255, and the model "
            "does not scale them itself. If it was trained on others, give "
            "these, such as `--value-range 0 1`."
        )


def _scales(model):
    """Tells whether a model has its images' values scaled inside."""
    import keras

    from kmod.graph.internals import parts_of
    from kmod.graph.sources import is_preprocessing

    scaling = keras.layers.Rescaling, keras.layers.Normalization
    return is_preprocessing(model) or any(
        isinstance(layer, scaling) for layer in parts_of(model)
    )


def image_contract(data: ImageData) -> InputContract:
    """Returns what a model takes that was made for a data set."""
    from kmod.modules.manifest import InputContract

    shape = data.train.images.shape[1:]
    return InputContract(shape, "float32", tuple(data.value_range))
