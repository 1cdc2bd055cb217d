"""Callback that writes down how masks change."""

from pathlib import Path

import keras
import numpy as np

from kmod.metrics.overlap import class_overlap


class MaskRecorder(keras.callbacks.Callback):
    """Saves every epoch's kernel masks and, if asked, draws their figures.

    Each epoch becomes one file, `masks-0007.npz`, with `kernel_masks`
    (`(num_classes, num_kernels)` of 0 and 1), so a training that was cut short
    leaves the epochs it had. TensorBoard shows retention by layer and by class
    and the overlap between classes.

    Args:
        directory: Directory for the files; made if it is not there.
        log_dir: Directory of TensorBoard logs, one of its own. Defaults to
            none. Needs the TensorFlow backend.

    Example:

    ```python
    recorder = kmod.callbacks.MaskRecorder("runs/a", log_dir="runs/a-logs")
    modular.fit(train, epochs=10, callbacks=[recorder])
    masks = np.load("runs/a/masks-0009.npz")["kernel_masks"]
    ```
    """

    def __init__(
        self, directory: str | Path, log_dir: str | Path | None = None
    ):
        super().__init__()
        self.directory = Path(directory)
        self.log_dir = log_dir
        self._writer = None

    def on_train_begin(self, logs=None):
        self.directory.mkdir(parents=True, exist_ok=True)
        if self.log_dir is not None:
            import tensorflow as tf

            self._writer = tf.summary.create_file_writer(str(self.log_dir))

    def on_epoch_end(self, epoch, logs=None):
        masks = self.model.kernel_masks
        path = self.directory / f"masks-{epoch:04d}.npz"
        np.savez_compressed(path, kernel_masks=masks.astype("uint8"))
        if self._writer is not None:
            self._draw(epoch, masks)

    def _draw(self, epoch, masks):
        import tensorflow as tf

        kernels = self.model.kernels
        with self._writer.as_default(step=epoch):
            for layer in kernels.layers:
                kept = masks[:, kernels.ids_of(layer)].mean()
                tf.summary.scalar(f"kept/{layer}", kept)
            for name, row in zip(self.model.class_names, masks, strict=True):
                tf.summary.scalar(f"module/{name}/retention_rate", row.mean())
            overlap = class_overlap(masks)
            others = ~np.eye(len(masks), dtype=bool)
            tf.summary.scalar("masks/overlap", overlap[others].mean())
        self._writer.flush()

    def on_train_end(self, logs=None):
        if self._writer is not None:
            self._writer.close()
            self._writer = None
