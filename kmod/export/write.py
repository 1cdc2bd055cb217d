"""Writes models in the forms there are, and keeps only what answers alike."""

import dataclasses
import functools
import tempfile
from collections.abc import Callable
from collections.abc import Collection
from collections.abc import Mapping
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from kmod.data.replicas import outside_scopes
from kmod.errors import CheckError
from kmod.errors import UsageError
from kmod.errors import reason_of
from kmod.export import keras_file
from kmod.export import litert
from kmod.export import onnx
from kmod.export import savedmodel
from kmod.files.custom_layers import custom_layers_scope
from kmod.graph.sources import custom_layers_of

LABELS_FILE = "labels.txt"
# Relative to the largest answer, or to 1 if that is larger.
TOLERANCE = 1e-4
LEAST_IMAGES = 20  # To quantize by.
LEAST_AGREEMENT = 0.98
BATCH_SIZE = 64
DEVICE = "cpu:0"  # GPUs may round each call in another way.


@dataclasses.dataclass(frozen=True)
class Form:
    """A form that a model is saved in.

    Attributes:
        path: Its file or directory beside a composed model.
        write: Writes it: `(model, class names, path)`.
        predict: What was written answers: `(path, images)` to arrays by name.
        has_labels: Whether the names of the classes are in it.
    """

    path: str
    write: Callable[[keras.Model, Sequence[str], Path], None]
    predict: Callable[[Path, Any], dict[str, Any]]
    has_labels: bool


FORMS = {
    "savedmodel": Form(
        "saved_model", savedmodel.write, savedmodel.predict, True
    ),
    "keras": Form("model.keras", keras_file.write, keras_file.predict, True),
    "litert": Form("model.tflite", litert.write, litert.predict, False),
    "onnx": Form("model.onnx", onnx.write, onnx.predict, False),
}


def write_form(
    model: keras.Model,
    class_names: Sequence[str],
    form: str,
    path: Path,
    images: Any,
) -> None:
    """Writes one form of a model and checks that it answers the same.

    Takes the arguments of `write_forms` and raises as it does, with one `form`
    and the `path` to write it to.
    """
    write_forms(model, class_names, {form: path}, images)


@outside_scopes
def write_forms(
    model: keras.Model,
    class_names: Sequence[str],
    paths: Mapping[str, Path],
    images: Any,
) -> None:
    """Writes forms of a model and checks that each answers the same.

    Beside a form that can not hold them go the classes, one a line, as
    `labels.txt`.

    Args:
        model: Classifier, or module of one score.
        class_names: Its classes, in the order of its outputs.
        paths: Files or directories to write, by key of `FORMS`.
        images: Real images to compare on.

    Raises:
        CheckError: If the two differ.
        UsageError: If a form can not be written here.
    """
    if set(paths) - {"keras"}:
        check_backend()
    with keras.device(DEVICE):
        expected = savedmodel.predict_by_name(model, images)
    for form, path in paths.items():
        FORMS[form].write(model, class_names, path)
        if not FORMS[form].has_labels:
            _write_labels(path, class_names)
        gap = _gap(expected, _predict(model, form, path, images))
        if not gap <= TOLERANCE:
            raise CheckError(
                f"A saved model must answer as the one in memory, within "
                f"{TOLERANCE}. Received: '{path.name}' with answers that "
                f"differ by up to {gap:.3g}. Check the model for weights that "
                "are not finite and for layers that are random at inference."
            )


