import numpy as np
import pytest

from kmod.data import disk_arrays
from kmod.data.streaming import predict
from kmod.modular import stem
from kmod.modular.modular_model import ModularModel
from kmod.modular.stem import TEACHER
from kmod.modular.stem import cache_stem
from kmod.modular.stem import is_kept


@pytest.fixture(params=[None, "second", "hidden"])
def modular(request, small_cnn, quick):
    recipe = quick(retention_target=0.7)
    model = ModularModel(small_cnn, mask_from=request.param, recipe=recipe)
    model.compile()
    return model


def test_what_is_kept_answers_as_the_images_do(modular, data):
    kept = cache_stem(modular.stem, data[0])
    answers = modular.predict(kept, verbose=0)
    assert np.allclose(answers, modular.predict(data[0], verbose=0), atol=1e-6)
    first = next(name for name in kept if name != TEACHER)
    kept[first] = kept[first] + 1
    assert not np.allclose(answers, modular.predict(kept, verbose=0), atol=1e-2)


@pytest.mark.long
@pytest.mark.parametrize("mask_from", [None, "second"])
def test_fit_trains_the_same_where_the_stem_does_not_fit(
    small_cnn, quick, data, monkeypatch, mask_from
):
    def train():
        recipe = quick(retention_target=0.7)
        modular = ModularModel(small_cnn, mask_from=mask_from, recipe=recipe)
        modular.compile()
        options = {"batch_size": 12, "verbose": 0, "shuffle": False}
        history = modular.fit(
            *data, validation_data=data, epochs=3, **options
        ).history
        return modular, history

    modular, kept = train()
    monkeypatch.setattr(stem, "LIMIT", 0)
    monkeypatch.setattr(ModularModel, "predict", None)
    plain, recomputed = train()
    for name in ("loss", "val_loss"):
        assert kept[name] == pytest.approx(recomputed[name], rel=1e-4)
    assert kept["loss"][-1] < kept["loss"][0]
    assert np.array_equal(modular.kernel_masks, plain.kernel_masks)


def test_fit_runs_the_stem_once_for_each_image(small_cnn, quick, data):
    modular = ModularModel(
        small_cnn, mask_from="hidden", recipe=quick(retention_target=0.9)
    )
    modular.compile(run_eagerly=True)
    modular.stem.compile(run_eagerly=True)
    layer, seen = modular.get_layer("first"), []
    call = layer.call

    def noting(inputs):
        seen.append(len(inputs))
        return call(inputs)

    layer.call = noting
    modular.fit(*data, epochs=2, batch_size=12, verbose=0)
    # Once for the stem, once for the teacher, whatever the epochs.
    assert sum(seen) == 2 * len(data[0])


def test_late_masks_leave_little_behind_the_stem(small_cnn):
    modular = ModularModel(small_cnn, mask_from="hidden")
    names = {layer.name for layer in modular.network.stem.layers}
    assert {"first", "norm", "relu", "second", "flatten", "hidden"} <= names
    assert "out" not in names


def test_stem_holds_the_source_model_logits(small_cnn, data):
    modular = ModularModel(small_cnn, mask_from="second")
    logits = modular.flat_source.predict(data[0], verbose=0)
    teacher = modular.stem.predict(data[0], verbose=0)[TEACHER]
    assert np.allclose(teacher, logits, atol=1e-5)


def test_what_is_kept_is_bounded(small_cnn, data, monkeypatch):
    model = ModularModel(small_cnn, mask_from="second").stem
    # Sixteen numbers in front of the masks, three logits of the teacher.
    monkeypatch.setattr(stem, "LIMIT", 4 * 19 * 10)
    assert is_kept(model, 10)
    assert not is_kept(model, 11)
    images = data[0][:11]
    assert cache_stem(model, images) is images


def test_what_is_large_is_kept_on_disk(small_cnn, data, monkeypatch):
    modular = ModularModel(small_cnn, mask_from="second")
    expected = cache_stem(modular.stem, data[0])
    monkeypatch.setattr(disk_arrays, "LIMIT", 0)
    found = cache_stem(modular.stem, data[0], 10)
    assert found.keys() == expected.keys()
    for name in found:
        assert isinstance(found[name], np.memmap)
        np.testing.assert_allclose(found[name], expected[name], atol=1e-5)
    np.testing.assert_allclose(
        predict(modular, found), modular.predict(expected, verbose=0), atol=1e-5
    )
    monkeypatch.setattr(disk_arrays, "_free", lambda: 0)
    assert cache_stem(modular.stem, data[0]) is data[0]
