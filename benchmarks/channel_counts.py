"""Times convolutions by the number of their channels on this machine.

    python benchmarks/channel_counts.py

Networks of six 3x3 convolutions on images of 32x32 pixels, as wide as
`CHANNELS` say, run in turns. It tells whether layers get faster by more
kernels, as `round_to` of `kmod.modularize` gives them. Writes
`channel_counts.json`: milliseconds by images of a batch and channels, the
fastest of `ROUNDS`.
"""

import time

import keras
import numpy as np
import tensorflow as tf
from common import machine
from common import write_result
from keras import layers

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


def answer_of(model: keras.Model):
    return tf.function(lambda images: model(images, training=False))


def main() -> None:
    answers = {count: answer_of(network(count)) for count in CHANNELS}
    cells = {}
    for size, repeats in TIMED.items():
        images = tf.zeros((size, SIZE, SIZE, 3))
        seconds = {count: [] for count in CHANNELS}
        for count in CHANNELS:
            answers[count](images)  # Compiles it.
        for _ in range(ROUNDS):
            for count, own in seconds.items():
                began = time.perf_counter()
                for _ in range(repeats):
                    answers[count](images)
                own.append((time.perf_counter() - began) / repeats)
        cells[str(size)] = {
            str(count): 1000 * float(np.min(own))
            for count, own in seconds.items()
        }
    result = {
        "command": "python benchmarks/channel_counts.py",
        "machine": machine(),
        "cells": cells,
    }
    write_result("channel_counts", result)


if __name__ == "__main__":
    main()
