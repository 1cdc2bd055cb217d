"""Reads and writes `.keras` files of nothing but built-in Keras layers.

Keras' safe mode has been got round before, so what a file names is held
against a closed list first, and only classes on it are ever looked up.
"""

import json
import sys
import zipfile
from pathlib import Path

import keras

from kmod.errors import ArtifactError

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
REFUSED_LAYERS = {
    "FlaxLayer",
    "IntegerLookup",
    "JaxLayer",
    "Lambda",
    "StringLookup",
    "TFSMLayer",
    "TextVectorization",
    "TorchModuleWrapper",
}
VALUES = {
    "__bytes__",
    "__ellipsis__",
    "__keras_tensor__",
    "__numpy__",
    "__slice__",
    "__tensor__",
}


def load_keras_archive(path: Path) -> keras.Model:
    """Loads a `.keras` file in safe mode.

    Args:
        path: File whose digest has been checked.

    Raises:
        ArtifactError: If it is not a Keras archive, or holds anything but
            built-in layers.
    """
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
    try:
        return keras.saving.load_model(path, compile=False, safe_mode=True)
    except Exception as error:  # Keras has no common class for its errors.
        raise ArtifactError(
            f"Keras {keras.__version__} can not load '{path}': {error} Use "
            "the version of Keras that wrote it, or make it again."
        ) from error


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
