"""Exports saved models for those who serve them."""

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
from keras import ops

from kmod.composition.composition_manifest import COMPOSITION_FILE
from kmod.composition.composition_manifest import EXPORT_FILE
from kmod.composition.composition_manifest import list_export
from kmod.composition.routing import routing_layers
from kmod.composition.saving import load
from kmod.data.value_range import checked_range
from kmod.errors import UnsupportedModelError
from kmod.errors import UsageError
from kmod.errors import reason_of
from kmod.export.keras_file import load_keras_file
from kmod.export.write import FORMS
from kmod.export.write import LEAST_AGREEMENT
from kmod.export.write import write_form
from kmod.export.write import write_quantized
from kmod.files import atomic_directory
from kmod.files import read_files
from kmod.files.manifest import installed_versions
from kmod.files.manifest import to_plain
from kmod.files.manifest import write_sealed
from kmod.graph.content import content_digest
from kmod.graph.internals import parts_of
from kmod.graph.sources import functional_of
from kmod.modules.adaptation import comparison_images
from kmod.modules.manifest import InputContract
from kmod.modules.manifest import store_around
from kmod.modules.module_store import read_module

VERSION = 1
BYTES = (0.0, 255.0)
FLOAT32 = "float32"


@dataclasses.dataclass(frozen=True, eq=False)
class Exportable:
    """A saved model and what its users need to know of it.

    Attributes:
        model: The model.
        class_names: Its classes, in the order of its outputs.
        input: What images it takes.
    """

    model: keras.Model
    class_names: tuple[str, ...]
    input: InputContract


def load_exportable(
    path: str | Path,
    *,
    output: str | None = None,
    image_size: Sequence[int] | None = None,
    value_range: Sequence[float] | None = None,
) -> Exportable:
    """Loads what can be exported.

    Args:
        path: Directory of a composed model, directory of a module, or `.keras`
            file. Such a file does not name its classes, which are numbered,
            and it alone takes the options.
        output: Name of the output to take, of several.
        image_size: Height and width of the images, for a model that takes
            any.
        value_range: Smallest and largest pixel value that the model takes.
            Defaults to 0 and 255.

    Raises:
        ArtifactError: If there is none of them, or it can not be loaded.
        IntegrityError: If it is not as it was written.
        UnsupportedModelError: If a file's model takes more than one image.
        UsageError: If an option does not fit what is there, or is needed.
    """
    path = Path(path)
    given = {
        "output": output,
        "image_size": image_size,
        "value_range": value_range,
    }
    given = {name: given[name] for name in given if given[name] is not None}
    if path.is_dir() and given:
        name, value = next(iter(given.items()))
        raise UsageError(
            f"`{name}` is for a `.keras` file; what kmod saved says itself "
            f"what it takes. Received: {name}={value} for '{path}'. Leave it "
            "out."
        )
    if os.path.lexists(path / COMPOSITION_FILE):
        model = load(path)
        return Exportable(model, model.class_names, model.manifest.input)
    if path.is_dir():
        return _load_module(path)
    values = checked_range(value_range) or BYTES
    model = load_keras_file(path, allow_custom=True)
    model = _of_size(_plain(model, output), image_size)
    names = tuple(str(index) for index in range(model.output_shape[-1]))
    return Exportable(model, names, _contract(model, values))


def export_model(
    exportable: Exportable,
    form: str,
    directory: str | Path,
    *,
    images: Any = None,
    serving: bool = False,
    quantize: str | None = None,
    least_agreement: float = LEAST_AGREEMENT,
    overwrite: bool = False,
) -> Path:
    """Exports a model, if the export answers as the model does.

    Args:
        exportable: The model.
        form: `"savedmodel"`, `"litert"` or `"onnx"`.
        directory: Directory to make. A SavedModel lies right in it.
        images: Images to compare on. Defaults to a few real ones.
        serving: Whether to write the next version into the directory instead,
            `1`, `2` and so on, as TensorFlow Serving wants it. Versions that
            are there are left alone.
        quantize: `"int8"`, `"float16"` or `"dynamic"` keeps the numbers of a
            LiteRT file in fewer bits, by at least 20 `images`.
        least_agreement: Share of the images that it must give the model's
            class, 0 to 1.
        overwrite: Whether an export may be replaced that nobody changed.

    Returns:
        The directory that was made. What quantization did stands in its
        `export.yaml`.

    Raises:
        CheckError: If the export answers otherwise; nothing is left of it.
        UsageError: If it can not be written there, or not in this form.
    """
    if quantize is not None and form != "litert":
        raise UsageError(
            "LiteRT files are quantized. Received: "
            f"quantize={quantize!r} for the format {form!r}. Export as "
            "`litert`, or leave it out."
        )
    if serving:
        directory, overwrite = _next_version(directory, form), False
    if images is None:
        images = comparison_images(exportable.input)
    with atomic_directory(directory, overwrite, list_export) as temporary:
        path = (
            temporary if form == "savedmodel" else temporary / FORMS[form].path
        )
        model = exportable.model
        if form != "savedmodel":  # The others' runtimes know float32 alone.
            model = in_float32(model)
        images = ops.convert_to_numpy(images).astype(model.inputs[0].dtype)
        given = model, exportable.class_names
        quantized = {}
        if quantize is None:
            write_form(*given, form, path, images)
        else:
            quantized = write_quantized(
                *(*given, path, quantize, images, least_agreement),
                in_full=routing_layers(model),
            )
        manifest = {
            "version": VERSION,
            "format": form,
            "name": exportable.model.name,
            "class_names": exportable.class_names,
            "input": exportable.input,
            "model": content_digest(exportable.model),
            **({"quantized": quantized} if quantized else {}),
            "created_by": installed_versions(),
            "files": read_files(temporary),
        }
        write_sealed(temporary / EXPORT_FILE, to_plain(manifest))
    return Path(directory)


