"""Saves composed models with the spec that made them, and loads them."""

import dataclasses
import os
import shutil
from collections.abc import Mapping
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras

from kmod.composition.composition_manifest import COMPOSITION_FILE
from kmod.composition.composition_manifest import Composition
from kmod.composition.composition_manifest import list_composition
from kmod.composition.composition_manifest import model_card
from kmod.composition.composition_manifest import read_composition_manifest
from kmod.composition.composition_manifest import total_sizes
from kmod.composition.composition_manifest import write_composition_manifest
from kmod.composition.contract import SPEC_FILE
from kmod.composition.lock import lock_path
from kmod.composition.lock import write_lock
from kmod.composition.measures import stored_answers
from kmod.composition.scoring import PROBABILITIES_LAYER
from kmod.errors import ArtifactError
from kmod.errors import UsageError
from kmod.export.keras_file import load_keras_file
from kmod.export.write import FORMS
from kmod.export.write import write_forms
from kmod.files import atomic_directory
from kmod.files import check_files
from kmod.files import file_digest
from kmod.files import read_again_if_replaced
from kmod.files import read_files
from kmod.files.custom_layers import custom_layers_scope
from kmod.files.model_card import CARD_FILE
from kmod.modules.adaptation import comparison_images
from kmod.modules.contract import EXACTNESS
from kmod.spec.model import check_data
from kmod.spec.model import spec_data
from kmod.spec.spec_file import write_spec

WEAK_FILE = "weak.keras"
DEFAULT_FORMATS = ("savedmodel", "keras")
KERAS_FILE = FORMS["keras"].path


def save(
    model: keras.Model,
    directory: str | Path,
    *,
    formats: Sequence[str] = DEFAULT_FORMATS,
    metrics: Mapping[str, Any] | None = None,
    arguments: Mapping[str, Any] | None = None,
    overwrite: bool = False,
) -> None:
    """Saves a composed, patched, distilled or slim model, whole or not at all.

    Beside the model lie its manifest `composition.yaml`, its model card
    `README.md` and, if a spec made it, that spec (`spec.yaml`, its paths valid
    from there; of a patch spec the weak model, too) and its lock.

    Args:
        model: The model.
        directory: Directory to make.
        formats: `"savedmodel"`, `"keras"`, `"litert"` and `"onnx"`, any of
            them. Only a directory with the second can be loaded by
            `kmod.load`.
        metrics: More figures on data, by name, for manifest and card.
        arguments: JSON data about how it was made, for the manifest.
        overwrite: Whether a composed model may be replaced that nobody
            changed.

    Raises:
        UsageError: If the model is another one, or if `directory` or one of
            the formats can not be written.
        CheckError: If the saved model answers other than `model`.
        ArtifactError: If what the spec names is not there any more.
        IntegrityError: If a store was changed since.

    Example:

    >>> model = kmod.compose("specs/compose_digits.yaml")
    >>> kmod.save(model, "composed/digits")
    """
    made_from = getattr(model, "composition", None)
    if not isinstance(made_from, Composition):
        raise UsageError(
            "`model` must be what `kmod.compose`, `kmod.patch`, `kmod.distil` "
            "or `kmod.slim` returned. "
            f"Received: {getattr(model, 'name', model)!r} of type "
            f"{type(model).__name__}, which does not know what it was made "
            "from. Save another model by its own `save`, and copy the "
            "directory of one that was loaded."
        )
    unknown = [name for name in formats if name not in FORMS]
    if isinstance(formats, str) or unknown:
        raise UsageError(
            f"`formats` must be a list of some of {list(FORMS)}. Received: "
            f"formats={formats!r}. Write `formats=['keras']` for one."
        )
    manifest = dataclasses.replace(
        made_from.manifest,
        sizes=total_sizes([model]),
        metrics={**made_from.manifest.metrics, **(metrics or {})},
        arguments=arguments or {},
    )
    images = comparison_images(manifest.input)
    with atomic_directory(directory, overwrite, list_composition) as temporary:
        paths = {name: temporary / FORMS[name].path for name in formats}
        write_forms(model, manifest.class_names, paths, images)
        if made_from.plan is not None:
            _write_spec(made_from, temporary)
        manifest = dataclasses.replace(
            manifest, contract=_contract(made_from, model, directory, images)
        )
        card = model_card(manifest, formats)
        (temporary / CARD_FILE).write_text(card, encoding="utf-8")
        manifest = dataclasses.replace(manifest, files=read_files(temporary))
        write_composition_manifest(temporary, manifest)


