import dataclasses

import keras
import numpy as np
import pytest

from kmod.data.load import load_data
from kmod.errors import ArtifactError
from kmod.modules.adaptation import Adaptation
from kmod.modules.adaptation import adapt_images
from kmod.modules.adaptation import adapt_model
from kmod.modules.adaptation import comparison_images
from kmod.modules.adaptation import plan_adaptation
from kmod.modules.manifest import InputContract

GREY = InputContract((28, 28, 1), "float32", (0.0, 1.0))
RGB = InputContract((32, 32, 3), "float32", (-1.0, 1.0))


def contract(shape=(8, 8, 1), dtype="float32", values=(0.0, 255.0)):
    return InputContract(shape, dtype, values)


def test_equal_contracts_need_nothing():
    adaptation = plan_adaptation(GREY, GREY)
    assert adaptation == Adaptation()
    assert not adaptation.is_needed
    assert adaptation.as_dict() == {}


@pytest.mark.parametrize(
    ("images", "module", "size", "steps"),
    [
        pytest.param(
            GREY,
            RGB,
            "resize",
            {"resize": (32, 32), "rescale": (2.0, -1.0), "to_rgb": True},
            id="grey-to-rgb",
        ),
        pytest.param(
            RGB,
            GREY,
            "resize",
            {"to_grey": True, "resize": (28, 28), "rescale": (0.5, 0.5)},
            id="rgb-to-grey",
        ),
        pytest.param(
            GREY,
            RGB,
            "pad",
            {
                "rescale": (2.0, 0.0),
                "pad": ((2, 2), (2, 2)),
                "shift": -1.0,
                "to_rgb": True,
            },
            id="black-border-where-black-is-not-zero",
        ),
        pytest.param(
            contract((9, 6, 1)),
            contract((6, 9, 1)),
            "pad",
            {"crop": ((1, 2), (0, 0)), "pad": ((0, 0), (1, 2))},
            id="crop-rows-and-pad-columns",
        ),
        pytest.param(
            contract((16, 24, 1)),
            contract((8, 8, 1)),
            "resize",
            {"pool": (2, 3)},
            id="whole-factors-only-average",
        ),
        pytest.param(
            contract((17, 8, 1)),
            contract((8, 8, 1)),
            "resize",
            {"pool": (2, 1), "resize": (8, 8)},
            id="average-and-resize",
        ),
        pytest.param(
            contract(dtype="uint8"),
            contract(values=(0.0, 1.0)),
            "resize",
            {"from_dtype": "uint8", "rescale": (1 / 255, 0.0)},
            id="from-bytes",
        ),
        pytest.param(
            contract(),
            contract(dtype="uint8"),
            "resize",
            {"to_dtype": "uint8"},
            id="to-bytes",
        ),
        pytest.param(
            contract((8, 8, 4)),
            contract((4, 8, 4)),
            "resize",
            {"pool": (2, 1)},
            id="any-equal-number-of-channels",
        ),
    ],
)
def test_steps(images, module, size, steps):
    adaptation = plan_adaptation(images, module, size)
    assert adaptation.is_needed
    assert adaptation.as_dict() == steps


@pytest.mark.parametrize(
    ("images", "module", "message"),
    [
        (contract((8, 8, 2)), contract(), "or 1 and 3"),
        (contract((8, 8, 4)), contract((8, 8, 3)), "or 1 and 3"),
        (contract((8, 1)), contract(), "is \\(height, width, channels\\)"),
        (contract(), contract((None, None, 1)), "channels\\), all known"),
        (contract(), contract(values=(1.0, 1.0)), "range of values rises"),
        (contract(values=(0.0, float("inf"))), contract(), "values rises"),
    ],
)
def test_no_way(images, module, message):
    with pytest.raises(ArtifactError, match=f"Received: .*{message}"):
        plan_adaptation(images, module)


def taking(shape, values=(0.0, 1.0), dtype="float32"):
    return InputContract(shape, dtype, values)


def random_images(shape, values=(0.0, 1.0), dtype="float32"):
    draw = np.random.default_rng(0)
    return draw.uniform(*values, (3, *shape)).astype(dtype)


def adapted(images, before, after, size="resize"):
    return adapt_images(images, plan_adaptation(before, after, size))


