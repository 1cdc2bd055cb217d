import numpy as np
import pytest

from kmod.errors import UsageError
from kmod.modular.mask_schedule import round_up
from kmod.modular.modular_model import ModularModel
from kmod.modular.modularize import modularize


@pytest.mark.parametrize("multiple", [1, 2, 3, 4, 7])
def test_counts_are_multiples_or_all(small_cnn, multiple):
    modular = ModularModel(small_cnn)
    random = np.random.default_rng(0)
    mask = (random.random((3, 12)) < 0.4).astype("float32")
    scores = random.random((3, 12))
    rounded = round_up(
        mask, scores, modular.placement, modular.kernels, multiple
    )
    assert np.all(rounded >= mask)
    for start in (0, 4, 8):
        counts = rounded[:, start : start + 4].sum(axis=1)
        assert all(n % multiple == 0 or n == 4 for n in counts)
        before = mask[:, start : start + 4].sum(axis=1)
        assert np.all(counts - before < multiple)


def test_the_best_come_back(small_cnn):
    modular = ModularModel(small_cnn, mask_from="second")
    mask = np.array([[1, 1, 1, 1, 1, 0, 0, 0, 1, 1, 1, 0]] * 3, "float32")
    scores = np.array([[0] * 4 + [9, 1, 5, 3] + [9, 9, 9, 0]] * 3, "float32")
    rounded = round_up(mask, scores, modular.placement, modular.kernels, 2)
    expected = [1, 1, 1, 1, 1, 0, 1, 0, 1, 1, 1, 1]
    np.testing.assert_array_equal(rounded, [expected] * 3)


@pytest.mark.long
def test_modules_keep_round_numbers(small_cnn, quick, data):
    small_cnn.compile("adam", "sparse_categorical_crossentropy")
    small_cnn.fit(*data, batch_size=4, epochs=8, verbose=0)
    modular = modularize(
        small_cnn,
        data,
        data,
        recipe=quick(retention_target=0.6),
        epochs=2,
        batch_size=12,
        accuracy_budget=1.0,
        round_to=2,
        verbose=0,
    )
    for layer in modular.kernels.layers:
        kept = modular.kernel_masks[:, modular.kernels.ids_of(layer)].sum(1)
        assert set(kept.tolist()) <= {2, 4}
    assert modular.kernel_masks.mean() < 1


def test_numbers_below_one_are_refused(small_cnn, data):
    with pytest.raises(UsageError, match="`round_to` must be at least 1"):
        modularize(small_cnn, data, data, round_to=0)
