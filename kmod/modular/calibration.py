"""Fits how raw module scores become log-odds."""

import numpy as np

from kmod.metrics.calibration import fit_platt
from kmod.modular.modular_model import ModularModel


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
        fit_platt(raw[:, index], labels == index) or (1.0, 0.0)
        for index in range(modular.num_classes)
    ]
    modular.set_calibration(*np.transpose(fits))
