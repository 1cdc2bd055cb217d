"""`.keras` files: modules and composed models as kmod wrote them, and users'.

Keras' safe mode has been got round before, so what a file of kmod names is
held against a closed list first, and only classes on it are ever looked up.
"""

import json
import sys
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras

from kmod.errors import ArtifactError
from kmod.export.savedmodel import predict_by_name

LEGACY = (".h5", ".hdf5")
MEMBERS = {"metadata.json", "config.json", "model.weights.h5"}
MAX_CONFIG_BYTES = 16 * 2**20
MODULES = {
    "keras.layers": keras.layers,
    "keras.initializers": keras.initializers,
    "keras.regularizers": keras.regularizers,
    "keras.constraints": keras.constraints,
    "keras.dtype_policies": keras.dtype_policies,
}
MODELS = {
    ("keras", "DTypePolicy"),
    ("keras", "Functional"),
    ("keras", "Sequential"),
    ("keras.src.models.functional", "Functional"),
}
# These run code, or read files, that a config names.
REFUSED_LAYERS = frozenset("""
    FlaxLayer IntegerLookup JaxLayer Lambda StringLookup TFSMLayer
    TextVectorization TorchModuleWrapper
    """.split())
VALUES = frozenset("""
    __bytes__ __ellipsis__ __keras_tensor__ __numpy__ __slice__ __tensor__
    """.split())


def write(model: keras.Model, class_names: Sequence[str], path: Path) -> None:
    """Saves a model as a Keras archive, without the names of its classes."""
    model.save(path)


def predict(path: Path, images: Any) -> dict[str, Any]:
    """Returns the answers of a written archive, by name."""
    return predict_by_name(load_keras_file(path), images)


def load_keras_file(
    path: str | Path, *, allow_custom: bool = False
) -> keras.Model:
    """Loads a model in safe mode, so that no code in the file runs.

    Args:
        path: A `.keras` file.
        allow_custom: Whether the file is one that the user brought. It may
            then hold more than built-in layers, such as registered ones, and
            may be a model in legacy HDF5, `.h5` or `.hdf5`.

    Returns:
        The model, not compiled.

    Raises:
        ArtifactError: If there is no such file, if it is of another format or
            damaged, or if it holds what it must not.
    """
    path = Path(path)
    suffixes = (".keras", *(LEGACY if allow_custom else ()))
    if path.suffix not in suffixes or not path.is_file():
        named = " or ".join(f"`{suffix}`" for suffix in suffixes)
        raise ArtifactError(
            f"A model is an existing {named} file. Received: "
            f"'{path}'{_what_it_is(path)}. Save the model with "
            "`model.save('name.keras')`."
        )
    if not allow_custom:
        _check_classes(path)
    try:
        return keras.saving.load_model(path, compile=False, safe_mode=True)
    except Exception as error:  # Keras has no common class for its errors.
        raise ArtifactError(
            f"'{path}' can not be loaded by Keras {keras.__version__} in safe "
            f"mode: {_first_line(error)} Use the version of Keras that wrote "
            "it, or save it again without Lambda layers and custom classes; "
            "of a file of weights, load them into the model and save that."
        ) from error


def _what_it_is(path):
    if not path.exists():
        return ", which does not exist"
    if (path / "saved_model.pb").is_file():
        return (
            ", a SavedModel, which holds operations and no layers to cut: save "
            "the Keras model that it was exported from"
        )
    return ", a directory" if path.is_dir() else ", a file of another kind"


def _first_line(error):
    return str(error).strip().partition("\n")[0].rstrip(".") + "."


def _check_classes(path):
    """Refuses an archive that names anything but built-in layers."""
    try:
        config = _read_config(path)
    except (OSError, RecursionError, ValueError, zipfile.BadZipFile) as error:
        raise ArtifactError(
            f"'{path}' is not a Keras archive: {error}. Make it again with "
            "`model.save('name.keras')`."
        ) from error
    refused = sorted(set(_refused_classes(config)))
    if refused:
        raise ArtifactError(
            "A module consists of built-in Keras layers that neither run code "
            f"nor read files of their own. Received: {', '.join(refused)} in "
            f"'{path}'. Replace them by built-in layers."
        )


def _read_config(path):
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
        if sorted(names) != sorted(MEMBERS):
            raise ValueError(f"it holds {names}")
        if archive.getinfo("config.json").file_size > MAX_CONFIG_BYTES:
            raise ValueError("its config is too large")
        return json.loads(archive.read("config.json"))


def _refused_classes(config):
    """Yields the classes in a config that are not on the list."""
    if isinstance(config, dict):
        if "class_name" in config and not _is_allowed(config):
            yield f"{config.get('module') or '?'}.{config['class_name']}"
        for value in config.values():
            yield from _refused_classes(value)
    elif isinstance(config, list):
        for value in config:
            yield from _refused_classes(value)


def _is_allowed(config):
    module, name = str(config.get("module") or ""), str(config["class_name"])
    if config.get("registered_name") not in (None, name):
        return False
    if not module:
        return name in VALUES
    if module in MODULES:
        kind = getattr(MODULES[module], name, None)
        return isinstance(kind, type) and name not in REFUSED_LAYERS
    return (module, name) in MODELS or _is_operation(module, name)


def _is_operation(module, name):
    """Tells whether it is one of Keras' operations, such as `x + y`."""
    kind = getattr(sys.modules.get(module), name, None)
    return (
        module.startswith("keras.src.ops.")
        and isinstance(kind, type)
        and issubclass(kind, keras.Operation)
    )
