import keras
import numpy as np
import pytest
from keras import ops

from kmod.modular.importance import ImportanceUpdates
from kmod.modular.modular_model import ModularModel


class Scores(keras.callbacks.Callback):
    """Notes the steps after which mask scores are others than before."""

    def __init__(self):
        super().__init__()
        self.steps, self.step, self.last = [], 0, None

    def on_train_batch_end(self, batch, logs=None):
        self.step += 1
        scores = ops.convert_to_numpy(self.model.masks.mask_scores)
        if self.last is not None and np.any(scores != self.last):
            self.steps.append(self.step)
        self.last = scores


def fit(modular, data, **options):
    scores = Scores()
    modular.compile(options.pop("optimizer", None))
    modular.fit(*data, batch_size=8, callbacks=[scores], verbose=0, **options)
    return scores


def test_scores_change_from_the_warm_up_to_the_end_of_removal(
    small_cnn, quick, data
):
    recipe = quick(retention_target=0.6, warm_up=0.25, removal_end=0.75)
    modular = ModularModel(small_cnn, recipe=recipe)
    scores = fit(modular, data, epochs=10)
    assert scores.step == 60
    assert scores.steps[0] == 15
    assert scores.steps[-1] in (43, 44)  # The end is the 45th of 60.
    assert modular.retention_rate == pytest.approx(0.6, abs=0.05)


def test_removed_kernels_keep_the_importance_they_had(small_cnn, quick, data):
    modular = ModularModel(small_cnn, recipe=quick(retention_target=0.6))
    fit(modular, data, epochs=10)
    scores = ops.convert_to_numpy(modular.masks.mask_scores)
    out = ops.convert_to_numpy(modular.masks.mask) == 0
    assert out.any() and (scores[out] > 0).all()


def test_other_optimisers_are_left_alone(small_cnn, quick, data):
    modular = ModularModel(small_cnn, recipe=quick(retention_target=0.9))
    fit(modular, data, epochs=2, optimizer=keras.optimizers.SGD(0.0))
    assert not ops.convert_to_numpy(modular.masks.mask_scores).any()


def test_a_run_that_was_cut_short_goes_on_where_it_was():
    updates = ImportanceUpdates(10, 100)
    updates.to_come = [10, 15, 20, 25, 60]
    updates.on_epoch_begin(2)
    assert updates.to_come == [25, 60]
