"""Builds the networks of the zoo by name."""

import keras

from kmod.errors import UsageError
from kmod.zoo.incecnn import incecnn
from kmod.zoo.rescnn import rescnn
from kmod.zoo.simcnn import simcnn

ARCHITECTURES = {"simcnn": simcnn, "rescnn": rescnn, "incecnn": incecnn}


def build(
    name: str,
    input_shape: tuple[int, int, int],
    num_classes: int,
    small: bool = True,
    width: float = 1.0,
) -> keras.Model:
    """Builds an untrained classifier of the GradSplitter paper.

    The model takes images with values from 0 to 255 and returns
    probabilities; its layer `logits` stands in front of them. Images too
    small for the network get a black border inside it.

    Args:
        name: `"simcnn"`, `"rescnn"` or `"incecnn"`.
        input_shape: `(height, width, channels)` of the images.
        num_classes: Integer, at least 2.
        small: Whether to build the small twin, which has the same topology
            and trains in minutes on a CPU. Defaults to `True`.
        width: Positive number that multiplies the kernels of every layer.

    Returns:
        A Functional model, `(batch, *input_shape)` to `(batch, num_classes)`.

    Raises:
        UsageError: If an argument is out of range.

    Reference:

    - [Reusing CNN models through modularization and
      composition, 2023](https://arxiv.org/abs/2311.04438)
    """
    if name not in ARCHITECTURES:
        raise UsageError(
            f"`name` must be one of {sorted(ARCHITECTURES)}. "
            f"Received: name={name!r}. Any other Keras CNN can be taken apart "
            "as well, without the zoo."
        )
    if len(input_shape) != 3 or not all(input_shape):
        raise UsageError(
            "`input_shape` must be (height, width, channels), each known. "
            f"Received: input_shape={input_shape}. Leave the batch axis out."
        )
    if num_classes < 2 or width <= 0:
        raise UsageError(
            "`num_classes` must be at least 2 and `width` positive. "
            f"Received: num_classes={num_classes}, width={width}."
        )
    return ARCHITECTURES[name](input_shape, num_classes, small, width)