@outside_scopes
def write_quantized(
    model: keras.Model,
    class_names: Sequence[str],
    path: Path,
    quantize: str,
    images: np.ndarray,
    least_agreement: float,
    in_full: Collection[str] = (),
) -> dict[str, Any]:
    """Writes a LiteRT file in fewer bits, if it gives the model's classes.

    Args:
        model: Classifier of two classes or more.
        class_names: Its classes, in the order of its outputs.
        path: File to write; `labels.txt` goes beside it.
        quantize: One of `litert.QUANTIZATIONS`.
        images: Array of real images, of the data type that the model takes.
            The first half tells the ranges of activations, of `"int8"`; the
            others are compared on.
        least_agreement: Share of those that must get the same class, 0 to 1.
        in_full: Names of layers that `"int8"` leaves in float32.

    Returns:
        What was found: `quantize`, `agreement` and on how many images
        (`num_images`), and the `bytes` of the file and of one in full.

    Raises:
        CheckError: If fewer agree.
        UsageError: If the file can not be written here, or there are too few
            images or classes.
    """
    check_backend()
    if quantize not in litert.QUANTIZATIONS:
        raise UsageError(
            f"`quantize` must be one of {list(litert.QUANTIZATIONS)}. "
            f"Received: quantize={quantize!r}."
        )
    if not 0 <= least_agreement <= 1:
        raise UsageError(
            "`least_agreement` must be a share, 0 to 1. Received: "
            f"least_agreement={least_agreement}. Give 0.98 for 98 in 100."
        )
    if len(images) < LEAST_IMAGES or len(class_names) < 2:
        raise UsageError(
            f"A classifier is quantized on {LEAST_IMAGES} real images or more "
            f"of two or more classes. Received: {len(images)} images, "
            f"{len(class_names)} classes. Give `data` with more images; a "
            "module of one class is quantized as part of a composed model."
        )
    shown, held_out = np.array_split(images, 2)
    with tempfile.TemporaryDirectory() as folder:
        whole = Path(folder) / path.name
        litert.write(model, class_names, whole)
        litert.write(model, class_names, path, quantize, shown, in_full)
        sizes = path.stat().st_size, whole.stat().st_size
    _write_labels(path, class_names)
    try:
        answered = _classes(functools.partial(litert.predict, path), held_out)
    except RuntimeError as error:  # What LiteRT's own faults are.
        raise CheckError(
            f"LiteRT must run a quantized model. Received: {quantize}, of "
            f"which it says: {reason_of(error)}. Quantize as "
            "`dynamic` or `float16`."
        ) from error
    expected = _classes(
        functools.partial(savedmodel.predict_by_name, model), held_out
    )
    agreement = float(np.mean(answered == expected))
    if agreement < least_agreement:
        raise CheckError(
            "A quantized model must give the class of the one in full for "
            f"{least_agreement:.1%} of the images. Received: {quantize} with "
            f"{agreement:.1%} of {len(held_out)}. Quantize as `dynamic` or "
            "`float16`, or lower `least_agreement`."
        )
    return {
        "quantize": quantize,
        "agreement": agreement,
        "num_images": len(held_out),
        "bytes": {"quantized": sizes[0], "float32": sizes[1]},
    }


def _classes(answer, images):
    parts = [
        answer(images[i : i + BATCH_SIZE])["probabilities"]
        for i in range(0, len(images), BATCH_SIZE)
    ]
    return np.concatenate(parts).argmax(axis=1)


def largest_gap(
    model: keras.Model, form: str, path: Path, images: Any
) -> float:
    """Returns how far the answers of a saved form are from the model's.

    Args:
        model: The model.
        form: Key of `FORMS`.
        path: File or directory that was written.
        images: Images to compare on.

    Returns:
        The largest difference, relative to the largest answer if that is
        above 1.
    """
    with keras.device(DEVICE):
        expected = savedmodel.predict_by_name(model, images)
    return _gap(expected, _predict(model, form, path, images))


def _predict(model, form, path, images):
    """Returns what was written of a model answers, by name."""
    own = custom_layers_scope(custom_layers_of(model))  # They are in memory.
    with keras.device(DEVICE), own:
        return FORMS[form].predict(path, images)


def _gap(expected, answered):
    gaps = []
    for name, values in expected.items():
        if name not in answered or answered[name].shape != values.shape:
            return np.inf
        scale = max(1.0, np.abs(values).max())
        gaps.append(np.abs(answered[name] - values).max() / scale)
    return float(np.max(gaps))


def _write_labels(path, class_names):
    lines = [" ".join(name.split()) for name in class_names]
    text = "".join(f"{line}\n" for line in lines)
    path.with_name(LABELS_FILE).write_text(text, encoding="utf-8")


def check_backend() -> None:
    """Refuses Keras backends that write no SavedModels.

    Raises:
        UsageError: If Keras does not run on TensorFlow.
    """
    backend = keras.backend.backend()
    if backend != "tensorflow":
        raise UsageError(
            "SavedModels and what is made of them are written on the "
            f"TensorFlow backend of Keras. Received: backend={backend!r}. Set "
            "KERAS_BACKEND=tensorflow; models go from one backend to another "
            "as `.keras` files (`--format keras`)."
        )
