"""Which rule goes with which layer class, written out."""

from typing import Any

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
from kmod.graph.rules.kernels import CONVOLUTIONS
from kmod.graph.rules.kernels import DEPTHWISE
from kmod.graph.rules.kernels import SEPARABLE
from kmod.graph.rules.kernels import TRANSPOSED
from kmod.graph.rules.kernels import DepthwiseRule
from kmod.graph.rules.kernels import KernelRule
from kmod.graph.rules.kernels import SeparableRule
from kmod.graph.rules.normalisation import BatchNormRule
from kmod.graph.rules.normalisation import ChannelNormRule
from kmod.graph.rules.normalisation import GroupNormRule
from kmod.graph.rules.per_channel import TRAINING_ONLY
from kmod.graph.rules.per_channel import ActivationRule
from kmod.graph.rules.per_channel import LayerScaleRule
from kmod.graph.rules.per_channel import PassThrough
from kmod.graph.rules.per_channel import PReluRule
from kmod.graph.rules.per_channel import RescalingRule
from kmod.graph.rules.per_channel import SpatialRule
from kmod.graph.rules.reshaping import GlobalPoolingRule
from kmod.graph.rules.reshaping import PadRule
from kmod.graph.rules.reshaping import ReshapeRule
from kmod.graph.rules.reshaping import flatten
from kmod.graph.rules.reshaping import permute
from kmod.graph.rules.reshaping import repeat_vector
from kmod.graph.rules.reshaping import reshape


def _all(rule, names):
    """Maps layer classes to one rule; `*` stands for 1D, 2D and 3D."""
    sizes = ("1D", "2D", "3D")
    full = [name.replace("*", d) for name in names.split() for d in sizes]
    return {getattr(layers, name): rule for name in full}


LAYER_RULES: dict[type, LayerRule] = {
    **dict.fromkeys(CONVOLUTIONS, KernelRule("filters")),
    **dict.fromkeys(TRANSPOSED, KernelRule("filters", in_axis=-1, out_axis=-2)),
    layers.Dense: KernelRule("units"),
    **dict.fromkeys(SEPARABLE, SeparableRule()),
    **dict.fromkeys(DEPTHWISE, DepthwiseRule()),
    layers.BatchNormalization: BatchNormRule(),
    layers.GroupNormalization: GroupNormRule(),
    **_all(
        ChannelNormRule(),
        "LayerNormalization RMSNormalization UnitNormalization",
    ),
    layers.PReLU: PReluRule(),
    layers.Activation: ActivationRule(),
    layers.Rescaling: RescalingRule(),
    **_all(PassThrough(), "ReLU LeakyReLU ELU Identity"),
    **dict.fromkeys(TRAINING_ONLY, PassThrough()),
    **_all(
        SpatialRule(),
        "MaxPooling* AveragePooling* AdaptiveMaxPooling* "
        "AdaptiveAveragePooling* ZeroPadding* Cropping* UpSampling* "
        "Resizing CenterCrop",
    ),
    **_all(GlobalPoolingRule(), "GlobalAveragePooling* GlobalMaxPooling*"),
    layers.Flatten: ReshapeRule(flatten),
    layers.Reshape: ReshapeRule(reshape),
    layers.Permute: ReshapeRule(permute),
    layers.RepeatVector: ReshapeRule(repeat_vector),
    **_all(ElementwiseRule(), "Add Subtract Multiply Average Maximum Minimum"),
    layers.Concatenate: ConcatenateRule(),
    layers.IntegerLookup: LookupRule("it looks values up"),
    layers.Softmax: PinningRule("it normalises over channels"),
    **_all(
        PinningRule("attention compares positions by all their channels"),
        "MultiHeadAttention GroupQueryAttention Attention AdditiveAttention",
    ),
}

# Layers of `keras.applications` that Keras does not export, by class name.
APPLICATION_RULES: dict[str, LayerRule] = {"LayerScale": LayerScaleRule()}

# Keras operations called on symbolic tensors, such as `a + b`, by class name.
OPERATION_RULES: dict[str, LayerRule] = {
    **dict.fromkeys(
        "Add Subtract Multiply Divide TrueDivide Maximum Minimum".split(),
        ElementwiseRule(),
    ),
    **dict.fromkeys(
        "Relu Relu6 Sigmoid Silu Tanh Gelu Elu Selu LeakyRelu HardSigmoid "
        "HardSilu Softplus Softsign Abs Absolute Negative Square Sqrt Exp "
        "Cast".split(),
        PassThrough(),
    ),
    "Concatenate": ConcatenateRule(),
    "Split": SplitRule(),
    "Pad": PadRule(),
}

NO_RULE = "kmod has no rule for"

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


def has_rule(operation: Any) -> bool:
    """Tells whether kmod knows how channels flow through an operation."""
    return _rule_of(operation) is not None


def rule_for(call: Call) -> LayerRule:
    """Returns the rule of the layer or operation that `call` uses."""
    rule = _rule_of(call.operation)
    name = type(call.operation).__name__
    return rule or PinningRule(f"{NO_RULE} {name} layers")


def _rule_of(operation):
    kind = type(operation)
    rule = _registered.get(kind) or LAYER_RULES.get(kind)
    if rule is None and kind.__module__.startswith("keras.src.ops."):
        rule = OPERATION_RULES.get(kind.__name__)
    if rule is None and kind.__module__.startswith("keras.src.applications."):
        rule = APPLICATION_RULES.get(kind.__name__)
    return rule
