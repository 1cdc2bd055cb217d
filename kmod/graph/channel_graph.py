"""The channel graph of a source model."""

import dataclasses
from collections.abc import Sequence

import keras
import numpy as np
from keras import ops

from kmod.errors import UnsupportedModelError
from kmod.graph.calls import Call
from kmod.graph.calls import TensorRef
from kmod.graph.calls import Trace
from kmod.graph.channels import PINNED
from kmod.graph.channels import ChannelMap
from kmod.graph.channels import ChannelSpace
from kmod.graph.channels import Pin
from kmod.graph.internals import made_by
from kmod.graph.kernels import KernelTable
from kmod.graph.rules.base import set_state
from kmod.graph.rules.kernels import KernelRule
from kmod.graph.rules.table import NO_RULE
from kmod.graph.rules.table import rule_for
from kmod.graph.sources import functional_of
from kmod.graph.trace import trace

NUM_NAMED = 3  # Layers that an error names.
OUTPUT_ACTIVATIONS = ("softmax", "sigmoid", "log_softmax")
_OUTPUT_OPERATIONS = {
    "Softmax": "softmax",
    "Sigmoid": "sigmoid",
    "LogSoftmax": "log_softmax",
}


@dataclasses.dataclass(frozen=True)
class PinCost:
    """What layers of one kind cost: kernels that can not be removed.

    Attributes:
        kind: Class of the layers, such as `"MultiHeadAttention"`.
        reason: Why they pin, in words.
        layers: Their names.
        kernels: Number of kernels that they pin, with all that are tied to
            these. What two kinds pin counts for both.
    """

    kind: str
    reason: str
    layers: tuple[str, ...]
    kernels: int


@dataclasses.dataclass(frozen=True)
class ChannelGraph:
    """Which tensors of a CNN carry which kernels' channels.

    Attributes:
        trace: The model as a list of calls, up to its logits.
        maps: For each tensor index its `ChannelMap`, with one kernel id
            standing for each group; tensors without removable channels are
            not listed.
        kernels: The table of all kernels.
        pins: Why kernels can not be removed.
        num_classes: Number of logits.
        activations: Names of the activations that turn logits into the
            model's answer, in order; they are left out of the graph.
        is_one_score: Whether the model answers one score of two classes.
    """

    trace: Trace
    maps: dict[int, ChannelMap]
    kernels: KernelTable
    pins: tuple[Pin, ...]
    num_classes: int
    activations: tuple[str, ...] = ()
    is_one_score: bool = False

    def map_of(self, ref: TensorRef) -> ChannelMap | None:
        return self.maps.get(ref.index)

    def groups_of(self, ref: TensorRef) -> np.ndarray | None:
        """Returns the group behind each channel, -1 where it is fixed."""
        channels = self.maps.get(ref.index)
        if channels is None:
            return None
        groups = self.kernels.groups[np.maximum(channels.ids, 0)]
        return np.where(channels.ids == PINNED, PINNED, groups)

    def pins_in_words(self) -> str:
        """Says which layers pin most kernels, and how that may be mended.

        Returns:
            Sentences that end with a way out; empty if no layer pins any.
        """
        worst = self._pinned(lambda pin: (pin.layer, pin.reason))
        parts = [
            f"layer {layer!r} pins {pinned.sum()}, because {reason}"
            for (layer, reason), pinned in worst[:NUM_NAMED]
        ]
        if not parts:
            return ""
        text = f"Of {len(self.kernels)} kernels, {'; '.join(parts)}."
        if any(reason.startswith(NO_RULE) for (_, reason), _ in worst):
            text += (
                " Teach kmod a layer of your own with "
                "`kmod.register_channel_rule`."
            )
        return f"{text} `kmod inspect` lists all."

    def pin_costs(self) -> list[PinCost]:
        """Lists what each kind of layer pins, most kernels first."""
        kinds = {c.name: type(c.operation).__name__ for c in self.trace.calls}
        return [
            PinCost(
                kind,
                reason,
                tuple(
                    dict.fromkeys(
                        pin.layer
                        for pin in self.pins
                        if (kinds[pin.layer], pin.reason) == (kind, reason)
                    )
                ),
                int(pinned.sum()),
            )
            for (kind, reason), pinned in self._pinned(
                lambda pin: (kinds[pin.layer], pin.reason)
            )
        ]

    def _pinned(self, key):
        """Unites what pins of one key pin; returns the most kernels first."""
        found = {}
        for pin in self.pins:
            groups = self.kernels.groups[pin.kernels]
            pinned = np.isin(self.kernels.groups, groups)
            found[key(pin)] = pinned | found.get(key(pin), False)
        return sorted(found.items(), key=lambda each: -each[1].sum())


