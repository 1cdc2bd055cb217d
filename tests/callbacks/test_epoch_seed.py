import random

import keras
import numpy as np
import pytest

from kmod.callbacks.epoch_checkpoints import EpochSeed


def draw(seed, *epochs):
    """Draws from all generators in the last of some epochs."""
    callback = EpochSeed(seed)
    for epoch in epochs:
        callback.on_epoch_begin(epoch)
        drawn = (
            random.random(),
            np.random.random(),
            float(keras.random.uniform(())),
        )
    return drawn


def test_epoch_draws_the_same_whatever_ran_before():
    assert draw(0, 0, 1, 2) == draw(0, 2)


@pytest.mark.parametrize(
    ("seed", "epoch"), [(0, 1), (1, 2)], ids=["epoch", "seed"]
)
def test_other_epochs_and_seeds_draw_other_numbers(seed, epoch):
    mine, other = draw(0, 2), draw(seed, epoch)
    assert all(one != two for one, two in zip(mine, other, strict=True))
