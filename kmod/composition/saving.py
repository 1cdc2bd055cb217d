"""Saves composed models with the spec that made them, and loads them."""

import dataclasses
import shutil
from collections.abc import Mapping
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from kmod.composition.manifest import COMPOSITION_FILE
from kmod.composition.manifest import manifest_of
from kmod.composition.manifest import read_composition_manifest
from kmod.composition.manifest import write_composition_manifest
from kmod.composition.plan import CompositionPlan
from kmod.composition.savedmodel import export_classifier
from kmod.errors import ArtifactError
from kmod.errors import CheckError
from kmod.evaluation.sizes import model_sizes
from kmod.files import atomic_directory
from kmod.spec.writer import spec_data
from kmod.spec.writer import write_spec
from kmod.store.integrity import check_files
from kmod.store.integrity import read_files
from kmod.store.keras_archive import load_keras_archive

SPEC_FILE = "spec.yaml"
WEAK_FILE = "weak.keras"
FORMATS = {"savedmodel": "saved_model", "keras": "model.keras"}
# Probabilities lie between 0 and 1, so this is relative to their scale.
TOLERANCE = 1e-5
NUM_IMAGES = 4


def save_composition(
    model: keras.Model,
    planned: CompositionPlan,
    directory: str | Path,
    *,
    formats: Sequence[str] = tuple(FORMATS),
    metrics: Mapping[str, Any] | None = None,
    overwrite: bool = False,
) -> None:
    """Saves a composed model, all of it or, on failure, nothing.

    Beside the model lie the spec (`spec.yaml`, its paths valid from there; of
    a patch spec the weak model, too) and the manifest `composition.yaml`.

    Args:
        model: What `compose` built.
        planned: The plan it was built from.
        directory: Directory to make.
        formats: `"savedmodel"`, `"keras"` or both. Only a directory with the
            latter can be loaded by `load_composition`.
        metrics: Figures on data, for the manifest.
        overwrite: Whether a composed model may be replaced.

    Raises:
        UsageError: If `directory` can not be written.
        CheckError: If the saved model answers other than `model`.
    """
    sizes = model_sizes(model)
    manifest = manifest_of(
        planned,
        {"parameters": sizes.parameters, "macs": sizes.macs},
        metrics or {},
    )
    with atomic_directory(directory, overwrite, COMPOSITION_FILE) as temporary:
        for name in formats:
            _write_model(model, manifest, name, temporary)
        _write_spec(planned.spec, temporary)
        manifest = dataclasses.replace(manifest, files=read_files(temporary))
        write_composition_manifest(temporary, manifest)


def load_composition(directory: str | Path) -> keras.Model:
    """Loads a composed model, after the digests of its files are checked.

    Args:
        directory: Directory that `save_composition` wrote.

    Returns:
        The model, with its `class_names`.

    Raises:
        ArtifactError: If there is no composed model, or none as `.keras`.
        IntegrityError: If it is not as it was written.
    """
    directory = Path(directory)
    manifest = read_composition_manifest(directory)
    check_files(directory, manifest.files, COMPOSITION_FILE)
    if FORMATS["keras"] not in manifest.files:
        raise ArtifactError(
            f"A composed model is loaded from its '{FORMATS['keras']}'. "
            f"Received: '{directory}', which was written without one. Compose "
            "it again with `--format keras`, or load the SavedModel with "
            "TensorFlow."
        )
    model = load_keras_archive(directory / FORMATS["keras"])
    model.class_names = manifest.class_names
    return model


def class_names_of(directory: str | Path) -> tuple[str, ...]:
    """Returns the classes of a saved composed model, in output order."""
    return read_composition_manifest(directory).class_names


def _write_model(model, manifest, name, directory):
    """Writes one form of a model and checks that it answers the same."""
    path = directory / FORMATS[name]
    images = _random_images(manifest.input)
    if name == "keras":
        model.save(path)
        answers = _answer(load_keras_archive(path), images)
    else:
        export_classifier(model, manifest.class_names, path)
        answers = _served(path, images)
    expected = _answer(model, images)
    if not np.allclose(answers, expected, rtol=0, atol=TOLERANCE):
        raise CheckError(
            f"A saved model must answer as the one in memory, within "
            f"{TOLERANCE}. Received: '{path.name}' with {answers.tolist()} "
            f"instead of {expected.tolist()}. Check the model for weights "
            "that are not finite and for layers that are random at inference."
        )


def _answer(model, images):
    return keras.ops.convert_to_numpy(model(images, training=False))


def _served(path, images):
    import tensorflow as tf

    exported = tf.saved_model.load(str(path))
    return exported.serve(images)["probabilities"].numpy()


def _random_images(contract):
    low, high = contract.range
    shape = (NUM_IMAGES, *contract.shape)
    values = np.random.default_rng(0).uniform(low, high, shape)
    return keras.ops.cast(values, contract.dtype)


def _write_spec(spec, directory):
    data = spec_data(spec)
    if spec.base is not None:
        shutil.copyfile(spec.base.path, directory / WEAK_FILE)
        data["base"]["path"] = directory / WEAK_FILE
    write_spec(data, directory / SPEC_FILE)
