"""`.keras` files: modules and composed models as kmod wrote them, and users'.

Keras' safe mode has been got round before, so what a file of kmod names is
held against a closed list first, and only classes on it are ever looked up:
Keras' own, and registered layers that the user has named.
"""

import contextlib
import functools
import io
import json
import shutil
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import h5py
import keras
import numpy as np

from kmod.errors import ArtifactError
from kmod.errors import UsageError
from kmod.errors import reason_of
from kmod.export.presets import is_preset
from kmod.export.presets import load_preset
from kmod.export.savedmodel import predict_by_name
from kmod.files import unlisted
from kmod.files.custom_layers import given_custom_layers
from kmod.files.custom_layers import import_here
from kmod.files.plain_yaml import broken
from kmod.files.plain_yaml import shorten
from kmod.graph.internals import declared_bytes
from kmod.graph.internals import remember_attributes
from kmod.graph.sources import registered_name

LEGACY = (".h5", ".hdf5")
CONFIG, WEIGHTS = "config.json", "model.weights.h5"
METADATA = "metadata.json"
MEMBERS = {METADATA, CONFIG, WEIGHTS}
MAX_CONFIG_BYTES = 16 * 2**20
# What a file may declare beside twice its size.
SLACK_BYTES = 2**26
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
    remember_attributes()
    model.save(path)


def file_bytes(model: keras.Model) -> int:
    """Returns the size of the archive that a model makes, in bytes."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.keras"
        model.save(path)
        return path.stat().st_size


def predict(path: Path, images: Any) -> dict[str, Any]:
    """Returns the answers of an archive, by name.

    Args:
        path: An archive written here, or loaded by `load_keras_file` before:
            what sizes it declares is not checked again.
        images: Images to answer.

    Raises:
        ArtifactError: If it holds what it must not, or can not be loaded.
    """
    named = named_layers()
    _check_classes(path, path, named)
    return predict_by_name(_read(path, path, named), images)


def load_keras_file(
    path: str | Path,
    *,
    recorded: Mapping[str, Any] | None = None,
    allow_custom: bool = False,
) -> keras.Model:
    """Loads a model in safe mode, so that no code in the file runs.

    Args:
        path: A `.keras` file.
        recorded: `size` and `digest` that the bytes must have that are
            loaded, whatever becomes of the file meanwhile.
        allow_custom: Whether the file is one that the user brought. It may
            then hold more than built-in layers, such as registered ones, and
            may be a model in legacy HDF5, `.h5` or `.hdf5`, or a directory
            that an `ImageClassifier` of KerasHub saved as a preset.

    Returns:
        The model, not compiled.

    Raises:
        ArtifactError: If there is no such file, if it is of another format or
            damaged, or if it holds what it must not.
        IntegrityError: If its bytes are not those recorded.
    """
    path = Path(path)
    if allow_custom and is_preset(path):
        return load_preset(path)
    suffixes = (".keras", *(LEGACY if allow_custom else ()))
    if path.suffix not in suffixes or not path.is_file():
        named = " or ".join(f"`{suffix}`" for suffix in suffixes)
        raise ArtifactError(
            f"A model is an existing {named} file. Received: "
            f"'{path}'{_what_it_is(path)}. Save the model with "
            "`model.save('name.keras')`."
        )
    if recorded is None:
        return _load(path, path, allow_custom)
    with _recorded_copy(path, recorded) as copy:
        return _load(copy, path, allow_custom)


@contextlib.contextmanager
def _recorded_copy(path, recorded) -> Iterator[Path]:
    """Gives a copy that nobody changes between its check and its use."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / path.name
        shutil.copyfile(path, copy)
        if unlisted({path.name: copy}, {path.name: recorded}):
            raise broken(path, "its digest is not the one in the manifest")
        yield copy


def _load(file, path, allow_custom):
    """Loads `file`, which errors call `path`."""
    named = named_layers()
    if not allow_custom:
        _check_classes(file, path, named)
    _check_sizes(file, path, named)
    return _read(file, path, named)


