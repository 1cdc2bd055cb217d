"""Callback that gives every epoch random numbers of its own."""

import keras
import numpy as np


class EpochSeed(keras.callbacks.Callback):
    """Seeds all that draws at the beginning of every epoch.

    So an epoch draws the same whether the epochs before it ran in this
    process or in one that was killed. Data sets that shuffle themselves keep
    count of their own: they begin anew with every process.

    Args:
        seed: Integer; what an epoch draws follows from it and its number.
    """

    def __init__(self, seed: int):
        super().__init__()
        self.seed = seed

    def on_epoch_begin(self, epoch, logs=None):
        (drawn,) = np.random.SeedSequence([self.seed, epoch]).generate_state(1)
        keras.utils.set_random_seed(int(drawn))
