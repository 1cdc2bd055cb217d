"""Several devices, each of which computes a part of every batch.

With `tf.distribute.MirroredStrategy` every replica runs a step by itself, on
its own part. With `keras.distribution`, on JAX, a step is written for the whole
batch, whose parts must be alike.
"""

import contextlib
import functools
from collections.abc import Callable
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import keras
import numpy as np
from keras import ops
from keras import tree

from kmod.errors import UsageError


def draw_by_image(draw: Callable, num_images):
    """Draws for the images of this replica what one device would draw.

    Seeds are the same on every replica. If each drew for its own images
    alone, all would draw the same. So each draws for the images of all and
    takes its part.

    Args:
        draw: Function from a number of images to a tensor
            `(num_images, ...)`.
        num_images: Scalar, images of this replica.

    Returns:
        Tensor `(num_images, ...)`.
    """
    replica = _replica()
    if replica is None:
        return draw(num_images)
    drawn = draw(num_images * replica.num_replicas_in_sync)
    start = num_images * replica.replica_id_in_sync_group
    return drawn[start : start + num_images]


def over_whole_batch(function: Callable, gradient):
    """Applies a function to the gradient of the whole batch.

    A replica has the part of its own images, whose sum over all replicas is
    the gradient; what is returned is, too.

    Args:
        function: Function of a tensor.
        gradient: Tensor.
    """
    replica = _replica()
    if replica is None:
        return function(gradient)
    whole = replica.all_reduce("SUM", gradient)
    return function(whole) / replica.num_replicas_in_sync


def mean_over_images(values):
    """Returns the mean of a tensor, 0 where a replica has no image.

    The last batch of an epoch may have fewer images than there are replicas.
    """
    count = ops.cast(ops.size(values), values.dtype)
    return ops.divide_no_nan(ops.sum(values), count)


def predict_batch(model: keras.Model, images: Any) -> Any:
    """Runs a model over one batch, as `keras.Model.predict_on_batch` does.

    Of a strategy each replica gets the whole batch, and Keras puts the answers
    of all behind each other; JAX's devices need parts that are alike.

    Args:
        model: Keras model.
        images: Array `(n, ...)` or dict of arrays.

    Returns:
        Structure of arrays `(n, ...)`.
    """
    count = len(tree.flatten(images)[0])
    if spare := -count % num_shards():
        rows = np.minimum(np.arange(count + spare), count - 1)
        images = tree.map_structure(lambda array: array[rows], images)
    return tree.map_structure(
        lambda answers: answers[:count], model.predict_on_batch(images)
    )


def num_shards() -> int:
    """Returns how many parts `keras.distribution` makes of every batch."""
    if keras.backend.backend() == "tensorflow":
        return 1  # Which leaves a distribution aside.
    distribution = keras.distribution.distribution()
    return 1 if distribution is None else distribution.num_model_replicas


def check_hosts() -> None:
    """Refuses a `keras.distribution` over several processes.

    Raises:
        UsageError: If it is one.
    """
    distribution = keras.distribution.distribution()
    if distribution is not None and distribution.num_processes > 1:
        raise UsageError(
            "A modular model is built and trained by one process, with all "
            "devices of its host. Received: a `keras.distribution` over "
            f"{distribution.num_processes} processes. Take the source model "
            "apart in a program of one process; `kmod jobs` gives many models "
            "to many hosts."
        )


def check_shards(arguments: Mapping[str, Any]) -> None:
    """Refuses arrays whose batches have no parts alike for every device.

    Args:
        arguments: Arguments of `keras.Model.fit`, at least `x`.

    Raises:
        UsageError: If the devices of `keras.distribution` can not share every
            batch evenly.
    """
    shards = num_shards()
    size = arguments.get("batch_size") or 32
    share = 1 - (arguments.get("validation_split") or 0)
    given = {"x": (arguments["x"], share, size)}
    if isinstance(validation := arguments.get("validation_data"), tuple):
        size = arguments.get("validation_batch_size") or size
        given["validation_data"] = validation[0], 1, size
    for name, (images, share, size) in given.items():
        first = tree.flatten(images)[0]
        if not isinstance(first, np.ndarray):
            continue
        count = int(len(first) * share)
        last = count % size
        if size % shards or last % shards:
            raise UsageError(
                "`keras.distribution` gives each of its devices as many "
                "images of a batch, so every batch must have a multiple of "
                f"{shards}. Received: {count} images as `{name}` in batches "
                f"of {size}, the last one of {last or size}. Leave some "
                "images out, or take another batch size."
            )


def has_scope() -> bool:
    """Tells whether the scope of a `tf.distribute` strategy is open."""
    if keras.backend.backend() != "tensorflow":
        return False
    import tensorflow as tf

    return tf.distribute.has_strategy()


def scope_of(model: keras.Model) -> contextlib.AbstractContextManager:
    """Returns the scope of the devices that a model was built for."""
    if keras.backend.backend() != "tensorflow":
        return contextlib.nullcontext()
    return model.distribute_strategy.scope()


def check_scope(model: keras.Model) -> None:
    """Refuses to train a model on other devices than it was built for.

    Raises:
        UsageError: If it was built outside of the strategy's scope that is
            open.
    """
    if not has_scope():
        return
    import tensorflow as tf

    strategy = tf.distribute.get_strategy()
    is_in_scope = strategy.extended.variable_created_in_scope
    if not all(is_in_scope(weight.value) for weight in model.weights):
        raise UsageError(
            "A model trains in the scope of the strategy that it was built "
            f"in. Received: {model.name!r}, built outside of the scope of the "
            f"{type(strategy).__name__} that is open. Build it in this scope, "
            "too."
        )


def outside_scopes(function: Callable) -> Callable:
    """Lets a function run outside of the scope of any strategy.

    What TensorFlow traces in a scope does not run in another program. Scopes
    are those of a thread, so that another has none.
    """

    @functools.wraps(function)
    def run(*args, **kwargs):
        if not has_scope():
            return function(*args, **kwargs)
        with ThreadPoolExecutor(1) as pool:
            return pool.submit(function, *args, **kwargs).result()

    return run


def _replica():
    """Returns the context of this replica, `None` if it is the only one."""
    if keras.backend.backend() != "tensorflow":
        return None
    import tensorflow as tf

    replica = tf.distribute.get_replica_context()
    if replica is None or replica.num_replicas_in_sync == 1:
        return None
    return replica
