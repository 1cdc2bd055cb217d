"""Content identity of Keras models: which model it is, however it is saved."""

import hashlib
import json

import keras
import numpy as np

from kmod.files import data_digest

# Memory addresses, and what depends on how a model was built or compiled.
VOLATILE_KEYS = {"shared_object_id", "build_config", "compile_config"}


def content_digest(model: keras.Model) -> str:
    """Returns the digest of a model's architecture and weights.

    It is the same in every process and after saving and loading, which the
    bytes of a saved file are not.

    Args:
        model: Built Keras model.

    Returns:
        `sha256:<64 hex digits>`.
    """
    config = json.loads(model.to_json())["config"]
    return data_digest([_stable(config), weight_digests(model)])


def _stable(config):
    if isinstance(config, dict):
        return {
            key: _stable(value)
            for key, value in config.items()
            if key not in VOLATILE_KEYS
        }
    if isinstance(config, list):
        return [_stable(value) for value in config]
    return config


def weight_digests(layer: keras.layers.Layer) -> list[list]:
    """Lists data type, shape and digest of each weight of a layer or model."""
    arrays = [np.ascontiguousarray(weight.numpy()) for weight in layer.weights]
    return [
        [str(a.dtype), list(a.shape), hashlib.sha256(a.tobytes()).hexdigest()]
        for a in arrays
    ]
