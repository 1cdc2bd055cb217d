"""Saves composed models with the spec that made them, and loads them."""

import dataclasses
import shutil
from collections.abc import Mapping
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras

from kmod.composition.composition_plan import CompositionPlan
from kmod.composition.lock import lock_path
from kmod.composition.lock import write_lock
from kmod.composition.manifest import COMPOSITION_FILE
from kmod.composition.manifest import list_composition
from kmod.composition.manifest import manifest_of
from kmod.composition.manifest import read_composition_manifest
from kmod.composition.manifest import write_composition_manifest
from kmod.composition.model_card import model_card
from kmod.composition.parts import build_parts
from kmod.composition.parts import total_sizes
from kmod.errors import ArtifactError
from kmod.export.images import comparison_images
from kmod.export.write import FORMS
from kmod.export.write import write_form
from kmod.files import atomic_directory
from kmod.files import check_files
from kmod.files import read_files
from kmod.modules.keras_archive import load_keras_archive
from kmod.modules.plain_yaml import to_plain
from kmod.spec.writer import spec_data
from kmod.spec.writer import write_spec

SPEC_FILE = "spec.yaml"
WEAK_FILE = "weak.keras"
CARD_FILE = "README.md"
DEFAULT_FORMATS = ("savedmodel", "keras")
KERAS_FILE = FORMS["keras"].path


def save_composition(
    model: keras.Model,
    planned: CompositionPlan,
    directory: str | Path,
    *,
    formats: Sequence[str] = DEFAULT_FORMATS,
    metrics: Mapping[str, Any] | None = None,
    overwrite: bool = False,
) -> None:
    """Saves a composed model, all of it or, on failure, nothing.

    Beside the model lie the spec (`spec.yaml`, its paths valid from there; of
    a patch spec the weak model, too), its lock, the manifest
    `composition.yaml` and the model card `README.md`.

    Args:
        model: What `compose` built.
        planned: The plan it was built from.
        directory: Directory to make.
        formats: `"savedmodel"`, `"keras"`, `"litert"` and `"onnx"`, any of
            them. Only a directory with the second can be loaded by
            `load_composition`.
        metrics: Figures on data, for the manifest; those that `run_checks`
            measured as `checks`.
        overwrite: Whether a composed model may be replaced that nobody
            changed.

    Raises:
        UsageError: If `directory` can not be written, or one of the formats.
        CheckError: If the saved model answers other than `model`.
    """
    manifest = manifest_of(
        planned,
        total_sizes([model]),
        total_sizes(build_parts(planned).values()),
        metrics or {},
    )
    images = comparison_images(manifest.input)
    with atomic_directory(directory, overwrite, list_composition) as temporary:
        for name in formats:
            path = temporary / FORMS[name].path
            write_form(model, manifest.class_names, name, path, images)
        _write_spec(planned, temporary)
        card = model_card(to_plain(manifest), formats)
        (temporary / CARD_FILE).write_text(card, encoding="utf-8")
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
    if KERAS_FILE not in manifest.files:
        raise ArtifactError(
            f"A composed model is loaded from its '{KERAS_FILE}'. "
            f"Received: '{directory}', which was written without one. Compose "
            "it again with `--format keras`, or load the SavedModel with "
            "TensorFlow."
        )
    model = load_keras_archive(directory / KERAS_FILE)
    model.class_names = manifest.class_names
    return model


def _write_spec(planned, directory):
    data = spec_data(planned.spec)
    if planned.spec.base is not None:
        shutil.copyfile(planned.spec.base.path, directory / WEAK_FILE)
        data["base"]["path"] = directory / WEAK_FILE
    write_spec(data, directory / SPEC_FILE)
    write_lock(planned, lock_path(directory / SPEC_FILE))
