import numpy as np
import pytest

from kmod.modular import front
from kmod.modular.front import TEACHER
from kmod.modular.front import Front
from kmod.modular.front import cache_front
from kmod.modular.front import fits_memory
from kmod.modular.modular_model import ModularModel


@pytest.fixture(params=[None, "second", "hidden"])
def modular(request, small_cnn, quick):
    recipe = quick(retention_target=0.7)
    model = ModularModel(small_cnn, mask_from=request.param, recipe=recipe)
    model.compile()
    return model


def test_what_is_kept_answers_as_the_images_do(modular, data):
    kept = cache_front(modular, data[0])
    answers = modular.predict(kept, verbose=0)
    assert np.allclose(answers, modular.predict(data[0], verbose=0), atol=1e-6)
    first = next(name for name in kept if name != TEACHER)
    kept[first] = kept[first] + 1
    assert not np.allclose(answers, modular.predict(kept, verbose=0), atol=1e-2)


def test_training_on_it_is_the_same(small_cnn, quick, data):
    def train(is_kept):
        recipe = quick(retention_target=0.7)
        modular = ModularModel(small_cnn, mask_from="second", recipe=recipe)
        modular.compile()
        images = cache_front(modular, data[0]) if is_kept else data[0]
        options = {"batch_size": 12, "verbose": 0, "shuffle": False}
        history = modular.fit(images, data[1], epochs=3, **options).history
        return modular, history["loss"]

    (modular, losses), (plain, plain_losses) = train(True), train(False)
    assert losses == pytest.approx(plain_losses, rel=1e-4)
    assert losses[-1] < losses[0]
    assert np.array_equal(modular.kernel_masks, plain.kernel_masks)


def test_late_masks_leave_little_behind_the_front(small_cnn):
    modular = ModularModel(small_cnn, mask_from="hidden")
    names = {call.name for call in modular.network.front}
    assert {"first", "norm", "relu", "second", "flatten", "hidden"} <= names
    assert "out" not in names


def test_front_holds_the_source_model_logits(small_cnn, data):
    modular = ModularModel(small_cnn, mask_from="second")
    logits = modular.flat_source.predict(data[0], verbose=0)
    assert np.allclose(
        Front(modular).predict(data[0], verbose=0)[TEACHER], logits, atol=1e-5
    )


def test_memory_is_bounded(small_cnn, monkeypatch):
    shapes = ModularModel(small_cnn, mask_from="second").network.border_shapes
    assert shapes == [(2, 2, 4)]
    monkeypatch.setattr(front, "LIMIT", 4 * 16 * 10)
    assert fits_memory(shapes, 10)
    assert not fits_memory(shapes, 11)
