"""Which rule goes with which layer class, written out."""

import keras
from keras import layers

from kmod.errors import UsageError
from kmod.graph.calls import Call
from kmod.graph.rules.base import LayerRule
from kmod.graph.rules.base import LookupRule
from kmod.graph.rules.base import PinningRule
from kmod.graph.rules.joins import ConcatenateRule
from kmod.graph.rules.joins import ElementwiseRule
from kmod.graph.rules.joins import SplitRule
from kmod.graph.rules.kernels import DepthwiseRule
from kmod.graph.rules.kernels import KernelRule
from kmod.graph.rules.kernels import SeparableRule
from kmod.graph.rules.per_channel import ActivationRule
from kmod.graph.rules.per_channel import BatchNormRule
from kmod.graph.rules.per_channel import PassThrough
from kmod.graph.rules.per_channel import PReluRule
from kmod.graph.rules.per_channel import ScaleRule
from kmod.graph.rules.per_channel import SpatialRule
from kmod.graph.rules.reshaping import GlobalPoolingRule
from kmod.graph.rules.reshaping import ReshapeRule
from kmod.graph.rules.reshaping import flatten
from kmod.graph.rules.reshaping import permute
from kmod.graph.rules.reshaping import repeat_vector
from kmod.graph.rules.reshaping import reshape


def _named(rule, *names):
    """Maps the layer classes of these names, where Keras has them."""
    return {
        getattr(layers, name): rule for name in names if hasattr(layers, name)
    }


def _per_dimension(rule, *names):
    """Maps the 1D, 2D and 3D variants of layer classes."""
    return _named(rule, *(f"{name}{d}D" for name in names for d in (1, 2, 3)))


LAYER_RULES: dict[type, LayerRule] = {
    **_per_dimension(KernelRule("filters"), "Conv"),
    **_named(
        KernelRule("filters", in_axis=-1, out_axis=-2),
        "Conv1DTranspose",
        "Conv2DTranspose",
        "Conv3DTranspose",
    ),
    layers.Dense: KernelRule("units"),
    **_per_dimension(SeparableRule(), "SeparableConv"),
    **_per_dimension(DepthwiseRule(), "DepthwiseConv"),
    layers.BatchNormalization: BatchNormRule(),
    layers.PReLU: PReluRule(),
    layers.Activation: ActivationRule(),
    layers.Rescaling: ScaleRule(),
    **_named(
        PassThrough(),
        "ReLU",
        "LeakyReLU",
        "ELU",
        "Dropout",
        "SpatialDropout1D",
        "SpatialDropout2D",
        "SpatialDropout3D",
        "GaussianNoise",
        "GaussianDropout",
        "AlphaDropout",
        "ActivityRegularization",
        "Identity",
    ),
    **_per_dimension(
        SpatialRule(),
        "MaxPooling",
        "AveragePooling",
        "AdaptiveMaxPooling",
        "AdaptiveAveragePooling",
        "ZeroPadding",
        "Cropping",
        "UpSampling",
    ),
    layers.Resizing: SpatialRule(),
    layers.CenterCrop: SpatialRule(),
    **_per_dimension(
        GlobalPoolingRule(), "GlobalAveragePooling", "GlobalMaxPooling"
    ),
    layers.Flatten: ReshapeRule(flatten),
    layers.Reshape: ReshapeRule(reshape),
    layers.Permute: ReshapeRule(permute),
    layers.RepeatVector: ReshapeRule(repeat_vector),
    **_named(
        ElementwiseRule(),
        "Add",
        "Subtract",
        "Multiply",
        "Average",
        "Maximum",
        "Minimum",
    ),
    layers.Concatenate: ConcatenateRule(),
    layers.IntegerLookup: LookupRule("it looks values up"),
    **_named(
        PinningRule("it normalises over channels"),
        "LayerNormalization",
        "GroupNormalization",
        "RMSNormalization",
        "UnitNormalization",
        "Softmax",
    ),
}

# Keras operations called on symbolic tensors, such as `a + b`, by class name.
OPERATION_RULES: dict[str, LayerRule] = {
    **dict.fromkeys(
        ["Add", "Subtract", "Multiply", "Divide", "TrueDivide"]
        + ["Maximum", "Minimum"],
        ElementwiseRule(),
    ),
    **dict.fromkeys(
        ["Relu", "Relu6", "Sigmoid", "Silu", "Tanh", "Gelu", "Elu", "Selu"]
        + ["LeakyRelu", "HardSigmoid", "HardSilu", "Softplus", "Softsign"]
        + ["Abs", "Absolute", "Negative", "Square", "Sqrt", "Exp", "Cast"],
        PassThrough(),
    ),
    "Concatenate": ConcatenateRule(),
    "Split": SplitRule(),
}

_registered: dict[type, LayerRule] = {}


def register_channel_rule(layer_class: type, rule: LayerRule) -> None:
    """Tells kmod how channels flow through a layer class of your own.

    Without a rule a layer pins the kernels in front of it: the model still
    works, but those kernels can not be removed.

    Args:
        layer_class: Subclass of `keras.layers.Layer`. Subclasses of it need
            rules of their own.
        rule: A `LayerRule`, such as `PassThrough(weights={0: -1})` for a layer
            whose first weight has one entry for each channel.

    Raises:
        UsageError: If the arguments are not a layer class and a rule.
    """
    if not (
        isinstance(layer_class, type)
        and issubclass(layer_class, keras.layers.Layer)
    ):
        raise UsageError(
            "`layer_class` must be a subclass of `keras.layers.Layer`. "
            f"Received: layer_class={layer_class!r}"
        )
    if not isinstance(rule, LayerRule):
        raise UsageError(
            "`rule` must be a `kmod.graph.LayerRule` instance, such as "
            f"`PassThrough()`. Received: rule={rule!r}"
        )
    _registered[layer_class] = rule


def rule_for(call: Call) -> LayerRule:
    """Returns the rule of the layer or operation that `call` uses."""
    kind = type(call.operation)
    rule = _registered.get(kind) or LAYER_RULES.get(kind)
    if rule is None and kind.__module__.startswith("keras.src.ops."):
        rule = OPERATION_RULES.get(kind.__name__)
    return rule or PinningRule(f"kmod has no rule for {kind.__name__} layers")