def _read(file, path, named):
    """Reads `file` in safe mode, with the user's layers of `named`."""
    remember_attributes()
    try:
        model = keras.saving.load_model(
            file, custom_objects=named, compile=False, safe_mode=True
        )
    except Exception as error:  # Keras has no common class for its errors.
        raise ArtifactError(
            f"'{path}' can not be loaded by Keras {keras.__version__} in safe "
            f"mode: {reason_of(error)}.{_others_in(file)} Use the version of "
            f"Keras that wrote it{_version_in(file)}, or save it again "
            "without Lambda layers. If it has layers of "
            "your own, register them and import their module first "
            "(`--custom-layers MODULE`). Of a file of weights, load them into "
            "the model and save that."
        ) from error
    _check_finite(model, path)
    return model


def _check_finite(model, path):
    """Refuses weights of which no answer could be right."""
    for weight in model.weights:
        values = keras.ops.convert_to_numpy(weight.value)
        if keras.backend.is_float_dtype(weight.dtype) and not np.all(
            np.isfinite(values)
        ):
            raise ArtifactError(
                "The weights of a model are finite numbers. Received: NaN or "
                f"infinity in {weight.path!r} of '{path}'. Take an earlier "
                "checkpoint, or train again with a smaller learning rate."
            )


def _version_in(file):
    """Says which Keras wrote an archive, if it is said there."""
    with contextlib.suppress(Exception), zipfile.ZipFile(file) as archive:
        written = json.loads(archive.read(METADATA))["keras_version"]
        return f", {shorten(str(written))}"
    return ""


def named_layers() -> dict[str, type]:
    """Returns the layers that the user has named, by registered name.

    Raises:
        UsageError: If one is no registered layer, or a module can not be
            imported or registers none.
    """
    kinds = []
    for given in given_custom_layers():
        kinds += _layers_of(given) if isinstance(given, str) else [given]
    return {registered_name(kind): kind for kind in kinds}


def _layers_of(module_name):
    """Imports a module; returns the layers that it, or a part, registers."""
    try:
        module = import_here(module_name)
    except ImportError as error:
        raise UsageError(
            "`custom_layers` must be a Python module that can be imported. "
            f"Received: custom_layers={module_name!r}, but {error}. Run the "
            "command where the module is, or install it."
        ) from error
    kinds = [
        kind
        for kind in keras.saving.get_custom_objects().values()
        if isinstance(kind, type)
        and issubclass(kind, keras.layers.Layer)
        and (
            f"{kind.__module__}.".startswith(f"{module_name}.")
            or kind in vars(module).values()
        )
    ]
    if not kinds:
        raise UsageError(
            "`custom_layers` must be a module with layers that are registered. "
            f"Received: custom_layers={module_name!r}, which has none. Put "
            "`@keras.saving.register_keras_serializable(package=...)` above "
            "their classes."
        )
    return kinds


def _what_it_is(path):
    if not path.exists():
        return ", which does not exist"
    if (path / "saved_model.pb").is_file():
        return (
            ", a SavedModel, which holds operations and no layers to cut: save "
            "the Keras model that it was exported from"
        )
    return ", a directory" if path.is_dir() else ", a file of another kind"


def _others_in(path):
    """Says which layers of a user's archive nobody has registered."""
    try:
        config = _read_config(path)
    except (OSError, RecursionError, ValueError, zipfile.BadZipFile):
        return ""
    known = keras.saving.get_custom_objects()
    known = {key: kind for key, kind in known.items() if isinstance(kind, type)}
    others = sorted(set(_refused_classes(config, known)))
    return others and f" Of other layers it holds {', '.join(others)}." or ""


