"""Counts the steps of a call to `fit` before it starts."""

import math
from collections.abc import Mapping
from typing import Any

import keras

from kmod.errors import UsageError


def count_steps(arguments: Mapping[str, Any]) -> int:
    """Returns the number of training steps of one epoch.

    Args:
        arguments: Arguments of `keras.Model.fit`, defaults included.

    Raises:
        UsageError: If the data do not tell their length.
    """
    if arguments["steps_per_epoch"]:
        return arguments["steps_per_epoch"]
    x = arguments["x"]
    if isinstance(x, keras.utils.PyDataset):
        return x.num_batches
    if isinstance(x, dict):
        x = next(iter(x.values()))
    if hasattr(x, "cardinality"):
        steps = int(x.cardinality())
    elif hasattr(x, "shape"):
        images = int(len(x) * (1 - (arguments["validation_split"] or 0)))
        steps = math.ceil(images / (arguments["batch_size"] or 32))
    else:
        steps = len(x) if hasattr(x, "__len__") else -1
    if steps < 1:
        raise UsageError(
            "`fit` must know how many steps an epoch has, to spread the "
            "removal of kernels over them. Received: data of unknown or "
            f"endless length, of type {type(x).__name__}. Give "
            "`steps_per_epoch`."
        )
    return steps
