import keras
import numpy as np
import pytest

import kmod
from kmod.callbacks import BestModules
from kmod.callbacks.best_modules import EpochModules
from kmod.errors import UsageError


class Pretend(keras.callbacks.Callback):
    """Sets the validation accuracy of every epoch."""

    def __init__(self, *accuracies):
        super().__init__()
        self.accuracies = accuracies

    def on_epoch_end(self, epoch, logs=None):
        logs["val_accuracy"] = self.accuracies[epoch]


class Keep(keras.callbacks.Callback):
    """Keeps the masks of every epoch."""

    def __init__(self):
        super().__init__()
        self.masks = []

    def on_epoch_end(self, epoch, logs=None):
        self.masks.append(self.model.kernel_masks)


def train(strong, digits, best, *accuracies):
    modular = kmod.ModularModel(strong, retention_target=0.6)
    modular.compile()
    keep = Keep()
    modular.fit(
        digits.train,
        validation_data=digits.validation,
        epochs=len(accuracies),
        batch_size=64,
        callbacks=[Pretend(*accuracies), keep, best],
        verbose=0,
    )
    return modular, keep.masks


def test_restored_epoch_is_the_smallest_within_the_budget(strong, digits):
    best = BestModules(accuracy_budget=0.1, source_accuracy=0.95)
    modular, masks = train(strong, digits, best, 0.95, 0.87, 0.80)
    assert best.best.epoch == 1
    assert best.best.accuracy == 0.87
    assert modular.chosen_epoch is best.best
    assert best.best.least_accuracy == pytest.approx(0.85)
    assert best.best.is_within_budget
    np.testing.assert_array_equal(modular.kernel_masks, masks[1])
    assert not np.array_equal(masks[0], masks[1])


def test_most_accurate_epoch_is_restored_where_none_is_good(strong, digits):
    best = BestModules(accuracy_budget=0.0, source_accuracy=1.0)
    modular, masks = train(strong, digits, best, 0.9, 0.7)
    assert best.best.epoch == 0
    assert not modular.chosen_epoch.is_within_budget
    np.testing.assert_array_equal(modular.kernel_masks, masks[0])


def test_fit_measures_the_source_on_the_validation_data(strong, digits):
    best = BestModules()
    train(strong, digits, best, 0.9)
    found = kmod.evaluate(strong, digits.validation)
    assert best.source_accuracy == pytest.approx(found.accuracy)


def test_validation_data_are_needed(strong, digits):
    modular = kmod.ModularModel(strong)
    modular.compile()
    with pytest.raises(UsageError, match="`BestModules` chooses on validation"):
        modular.fit(
            digits.train, epochs=1, callbacks=[BestModules()], verbose=0
        )


@pytest.mark.parametrize(
    ("better", "worse"),
    [
        pytest.param(
            EpochModules(1, 0.90, 0.3),
            EpochModules(0, 0.95, 0.5),
            id="fewer-kernels",
        ),
        pytest.param(
            EpochModules(1, 0.95, 0.5),
            EpochModules(0, 0.89, 0.1),
            id="within-budget",
        ),
        pytest.param(
            EpochModules(1, 0.92, 0.3),
            EpochModules(0, 0.91, 0.3),
            id="tie-accuracy",
        ),
        pytest.param(
            EpochModules(1, 0.80, 0.9),
            EpochModules(0, 0.70, 0.1),
            id="none-good",
        ),
    ],
)
def test_rank_of_epochs(better, worse):
    assert better.rank(0.9) > worse.rank(0.9)
