"""Times convolutions by the number of their channels on this machine.

    python benchmarks/channel_counts.py

Networks of six 3x3 convolutions on images of 32x32 pixels, as wide as
`CHANNELS` say, run in turns, with TensorFlow and for one image with LiteRT. It
tells at which numbers of kernels layers get faster, which `kmod slim` goes
by, and whether more kernels make them faster, as `round_to` of
`kmod.modularize` gives them. Writes `channel_counts.json`: milliseconds by
images of a batch, or LiteRT, and channels, the fastest of `ROUNDS`.
"""

import time

import keras
import tensorflow as tf
from common import machine
from common import write_result
from keras import layers
from slim import litert_timer

CHANNELS = (12, 13, 15, 16, 17, 20, 23, 24, 25, 31, 32, 33, 40, 47, 48, 60, 64)
LAYERS, SIZE = 6, 32
TIMED = {1: 60, 64: 6}  # Predictions of a round, by the images of a batch.
ROUNDS = 7


def network(channels: int) -> keras.Model:
    image = keras.Input((SIZE, SIZE, 3))
    x = image
    for _ in range(LAYERS):
        x = layers.Conv2D(channels, 3, padding="same", activation="relu")(x)
    return keras.Model(image, layers.GlobalAveragePooling2D()(x))


def timer_of(model: keras.Model, count: int, repeats: int):
    """Returns what measures the seconds of one prediction."""
    answer = tf.function(lambda images: model(images, training=False))
    images = tf.zeros((count, SIZE, SIZE, 3))
    answer(images)  # Compiles it.

    def measure():
        began = time.perf_counter()
        for _ in range(repeats):
            answer(images)
        return (time.perf_counter() - began) / repeats

    return measure


def main() -> None:
    networks = {count: network(count) for count in CHANNELS}
    timers = {
        str(size): {
            str(count): timer_of(model, size, repeats)
            for count, model in networks.items()
        }
        for size, repeats in TIMED.items()
    }
    timers["litert"] = {
        str(count): litert_timer(model) for count, model in networks.items()
    }
    cells = {}
    for kind, own in timers.items():
        rounds = [
            {count: timer() for count, timer in own.items()}
            for _ in range(ROUNDS)
        ]
        cells[kind] = {
            count: 1000 * min(each[count] for each in rounds) for count in own
        }
        print(kind, cells[kind], flush=True)
    result = {
        "command": "python benchmarks/channel_counts.py",
        "machine": machine(),
        "cells": cells,
    }
    write_result("channel_counts", result)


if __name__ == "__main__":
    main()
