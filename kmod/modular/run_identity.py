"""What makes a run the same run: its source, its data and its arguments."""

import hashlib
import importlib.metadata
from collections.abc import Iterable
from typing import Any

import keras
import numpy as np

from kmod import __version__
from kmod.data.batches import count_steps
from kmod.data.disk_arrays import update_digest
from kmod.data.image_data import LabelledImages
from kmod.graph.content import content_digest
from kmod.modular.modular_model import ModularModel

PACKAGES = ("keras", "numpy", "tensorflow")


def run_identity(
    modular: ModularModel,
    train,
    validation,
    negatives=None,
    packages=(),
    steps_per_epoch=None,
    **arguments,
) -> dict[str, Any]:
    """Collects everything that decides how a run ends.

    Arrays count with all their bytes. Batched training data are not read for
    this: their type or element specification and number of batches stand for
    them.

    Args:
        modular: Modular model, before training.
        train: `(images, labels)` or batched data; `None` if it is not used.
        validation: `(images, labels)`.
        negatives: `UnlabelledImages`. Defaults to none, which is then no fact,
            so that a run begun without knowing of them is the same.
        packages: Names of packages that take part beside Keras.
        steps_per_epoch: Integer, batches to an epoch. Defaults to all.
        **arguments: JSON data, the arguments of the method.

    Returns:
        JSON data by name, in words that a message can use.
    """
    if negatives is not None:
        arguments["negatives"] = array_digest(negatives.images)
    return {
        "source model": content_digest(modular.flat_source),
        "training data": _data_identity(train, steps_per_epoch),
        "validation data": array_digest(*validation),
        "class names": list(modular.class_names),
        "data type": modular.dtype_policy.name,
        **environment(packages),
        **arguments,
    }


def environment(packages: Iterable[str] = ()) -> dict[str, Any]:
    """Collects what else decides how a run ends: the software that it is of.

    Args:
        packages: Names of packages that take part beside Keras.

    Returns:
        JSON data by name.
    """
    names = {*PACKAGES, keras.backend.backend(), *packages}
    versions = {name: _version(name) for name in sorted(names)}
    return {
        "backend": keras.backend.backend(),
        "versions": {"kmod": __version__, **versions},
    }


def array_digest(*arrays: np.ndarray) -> str:
    """Returns the digest of arrays, `sha256:<64 hex digits>`."""
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(f"{array.dtype.str}{array.shape}".encode())
        update_digest(digest, array)
    return f"sha256:{digest.hexdigest()}"


def _data_identity(data, steps):
    if data is None:
        return None
    if isinstance(data, LabelledImages):
        data = data.images, data.labels
    if isinstance(data, tuple):
        digest = array_digest(*map(np.asanyarray, data))
        return digest if steps is None else f"{steps} batches of {digest}"
    kind = str(getattr(data, "element_spec", type(data).__name__))
    steps = count_steps({"steps_per_epoch": steps, "x": data})
    return f"{steps} batches of {kind}"


def _version(package):
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