def _load_module(path):
    module = read_module(path)
    store = store_around(path)
    contract = store.input if store else _contract(module.model, BYTES)
    return Exportable(module.model, (module.info.class_name,), contract)


def _plain(model, output):
    """Returns a model from one tensor, the image, to one tensor."""
    functional = functional_of(model, output)
    tensors = functional.input, functional.output
    if all(isinstance(each, keras.KerasTensor) for each in tensors):
        return model if output is None else functional
    (image,), (scores,) = functional.inputs, functional.outputs
    return keras.Model(image, scores, name=model.name)


def _of_size(model, image_size):
    """Returns a model of images of one size, which every form needs."""
    image = model.inputs[0]
    own = tuple(image.shape[1:])
    shape = own if image_size is None else (*image_size, *own[2:])
    if (
        None in shape
        or len(shape) != len(own)
        or any(size not in (None, new) for size, new in zip(own, shape))
    ):
        raise UsageError(
            "`image_size` must be the height and width of images that the "
            "model takes, and is needed where it takes any. Received: "
            f"image_size={image_size} for {model.name!r}, which takes images "
            f"of shape {own}. Give the size that it will see, such as "
            "`--image-size 96 96`."
        )
    if shape == own:
        return model
    image = keras.Input(shape, dtype=image.dtype)
    return keras.Model(image, model(image), name=model.name)


def _contract(model, value_range):
    (image,) = model.inputs
    return InputContract(tuple(image.shape[1:]), image.dtype, value_range)


def _next_version(directory, form):
    if form != "savedmodel":
        raise UsageError(
            "TensorFlow Serving takes SavedModels. Received: format "
            f"{form!r}. Export as `savedmodel`, or without `--serving`."
        )
    directory = Path(directory)
    found = directory.iterdir() if directory.is_dir() else ()
    versions = [int(entry.name) for entry in found if entry.name.isdecimal()]
    return directory / str(max(versions, default=0) + 1)


def in_float32(model: keras.Model) -> keras.Model:
    """Returns a model with the same weights that computes in float32.

    Args:
        model: A Functional or Sequential model.

    Returns:
        A copy; the model itself if it does so already.

    Raises:
        UnsupportedModelError: If it can not be copied layer by layer.
    """
    if all(_is_float32(part) for part in parts_of(model)):
        return model
    try:
        copy = keras.models.clone_model(
            model, clone_function=_copy, recursive=True
        )
        copy.set_weights(model.get_weights())
    except Exception as error:  # Keras has no common class for its errors.
        raise UnsupportedModelError(
            "A model that does not compute in float32 must be made of layers "
            "that can be copied. Received: "
            f"{model.name!r}, of which Keras says: {reason_of(error)}. Save it "
            'in float32 first, with `keras.config.set_dtype_policy("float32")`.'
        ) from error
    return copy


def _is_float32(part):
    return isinstance(part, keras.layers.InputLayer) or (
        part.compute_dtype == part.variable_dtype == FLOAT32
    )


def _copy(layer):
    config = layer.get_config()
    if "dtype" in config:  # Some layers only hold others.
        config["dtype"] = FLOAT32
    copy = type(layer).from_config(config)
    if not isinstance(layer, keras.layers.Layer):
        return copy  # An operation, such as `x + y`, has no weights.
    for part in parts_of(copy):
        part.dtype_policy = FLOAT32
    return copy
