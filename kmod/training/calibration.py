"""Fits how raw module scores become log-odds."""

import numpy as np

from kmod.masks.modular_model import ModularModel


def calibrate(
    modular: ModularModel, images: np.ndarray, labels: np.ndarray
) -> None:
    """Sets the calibration of a modular model on validation data.

    Each module gets a scale and a shift of its own (Platt scaling), so that
    the sigmoid of its score is the probability of its class and scores of
    different models can be compared.

    Args:
        modular: Trained modular model.
        images: Validation images `(n, ...)`.
        labels: Integer class indices `(n,)`.

    Reference:

    - Platt, 1999, "Probabilistic outputs for support vector machines".
    """
    modular.set_calibration(1, 0)
    raw = modular.class_log_odds(images)
    fits = [
        fit_log_odds(raw[:, index], labels == index)
        for index in range(modular.num_classes)
    ]
    modular.set_calibration(*np.transpose(fits))


def fit_log_odds(scores: np.ndarray, is_class: np.ndarray):
    """Fits the log-odds of a class as a line over its score.

    Args:
        scores: Raw scores `(n,)`.
        is_class: Boolean `(n,)`, whether the image is of the class.

    Returns:
        Tuple `(scale, shift)`, the scale above 0; `(1, 0)` if the images do
        not show both kinds or the scores do not rise with the class.
    """
    from sklearn.linear_model import LogisticRegression

    if is_class.all() or not is_class.any():
        return 1.0, 0.0
    spread = max(float(scores.std()), 1e-6)
    model = LogisticRegression(C=1.0)
    model.fit(scores[:, None] / spread, is_class)
    scale = float(model.coef_[0, 0]) / spread
    return (scale, float(model.intercept_[0])) if scale > 0 else (1.0, 0.0)
