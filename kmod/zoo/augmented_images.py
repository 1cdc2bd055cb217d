"""Batches of training images, flipped and shifted anew in every epoch."""

import keras
import numpy as np

from kmod.errors import UsageError

BORDER = 4


class AugmentedImages(keras.utils.PyDataset):
    """Shuffled batches of images, mirrored at random and moved by up to 4.

    The border that moving lays bare is black. Every epoch differs; the same
    seed gives the same epochs.

    Args:
        data: Images to draw from. They are not changed.
        batch_size: Integer, images to a batch; the last may be smaller.
        seed: Integer.
        black: Value of the border. Defaults to 0.
        epoch: Integer, number of the first epoch. Defaults to 0.
        **kwargs: Arguments of `keras.utils.PyDataset`, such as `workers`.

    Raises:
        UsageError: If images are too small to be moved.
    """

    def __init__(self, data, batch_size, seed=0, black=0, epoch=0, **kwargs):
        super().__init__(**kwargs)
        shape = data.images.shape[1:]
        if min(shape[:2]) <= BORDER:
            raise UsageError(
                f"Images that are moved by up to {BORDER} pixels must be more "
                "than that high and wide, with the channels last. "
                f"Received: images of shape {shape}. Leave `augment` out."
            )
        self.data = data
        self.batch_size = batch_size
        self.seed = seed
        self.black = black
        self.epoch = epoch
        self._shuffle()

    @property
    def num_batches(self):
        return -(-len(self.data) // self.batch_size)

    def __getitem__(self, index):
        start = index * self.batch_size
        batch = self.data.take(self._order[start : start + self.batch_size])
        random = np.random.default_rng((self.seed, self.epoch, index))
        return augment(batch.images, random, self.black), batch.labels

    def on_epoch_end(self):
        self.epoch += 1
        self._shuffle()

    def _shuffle(self):
        random = np.random.default_rng((self.seed, self.epoch))
        self._order = random.permutation(len(self.data))


def augment(
    images: np.ndarray, random: np.random.Generator, black: float = 0
) -> np.ndarray:
    """Mirrors half of the images and moves each by up to `BORDER` pixels."""
    count, height, width, _ = images.shape
    border = (BORDER, BORDER)
    padded = np.pad(
        images, ((0, 0), border, border, (0, 0)), constant_values=black
    )
    windows = np.lib.stride_tricks.sliding_window_view(
        padded, (height, width), axis=(1, 2)
    )
    rows, columns = random.integers(0, 2 * BORDER + 1, size=(2, count))
    moved = windows[np.arange(count), rows, columns]
    moved = np.moveaxis(moved, 1, -1)  # The windows' axes come last.
    mirrored = random.random(count) < 0.5
    return np.where(mirrored[:, None, None, None], moved[:, :, ::-1], moved)