def channel_graph(
    model: keras.Model,
    output: str | None = None,
    input_shape: Sequence[int] | None = None,
) -> ChannelGraph:
    """Traces a classifier and works out what can be removed from it.

    Args:
        model: Built Functional or Sequential classifier, images to
            `(batch, num_classes)` logits or probabilities, or to one score
            `(batch, 1)` of the second of two classes.
        output: Name of the output to take. Defaults to the only one.
        input_shape: Shape of the images where the model leaves sizes open,
            such as `(96, 96, 3)`. Defaults to leaving them open; what
            reshapes such images pins kernels.

    Returns:
        The `ChannelGraph` up to the logits: a final softmax or sigmoid is
        left out of it. One score `z` becomes the logits `[0, z]`, whose
        softmax is what its sigmoid was.

    Raises:
        UnsupportedModelError: If the model's graph can not be read or its
            output is not one score for each class.
        UsageError: If `output` or `input_shape` do not fit it.
    """
    if output is not None:
        model = functional_of(model, output)
    traced, activations = _up_to_logits(trace(model, input_shape))
    width = traced.output.shape[-1] or 0
    is_one_score = traced.output.rank == 2 and width == 1
    if is_one_score and set(activations) <= {"sigmoid"}:
        traced = _as_two_logits(traced)
    elif traced.output.rank != 2 or width < 2:
        raise UnsupportedModelError(
            "A source model answers one score for each of two or more "
            "classes, `(batch, num_classes)`, or one sigmoid or logit for two "
            f"classes, `(batch, 1)`. Received: {model.name!r} with output "
            f"shape {traced.output.shape}{_with(activations)}. Give it global "
            "pooling or Flatten and a Dense layer."
        )
    space = ChannelSpace()
    for call in traced.calls:
        for ref, channels in zip(
            call.outputs, rule_for(call).flow(call, space), strict=True
        ):
            space.maps[ref.index] = channels
    space.pin(space.map_of(traced.output), "output", "it is the output")
    graph = _finish(traced, space)
    return dataclasses.replace(
        graph, activations=activations, is_one_score=is_one_score
    )


def score_threshold(model: keras.Model) -> float:
    """Returns what a model's only score is above for the second class.

    Args:
        model: Classifier, images to `(batch, 1)`.

    Raises:
        UnsupportedModelError: If its graph can not be read.
    """
    return 0.5 if channel_graph(model).activations else 0.0


def _with(activations):
    return f" of {', '.join(activations)}" if activations else ""


def _up_to_logits(traced):
    """Leaves a final softmax or sigmoid out of a trace.

    Returns:
        The trace and the names of the activations that were left out.
    """
    calls = list(traced.calls)
    output = traced.output
    names = []
    while calls and (name := _output_activation(calls[-1].operation)):
        names.insert(0, name)
        output = calls.pop().inputs[0]
    for index, call in enumerate(calls):
        if output in call.outputs and (name := _fused_activation(call)):
            names.insert(0, name)
            calls[index] = _without_activation(call)
    traced = dataclasses.replace(traced, output=output, calls=tuple(calls))
    return traced, tuple(names)


def _without_activation(call):
    """Returns the call of a copy of its layer that answers logits."""
    layer, weights = rule_for(call).cut(call, [None], [None])
    config = {**layer.get_config(), "activation": "linear"}
    layer = type(layer).from_config(config)
    layer.build(call.inputs[0].shape)
    set_state(layer, weights)
    return dataclasses.replace(call, operation=layer)


def _as_two_logits(traced):
    """Sets a zero before a model's only score, the logit of the other class."""
    score = traced.output
    index = 1 + max(
        [
            traced.input.index,
            *(x.index for c in traced.calls for x in c.outputs),
        ]
    )
    logits = TensorRef(index, (score.shape[0], 2))
    name = traced.free_name("two_logits")
    padded = ops.pad(keras.KerasTensor(score.shape), [[0, 0], [1, 0]])
    pad = made_by(padded)
    call = Call(name, pad, (score,), {}, (score,), (logits,))
    return dataclasses.replace(
        traced, output=logits, calls=(*traced.calls, call)
    )


def _output_activation(operation):
    """Returns the name of what turns logits into an answer, or `None`."""
    if isinstance(operation, keras.layers.Activation):
        return _name_of(operation.activation)
    if isinstance(operation, keras.layers.Layer):
        is_softmax = isinstance(operation, keras.layers.Softmax)
        return "softmax" if is_softmax else None
    return _OUTPUT_OPERATIONS.get(type(operation).__name__)


def _fused_activation(call):
    """Returns the softmax or sigmoid that is part of a layer with kernels."""
    if not isinstance(rule_for(call), KernelRule):
        return None
    return _name_of(call.operation.activation)


def _name_of(activation):
    name = keras.activations.serialize(activation)
    return name if name in OUTPUT_ACTIVATIONS else None


def _finish(traced, space):
    """Drops the output layer's kernels and numbers kernels and groups."""
    roots = space.roots()
    pinned = {root for pin in space.pins for root in roots[pin.kernels]}
    output = [p for p in space.pins if p.layer == "output"]
    of_output = {root for pin in output for root in roots[pin.kernels]}
    owners = {
        name: ids
        for name, ids in space.layers.items()
        if not of_output.intersection(roots[ids])
    }
    old_ids = np.concatenate([*owners.values(), np.zeros(0, int)])
    new_id = np.full(len(roots) + 1, PINNED)  # The last entry: PINNED itself.
    new_id[old_ids] = np.arange(len(old_ids))
    group_roots, groups = np.unique(roots[old_ids], return_inverse=True)
    is_free = np.array([r not in pinned for r in group_roots], bool)
    table = KernelTable(
        tuple(owners),
        np.array([len(ids) for ids in owners.values()], int),
        groups,
        is_free,
    )
    stand_in = np.full(len(roots) + 1, PINNED)
    for kernel in old_ids:
        if roots[kernel] not in pinned:
            stand_in[kernel] = new_id[roots[kernel]]
    maps = {
        index: ChannelMap(m.axis, stand_in[m.ids])
        for index, m in space.maps.items()
        if m is not None and np.any(stand_in[m.ids] != PINNED)
    }
    pins = tuple(
        dataclasses.replace(pin, kernels=new_id[pin.kernels])
        for pin in space.pins
        if pin.layer != "output" and np.all(new_id[pin.kernels] != PINNED)
    )
    return ChannelGraph(traced, maps, table, pins, int(traced.output.shape[-1]))
