"""Callback that shows what modules look at while they are trained."""

from pathlib import Path
from typing import Any

import keras
import numpy as np

from kmod.analysis.explanation import Explainer
from kmod.analysis.explanation import colours_of
from kmod.data.batches import to_arrays
from kmod.modules.cut import cut_module
from kmod.modules.cut import log_odds_model


class ExplanationRecorder(keras.callbacks.Callback):
    """Draws the class activation maps of a few images for TensorBoard.

    When an epoch ends, the module of each class among the images is cut out
    and explains the images of its class: `explanation/cat` shows every image
    beside its map, orange where a place speaks for the class and blue where
    against it. All maps of a module have one scale. This takes about as long
    for each class as cutting its module, so show a few classes.

    Args:
        images: A few `(images, labels)` or `LabelledImages`: arrays `(n,
            height, width, channels)` and `(n,)`, the class indices of the
            modular model that is trained.
        log_dir: Directory of TensorBoard logs, one of its own. Needs the
            TensorFlow backend.

    Raises:
        UnsupportedModelError: When training begins, if the modules have no
            class activation maps; see `kmod.explain`.
        ValueError: When training begins, if labels are not of the model's
            classes.

    Example:

    ```python
    recorder = kmod.ExplanationRecorder((x_val[:8], y_val[:8]), "logs/a/maps")
    modular.fit(train, epochs=10, callbacks=[recorder])
    ```
    """

    def __init__(self, images: Any, log_dir: str | Path):
        super().__init__()
        self.samples = images
        self.images = self.labels = None
        self.log_dir = log_dir
        self._writer = None

    def on_train_begin(self, logs=None):
        import tensorflow as tf

        self.images, self.labels = to_arrays(
            self.samples, num_classes=self.model.num_classes
        )
        self._explainer(self.labels[0])  # So errors come before training.
        self._writer = tf.summary.create_file_writer(str(self.log_dir))

    def on_epoch_end(self, epoch, logs=None):
        import tensorflow as tf

        with self._writer.as_default(step=epoch):
            for index in np.unique(self.labels):
                own = self.images[self.labels == index]
                maps = self._explainer(index).explain(own).maps
                drawn = side_by_side(own, maps, self.model.value_range)
                name = f"explanation/{self.model.class_names[index]}"
                tf.summary.image(name, drawn, max_outputs=len(drawn))
        self._writer.flush()

    def on_train_end(self, logs=None):
        self._writer.close()
        self._writer = None

    def _explainer(self, index):
        module = log_odds_model(cut_module(self.model, int(index)))
        return Explainer.of_scored(module, self.model.class_names[index])


def side_by_side(
    images: np.ndarray,
    maps: np.ndarray,
    value_range: tuple[float, float] | None = None,
) -> np.ndarray:
    """Draws images, each beside itself with its map on it.

    Args:
        images: Array `(n, height, width, channels)`; of other than 3 channels
            the first is shown.
        maps: Float array `(n, rows, columns)`.
        value_range: Smallest and largest value of a pixel. Defaults to those
            of the images.

    Returns:
        uint8 array `(n, height, 2 * width, 3)`.
    """
    low, high = value_range or (images.min(), images.max())
    shown = images if images.shape[-1] == 3 else images[..., :1]
    shown = 255 * np.clip((shown - low) / max(high - low, 1e-9), 0, 1)
    shown = np.broadcast_to(shown, (*shown.shape[:-1], 3))
    colours = colours_of(maps, max(float(np.abs(maps).max()), 1e-9))
    over = keras.ops.image.resize(colours, shown.shape[1:3])
    over = keras.ops.convert_to_numpy(over)
    opacity = over[..., 3:] / 255
    blended = (1 - opacity) * shown + opacity * over[..., :3]
    return np.rint(np.concatenate([shown, blended], axis=2)).astype("uint8")