def _check_classes(file, path, named):
    """Refuses an archive with other than built-in layers and named ones."""
    try:
        config = _read_config(file)
    except (OSError, RecursionError, ValueError, zipfile.BadZipFile) as error:
        raise ArtifactError(
            f"'{path}' is not a Keras archive: {reason_of(error)}. Make it "
            "again with "
            "`model.save('name.keras')`."
        ) from error
    refused = sorted(set(_refused_classes(config, named)))
    if not refused:
        return
    way_out = "Replace them by built-in layers."
    if any(">" in each for each in refused):
        way_out = (
            "If you know who made the file and have these layers, name them "
            "with `custom_layers`: in Python their classes, on the command "
            "line the module that registers them (`--custom-layers MODULE`). "
            "The SavedModel beside the file serves without them."
        )
    raise ArtifactError(
        "A module consists of built-in Keras layers that neither run code "
        "nor read files of their own, and of registered layers that you name. "
        f"Received: {', '.join(refused)} in '{path}'. {way_out}"
    )


def _check_sizes(file, path, named):
    """Refuses a file that would make Keras allocate what it does not hold."""
    found = None
    with contextlib.suppress(Exception):  # What can not be read, Keras names.
        sizes = _declared_sizes(file, named)
        found = next((each for each in sizes if each[1] > each[2]), None)
    if found is None:
        return
    what, size, _ = found
    raise ArtifactError(
        "A file of a Keras model holds the weights that its config declares. "
        f"Received: {what} of {size:,} bytes in '{path}', which is far "
        "smaller. It was not loaded. Save the model again."
    )


def _declared_sizes(file, named):
    """Yields what a file declares, its size and its largest size in bytes."""
    most = 2 * file.stat().st_size + SLACK_BYTES
    if zipfile.is_zipfile(file):
        with zipfile.ZipFile(file) as archive:
            items = {item.filename: item for item in archive.infolist()}
            yield "files", sum(i.file_size for i in items.values()), most
            yield "a config", items[CONFIG].file_size, MAX_CONFIG_BYTES
            # HDF5 jumps, and archives read on from their start for that.
            weights = io.BytesIO(archive.read(WEIGHTS))
            yield "arrays", _stored_bytes(weights), most
            build = functools.partial(_build, archive.read(CONFIG), named)
    else:
        yield "arrays", _stored_bytes(file), most
        build = functools.partial(_build_legacy, file, named)
    yield "layers with weights", declared_bytes(build), most


def _stored_bytes(file):
    """Returns the size of the arrays that a file of HDF5 declares."""
    sizes = []

    def note(name, item):
        if isinstance(item, h5py.Dataset):
            sizes.append(item.nbytes)

    # What can not be read, Keras names.
    with contextlib.suppress(Exception), h5py.File(file, "r") as weights:
        weights.visititems(note)
    return sum(sizes)


def _build(config, named):
    config = json.loads(config) | {"compile_config": None}
    keras.saving.deserialize_keras_object(config, named, safe_mode=True)


def _build_legacy(file, named):
    """Builds the model of a legacy file, which then has no weights to load."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder, f"config{LEGACY[0]}")
        with h5py.File(file, "r") as whole, h5py.File(copy, "w") as config:
            config.attrs.update(whole.attrs)
        keras.saving.load_model(copy, named, compile=False, safe_mode=True)


def _read_config(path):
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
        if sorted(names) != sorted(MEMBERS):
            raise ValueError(f"it holds {names}")
        if archive.getinfo(CONFIG).file_size > MAX_CONFIG_BYTES:
            raise ValueError("its config is too large")
        return json.loads(archive.read(CONFIG))


def _refused_classes(config, named):
    """Yields the classes in a config that are not on the list."""
    if isinstance(config, dict):
        if "class_name" in config and not _is_allowed(config, named):
            kind = f"{config.get('module') or '?'}.{config['class_name']}"
            registered = str(config.get("registered_name"))
            yield f"{registered} ({kind})" if ">" in registered else kind
        for value in config.values():
            yield from _refused_classes(value, named)
    elif isinstance(config, list):
        for value in config:
            yield from _refused_classes(value, named)


def _is_allowed(config, named):
    module, name = str(config.get("module") or ""), str(config["class_name"])
    registered = config.get("registered_name")
    if registered not in (None, name):
        # Keras gives some class names a meaning before it looks one up.
        kind = named.get(str(registered))
        return kind is not None and name == kind.__name__
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
