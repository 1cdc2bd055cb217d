"""Cuts one class's module out of a modular model."""

import keras
import numpy as np
from keras import ops

from kmod.graph import rebuild
from kmod.graph.channels import PINNED
from kmod.graph.rules.table import rule_for
from kmod.modular.modular_model import ModularModel
from kmod.modular.placement import SCALED_AND_SHIFTED
from kmod.modules.class_module import CALIBRATION_LAYER
from kmod.modules.class_module import SCORE_LAYER


def cut_module(
    modular: ModularModel, class_index: int, dtype: str = "float32"
) -> keras.Model:
    """Builds the physically smaller model of one class.

    Kernels that the class's mask drops are gone from every layer; the class's
    scales, shifts and gains are folded into the weights; head, calibration and
    a sigmoid follow the logits.

    Args:
        modular: Modular model, trained or with its masks set.
        class_index: Integer, the class.
        dtype: Data type of the network; `"float64"` compares without rounding.
            Head, calibration and score are float32 in any case.

    Returns:
        Functional model of plain Keras layers, images to `(batch, 1)`: the
        probability that an image shows the class.
    """
    mask = modular.kernel_masks[class_index]
    name = f"module_{class_index}"
    network = rebuild(modular.graph, mask, dtype, name)
    _fold_gains(network, modular, class_index, mask)
    _fold_scales(network, modular, class_index, mask)
    raw = network.output
    for layer in modular.heads.layers_for(class_index):
        raw = layer(raw)
    scale, shift = ops.convert_to_numpy(modular.calibration)[class_index]
    return build_module(network.input, raw, scale, shift, name)


def build_module(
    image: keras.KerasTensor,
    raw: keras.KerasTensor,
    scale: float,
    shift: float,
    name: str,
) -> keras.Model:
    """Puts calibration and sigmoid behind a raw score `(batch, 1)`."""
    calibration = keras.layers.Dense(1, name=CALIBRATION_LAYER, dtype="float32")
    log_odds = calibration(raw)
    calibration.set_weights([np.array([[scale]]), np.array([shift])])
    score = keras.layers.Activation(
        "sigmoid", name=SCORE_LAYER, dtype="float32"
    )
    return keras.Model(image, score(log_odds), name=name)


def log_odds_model(module: keras.Model) -> keras.Model:
    """Returns the part of a module in front of its sigmoid.

    Args:
        module: Model that `cut_module` made.

    Returns:
        Model that shares the module's layers, images to `(batch, 1)` log-odds.
    """
    return keras.Model(module.input, module.get_layer(CALIBRATION_LAYER).output)


def features_model(module: keras.Model) -> keras.Model:
    """Returns the part of a module in front of its network's last layer.

    Args:
        module: Model that `cut_module` or `build_module` made.

    Returns:
        Model that shares the module's layers, images to `(batch, features)`;
        to the network's logits, where no Dense layer answers with them.
    """
    names = [layer.name for layer in module.layers]
    head = "head_relu" if "head_relu" in names else "head"
    logits = module.get_layer(head).input
    last = module.layers[names.index(head) - 1]
    if not isinstance(last, keras.layers.Dense) or len(last.input.shape) > 2:
        return keras.Model(module.input, logits)
    # Of one score two logits are made behind its layer.
    is_last = last.output is logits or last.units == 1
    return keras.Model(module.input, last.input if is_last else logits)


def _fold_scales(network, modular, class_index, mask):
    """Multiplies a class's scales and shifts into the cut layers' weights."""
    for call in modular.graph.trace.calls:
        adapter = modular.network.adapters.get(call.name)
        if adapter is None:
            continue
        kept = _kept(modular, call.outputs[0], mask)
        scale, shift = (
            ops.convert_to_numpy(table)[class_index, kept]
            for table in (adapter.scale, adapter.shift)
        )
        layer = network.get_layer(call.name)
        layer.set_weights(_scaled(layer, scale, shift))


def _fold_gains(network, modular, class_index, mask):
    """Multiplies a class's gains into the weights of the layers that read."""
    for call, wrapper in modular.network.wrapped:
        if wrapper.gain is None:
            continue
        kept = _kept(modular, call.inputs[0], mask)
        gain = ops.convert_to_numpy(wrapper.gain)[class_index, kept]
        layer = network.get_layer(call.name)
        kernel, *others = layer.get_weights()
        axes = np.ones(kernel.ndim, int)
        axes[rule_for(call).in_axis] = len(gain)
        layer.set_weights([kernel * gain.reshape(axes), *others])


def _kept(modular, ref, mask):
    """Returns the places of a tensor's channels that the mask keeps."""
    ids = modular.graph.map_of(ref).ids
    return np.flatnonzero((ids == PINNED) | (mask[ids] > 0))


def _scaled(layer, scale, shift):
    if isinstance(layer, SCALED_AND_SHIFTED):
        gamma, beta, *statistics = layer.get_weights()
        return [gamma * scale, beta * scale + shift, *statistics]
    *depthwise, kernel, bias = layer.get_weights()
    if "Transpose" in type(layer).__name__:
        kernel = kernel * scale[:, None]
    else:
        kernel = kernel * scale
    return [*depthwise, kernel, bias * scale + shift]
