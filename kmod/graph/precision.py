"""Models that compute in half or double precision, and the same in single."""

import keras

from kmod.errors import UnsupportedModelError
from kmod.errors import reason_of
from kmod.graph.internals import parts_of

FLOAT32 = "float32"


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
