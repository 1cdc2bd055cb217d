"""What a traced model is made of: tensors and the calls between them."""

import dataclasses
from collections.abc import Callable
from typing import Any

import keras
from keras import tree

from kmod.graph.internals import takes_training


@dataclasses.dataclass(frozen=True)
class TensorRef:
    """One tensor of a traced model.

    Attributes:
        index: Integer, unique within the trace.
        shape: Static shape with the batch axis first, `None` where unknown.
    """

    index: int
    shape: tuple[int | None, ...]

    @property
    def rank(self) -> int:
        return len(self.shape)


@dataclasses.dataclass(frozen=True)
class Call:
    """One use of one layer or Keras operation.

    Attributes:
        name: Layer name, made unique over nested models (`block_conv`) and
            beside the layers that modules add, no slash in it. All calls of a
            shared layer have the same name.
        operation: The `keras.layers.Layer` or Keras operation called.
        args: Positional arguments with a `TensorRef` for each tensor.
        kwargs: Keyword arguments, likewise.
        inputs: The tensors among the arguments, in order.
        outputs: The tensors that the call returns, in order.
    """

    name: str
    operation: Any
    args: tuple
    kwargs: dict[str, Any]
    inputs: tuple[TensorRef, ...]
    outputs: tuple[TensorRef, ...]


@dataclasses.dataclass(frozen=True)
class Trace:
    """A Functional model, nested models unfolded, as a list of calls.

    Attributes:
        name: Name of the model.
        input: The tensor of images.
        input_dtype: Data type of the images.
        output: The tensor the model returns.
        calls: Every call, each after those whose results it reads.
    """

    name: str
    input: TensorRef
    input_dtype: str
    output: TensorRef
    calls: tuple[Call, ...]

    def free_name(self, name: str) -> str:
        """Returns a name that no call has: this one, or with `_` behind it."""
        taken = {call.name for call in self.calls}
        while name in taken:
            name += "_"
        return name


def arguments_on(call: Call, read: Callable[[TensorRef], Any]) -> tuple:
    """Returns the `(args, kwargs)` of a call on other tensors.

    Args:
        call: The call.
        read: Function that returns what stands for a `TensorRef`.
    """
    return tree.map_structure(
        lambda x: read(x) if isinstance(x, TensorRef) else x,
        (call.args, call.kwargs),
    )


def run_call(call: Call, read: Callable[[TensorRef], Any]) -> dict[int, Any]:
    """Calls the operation of a call on real tensors, as in use.

    Args:
        call: The call.
        read: Function that returns the tensor behind a `TensorRef`.

    Returns:
        What the operation returns, by tensor index.
    """
    args, kwargs = arguments_on(call, read)
    if isinstance(call.operation, keras.layers.Layer):
        kwargs = {**kwargs, **_inference(call.operation)}
    outputs = tree.flatten(call.operation(*args, **kwargs))
    return {ref.index: x for ref, x in zip(call.outputs, outputs)}


def _inference(layer):
    """Asks layers that tell training from use to behave as in use."""
    return {"training": False} if takes_training(layer) else {}


def run_trace(traced: Trace, images) -> dict[int, Any]:
    """Runs all calls of a traced model, as in use.

    Args:
        traced: The model.
        images: Tensor `(batch, ...)`.

    Returns:
        All tensors of the model, by tensor index.
    """
    values = {traced.input.index: images}
    for call in traced.calls:
        values |= run_call(call, lambda ref: values[ref.index])
    return values