ALONE = {
    "from_dtype": "uint8",
    "crop": ((1, 0), (0, 0)),
    "to_grey": True,
    "pool": (2, 2),
    "resize": (3, 3),
    "rescale": (2.0, 0.0),
    "pad": ((1, 0), (0, 0)),
    "shift": 1.0,
    "to_rgb": True,
    "to_dtype": "uint8",
}


@pytest.mark.parametrize(
    "step", [f.name for f in dataclasses.fields(Adaptation)]
)
def test_every_step_has_its_layers(step):
    dtype = "uint8" if step == "from_dtype" else "float32"
    images = random_images((4, 4, 3), (1, 9), dtype)
    found = adapt_images(images, Adaptation(**{step: ALONE[step]}))
    is_same = found.shape == images.shape and found.dtype == images.dtype
    assert not (is_same and (found == images).all())


def test_range_and_channels_by_hand():
    images = random_images((2, 3, 3), (-1, 1))
    answers = adapted(images, taking((2, 3, 3), (-1.0, 1.0)), taking((2, 3, 1)))
    luma = images @ np.array([[0.299], [0.587], [0.114]])
    np.testing.assert_allclose(answers, (luma + 1) / 2, atol=1e-6)


def test_grey_becomes_three_equal_channels():
    images = random_images((2, 3, 1))
    answers = adapted(images, taking((2, 3, 1)), taking((2, 3, 3)))
    np.testing.assert_array_equal(answers, np.repeat(images, 3, axis=3))


def test_border_is_black():
    images = random_images((2, 3, 1), (10, 20))
    answers = adapted(
        images,
        taking((2, 3, 1), (10.0, 20.0)),
        taking((4, 2, 1), (-1.0, 1.0)),
        "pad",
    )
    assert answers.shape == (3, 4, 2, 1)
    np.testing.assert_array_equal(answers[:, [0, 3]], -1)
    np.testing.assert_allclose(
        answers[:, 1:3], (images[:, :, :2] - 15) / 5, rtol=0, atol=1e-5
    )


def test_whole_factors_average():
    images = random_images((4, 6, 1))
    answers = adapted(images, taking((4, 6, 1)), taking((2, 2, 1)))
    expected = images.reshape(3, 2, 2, 2, 3, 1).mean(axis=(2, 4))
    np.testing.assert_allclose(answers, expected, atol=1e-6)


def test_resizing_keeps_a_gradient():
    images = np.linspace(0, 1, 8)[None, :, None, None]
    images = np.repeat(images, 8, axis=2).astype("float32")
    answers = adapted(images, taking((8, 8, 1)), taking((12, 12, 1)))
    assert answers.shape == (1, 12, 12, 1)
    assert (np.diff(answers[0, :, 0, 0]) >= 0).all()
    np.testing.assert_allclose(answers.mean(), 0.5, atol=1e-6)


def test_bytes_are_rounded():
    images = np.array([0.0, 0.501, 0.499, 1.0], "float32").reshape(1, 2, 2, 1)
    after = taking((2, 2, 1), (0.0, 3.0), "uint8")
    answers = adapted(images, taking((2, 2, 1)), after)
    assert answers.dtype == "uint8"
    assert answers.ravel().tolist() == [0, 2, 1, 3]


def test_bytes_in():
    images = random_images((4, 4, 3), (0, 256), "uint8")
    before = taking((4, 4, 3), (0.0, 255.0), "uint8")
    answers = adapted(images, before, taking((2, 2, 1)))
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
    after = taking((6, 5, 1), (0.0, 255.0), "uint8")
    image = keras.Input(after.shape, dtype="uint8")
    model = keras.Model(
        image, keras.layers.Dense(2)(keras.layers.Flatten()(image))
    )
    before = taking((4, 8, 3), (-1.0, 1.0))
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


def test_images_are_real():
    contract = InputContract((8, 8, 1), "float32", (0.0, 255.0))
    images = comparison_images(contract)
    assert images.dtype == "float32"
    np.testing.assert_array_equal(images, load_data("digits").test.images[:8])


@pytest.mark.parametrize(
    ("shape", "dtype"), [((9, 12, 3), "float32"), ((5, 5, 4), "uint8")]
)
def test_images_fit(shape, dtype):
    contract = InputContract(shape, dtype, (0.0, 200.0))
    images = comparison_images(contract)
    assert (images.shape, images.dtype) == ((8, *shape), dtype)
    assert images.min() >= 0 and 100 < images.max() <= 200