def load(
    directory: str | Path, *, custom_layers: Sequence[type] = ()
) -> keras.Model:
    """Loads a composed model, after the digests of its files are checked.

    Args:
        directory: Directory that `kmod.save` or `kmod compose --out` wrote.
        custom_layers: Registered layer classes of your own that it may hold.

    Returns:
        The model, with its `class_names` and what is known of it, its
        `manifest`.

    Raises:
        ArtifactError: If there is no composed model, or none as `.keras`.
        IntegrityError: If it is not as it was written.

    Example:

    >>> model = kmod.load("composed/digits")
    >>> model.class_names
    ('0', '1', '7')
    """
    directory = Path(directory)
    with custom_layers_scope(custom_layers):
        return read_again_if_replaced(directory, lambda: _load(directory))


def _load(directory):
    manifest = read_composition_manifest(directory)
    check_files(directory, manifest.files, COMPOSITION_FILE)
    if KERAS_FILE not in manifest.files:
        raise ArtifactError(
            f"A composed model is loaded from its '{KERAS_FILE}'. "
            f"Received: '{directory}', which was written without one. Compose "
            "it again with `--format keras`, or load the SavedModel with "
            "TensorFlow."
        )
    model = load_keras_file(
        directory / KERAS_FILE, recorded=manifest.files[KERAS_FILE]
    )
    _check_shapes(model, manifest, directory)
    model.class_names = manifest.class_names
    model.manifest = manifest
    return model


def _check_shapes(model, manifest, directory):
    """Refuses a model that its manifest does not describe."""
    shapes = [x.shape for x in (*model.inputs, *model.outputs)]
    num_classes = len(manifest.class_names)
    scores = (None, num_classes), (None, 1 if num_classes == 2 else num_classes)
    wanted = (None, *manifest.input.shape)
    if (
        len(shapes) != 2
        or len(shapes[0]) != len(wanted)
        or any(own not in (None, size) for own, size in zip(shapes[0], wanted))
        or tuple(shapes[1]) not in scores
    ):
        raise ArtifactError(
            "A composed model takes the images that its manifest names and "
            f"answers for its classes: {wanted} -> {scores[0]}. Received: "
            f"'{directory}' with {shapes}. Make it again."
        )


def _contract(made_from, model, directory, images):
    """What the model must keep to: the checks of its spec, and its answers."""
    manifest, checks = made_from.manifest, []
    is_composition = not (manifest.student or manifest.slimmed)
    is_checked = is_composition or "checks" in manifest.metrics
    if made_from.plan is not None and is_checked:
        checks = list(map(check_data, made_from.plan.spec.checks))
    folder = Path(os.path.realpath(directory))
    for line in checks:
        if isinstance(line.get("data", {}).get("path"), Path):
            path = os.path.relpath(line["data"]["path"], folder)
            line["data"]["path"] = Path(path).as_posix()
    own = [{"metric": "exactness", "max": EXACTNESS}]
    end = model.layers[-1]
    is_replaced = end.name == PROBABILITIES_LAYER and not isinstance(
        end, keras.layers.Softmax
    )  # A module's score by the rule `minmax` may be above 1.
    if manifest.output == "probabilities" and not is_replaced:
        own.append({"metric": "score_range", "min": 0, "max": 1})
    given = {line["metric"] for line in checks}
    return {
        "checks": [line for line in own if line["metric"] not in given]
        + checks,
        "answers": stored_answers(model, images),
    }


def _write_spec(made_from, directory):
    spec = made_from.plan.spec
    data = spec_data(spec)
    if spec.base is not None:
        path = spec.base.path
        if not path.is_file() or file_digest(path) != made_from.base:
            raise ArtifactError(
                "A patched model is saved with its weak model, as it was when "
                f"they were composed. Received: '{path}', which is gone or "
                "another one. Bring it back, or compose the spec again."
            )
        copy = (directory / WEAK_FILE).with_suffix(path.suffix)
        shutil.copyfile(path, copy)
        data["base"]["path"] = copy
    write_spec(data, directory / SPEC_FILE)
    write_lock(made_from.plan, lock_path(directory / SPEC_FILE))
