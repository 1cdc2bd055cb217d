import keras
import numpy as np
import pytest

from kmod.modules.adaptation import Adaptation
from kmod.modules.adaptation import plan_adaptation
from kmod.modules.adapters import STEPS
from kmod.modules.adapters import adapt_images
from kmod.modules.adapters import adapt_model
from kmod.modules.manifest import InputContract


def contract(shape, values=(0.0, 1.0), dtype="float32"):
    return InputContract(shape, dtype, values)


def random_images(shape, values=(0.0, 1.0), dtype="float32"):
    draw = np.random.default_rng(0)
    return draw.uniform(*values, (3, *shape)).astype(dtype)


def adapted(images, before, after, size="resize"):
    return adapt_images(images, plan_adaptation(before, after, size))


def test_every_step_has_its_layers_in_order():
    fields = [field for field in Adaptation.__dataclass_fields__]
    assert list(STEPS) == fields


def test_range_and_channels_by_hand():
    images = random_images((2, 3, 3), (-1, 1))
    answers = adapted(
        images, contract((2, 3, 3), (-1.0, 1.0)), contract((2, 3, 1))
    )
    luma = images @ np.array([[0.299], [0.587], [0.114]])
    np.testing.assert_allclose(answers, (luma + 1) / 2, atol=1e-6)


def test_grey_becomes_three_equal_channels():
    images = random_images((2, 3, 1))
    answers = adapted(images, contract((2, 3, 1)), contract((2, 3, 3)))
    np.testing.assert_array_equal(answers, np.repeat(images, 3, axis=3))


def test_border_is_black():
    images = random_images((2, 3, 1), (10, 20))
    answers = adapted(
        images,
        contract((2, 3, 1), (10.0, 20.0)),
        contract((4, 2, 1), (-1.0, 1.0)),
        "pad",
    )
    assert answers.shape == (3, 4, 2, 1)
    np.testing.assert_array_equal(answers[:, [0, 3]], -1)
    np.testing.assert_allclose(
        answers[:, 1:3], (images[:, :, :2] - 15) / 5, rtol=0, atol=1e-5
    )


def test_whole_factors_average():
    images = random_images((4, 6, 1))
    answers = adapted(images, contract((4, 6, 1)), contract((2, 2, 1)))
    expected = images.reshape(3, 2, 2, 2, 3, 1).mean(axis=(2, 4))
    np.testing.assert_allclose(answers, expected, atol=1e-6)


def test_resizing_keeps_a_gradient():
    images = np.linspace(0, 1, 8)[None, :, None, None]
    images = np.repeat(images, 8, axis=2).astype("float32")
    answers = adapted(images, contract((8, 8, 1)), contract((12, 12, 1)))
    assert answers.shape == (1, 12, 12, 1)
    assert (np.diff(answers[0, :, 0, 0]) >= 0).all()
    np.testing.assert_allclose(answers.mean(), 0.5, atol=1e-6)


def test_bytes_are_rounded():
    images = np.array([0.0, 0.501, 0.499, 1.0], "float32").reshape(1, 2, 2, 1)
    after = contract((2, 2, 1), (0.0, 3.0), "uint8")
    answers = adapted(images, contract((2, 2, 1)), after)
    assert answers.dtype == "uint8"
    assert answers.ravel().tolist() == [0, 2, 1, 3]


def test_bytes_in():
    images = random_images((4, 4, 3), (0, 256), "uint8")
    before = contract((4, 4, 3), (0.0, 255.0), "uint8")
    answers = adapted(images, before, contract((2, 2, 1)))
    assert answers.dtype == "float32"
    assert answers.shape == (3, 2, 2, 1)
    assert (answers <= 1).all() and answers.std() > 0


def test_nothing_to_do_changes_nothing():
    images = random_images((2, 2, 1))
    assert adapt_images(images, Adaptation()) is images
    image = keras.Input((2, 2, 1))
    model = keras.Model(image, keras.layers.Flatten()(image))
    assert adapt_model(model, Adaptation(), image) is model


@pytest.mark.parametrize("size", ["resize", "pad"])
def test_adapted_model_is_safe_to_load(tmp_path, size):
    after = contract((6, 5, 1), (0.0, 255.0), "uint8")
    image = keras.Input(after.shape, dtype="uint8")
    model = keras.Model(
        image, keras.layers.Dense(2)(keras.layers.Flatten()(image))
    )
    before = contract((4, 8, 3), (-1.0, 1.0))
    wrapped = adapt_model(
        model,
        plan_adaptation(before, after, size),
        keras.Input(before.shape),
    )
    wrapped.save(tmp_path / "m.keras")
    loaded = keras.models.load_model(tmp_path / "m.keras", safe_mode=True)
    images = random_images(before.shape, before.range)
    expected = model.predict(adapted(images, before, after, size), verbose=0)
    np.testing.assert_allclose(
        loaded.predict(images, verbose=0), expected, rtol=0, atol=1e-3
    )
