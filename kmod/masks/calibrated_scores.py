"""What the modules of a modular model will answer."""

from collections.abc import Sequence

import numpy as np
from keras import ops


class CalibratedScores:
    """Turns the raw scores of a modular model into probabilities.

    The model that inherits it has a weight `calibration`, `(num_classes, 2)`:
    each module's scale and shift.
    """

    def set_calibration(self, scale, shift):
        """Sets how raw scores become log-odds: `scale * score + shift`.

        Args:
            scale: Number or array `(num_classes,)`.
            shift: Number or array `(num_classes,)`.
        """
        values = np.zeros((self.num_classes, 2), "float32")
        values[:, 0], values[:, 1] = scale, shift
        self.calibration.assign(values)

    def class_log_odds(self, x, batch_size: int = 64) -> np.ndarray:
        """Returns calibrated scores before the sigmoid, `(batch, classes)`."""
        raw = self.predict(x, batch_size=batch_size, verbose=0)
        scale, shift = ops.convert_to_numpy(self.calibration).T
        return raw * scale + shift

    def class_scores(
        self, x, class_indices: Sequence[int] | None = None
    ) -> np.ndarray:
        """Returns what the modules will answer.

        Args:
            x: Images as the source model takes them, `(batch, ...)`.
            class_indices: Classes to return. Defaults to all.

        Returns:
            float32 array `(batch, classes)`: for each class the probability
            that an image shows it.
        """
        log_odds = ops.convert_to_tensor(self.class_log_odds(x))
        scores = ops.convert_to_numpy(ops.sigmoid(log_odds))
        return scores if class_indices is None else scores[:, class_indices]
