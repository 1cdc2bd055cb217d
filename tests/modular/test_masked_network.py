import keras
import numpy as np
import pytest
from keras import layers

from kmod.graph import PassThrough
from kmod.graph import rebuild
from kmod.graph import register_channel_rule
from kmod.modular.modular_model import ModularModel


@keras.saving.register_keras_serializable("test")
class Witness(layers.Layer):
    """Notes down how many images it is called on."""

    seen = []

    def call(self, inputs):
        self.seen.append((self.name, inputs.shape[0]))
        return inputs


def masks_at_random(modular, seed=0):
    generator = np.random.default_rng(seed)
    shape = modular.kernel_masks.shape
    masks = (generator.random(shape) < 0.6).astype(int)
    masks[:, [0, 4, 8]] = 1
    return masks


@pytest.fixture
def modular(small_cnn):
    model = ModularModel(small_cnn)
    model.kernel_masks = masks_at_random(model)
    generator = np.random.default_rng(1)
    for weight in model.trainable_weights:
        if weight.name in ("scale", "shift", "gain"):
            weight.assign(generator.uniform(0.5, 1.5, weight.shape))
    return model


def run(modular, images, classes=None):
    return np.array(modular.network(images, modular.masks(), classes))


def test_rows_equal_a_run_of_each_module_by_itself(modular, data):
    images = data[0][:5]
    together = run(modular, images)
    assert together.shape == (5, 3, 3)
    for index in range(3):
        alone = run(modular, images, np.full((5, 1), index))
        np.testing.assert_allclose(
            together[:, index], alone[:, 0], rtol=1e-4, atol=1e-5
        )
    assert np.abs(together[:, 0] - together[:, 1]).max() > 0.1


def test_drawn_rows_are_those_modules(modular, data):
    images = data[0][:4]
    classes = np.array([[0, 2], [1, 0], [2, 1], [1, 1]])
    expected = np.take_along_axis(run(modular, images), classes[..., None], 1)
    np.testing.assert_allclose(
        run(modular, images, classes), expected, rtol=1e-4, atol=1e-5
    )


def test_masked_rows_equal_models_without_the_kernels(small_cnn, data):
    modular = ModularModel(small_cnn, recipe="paper")
    modular.kernel_masks = masks_at_random(modular, seed=2)
    rows = run(modular, data[0][:4])
    for index, mask in enumerate(modular.kernel_masks):
        cut = rebuild(modular.graph, mask)
        np.testing.assert_allclose(
            rows[:, index], cut(data[0][:4]), rtol=1e-4, atol=1e-5
        )


@pytest.mark.parametrize(
    ("recipe", "mask_from", "once"),
    [
        pytest.param("paper", None, ["input", "stem"], id="masks-only"),
        pytest.param("default", None, ["input"], id="with-scales"),
        pytest.param("default", "b", ["input", "stem"], id="stem"),
    ],
)
def test_stem_is_run_once_per_image(recipe, mask_from, once):
    register_channel_rule(Witness, PassThrough())
    stack = [
        Witness(name="input"),
        layers.Conv2D(4, 1, name="a"),
        Witness(name="stem"),
        layers.Conv2D(4, 1, name="b"),
        Witness(name="late"),
        layers.Flatten(),
        layers.Dense(3, name="out"),
    ]
    source = keras.Sequential([keras.Input((4, 4, 3)), *stack])
    modular = ModularModel(source, recipe=recipe, mask_from=mask_from)
    Witness.seen.clear()
    run(modular, np.ones((5, 4, 4, 3), "float32"))
    assert Witness.seen == [
        (name, 5 if name in once else 15) for name in ("input", "stem", "late")
    ]
