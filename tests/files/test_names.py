import re

import keras
import numpy as np
import pytest

from kmod.files import keras_name
from kmod.files import slug
from kmod.files import slugs


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        pytest.param("cat", "cat", id="plain"),
        pytest.param("../x", "x", id="parent-directory"),
        pytest.param("T-shirt/top", "t-shirt-top", id="slash"),
        pytest.param("Ankle boot", "ankle-boot", id="space"),
        pytest.param("Käse 1.", "kase-1", id="accent-and-dot"),
        pytest.param("CON", "name-con", id="device"),
        pytest.param("x" * 300, "x" * 60, id="long"),
        pytest.param("x" * 59 + " y", "x" * 59, id="cut-at-hyphen"),
    ],
)
def test_slug(name, expected):
    assert slug(name) == expected


@pytest.mark.parametrize("name", ["", "🐟", "猫", "..", "\x00", "\ud800"])
def test_slug_without_ascii_letters(name):
    assert re.fullmatch("name-[0-9a-f]{8}", slug(name))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("SimCNN_v2.1", "SimCNN_v2.1"),
        ("my model", "my-model"),
        ("_model", "model"),
        ("a/b", "a-b"),
        ("Käfer", "kafer"),
    ],
)
def test_names_of_models_run_in_a_graph(text, expected):
    assert keras_name(text) == expected
    image = keras.Input((2,))
    model = keras.Model(image, keras.layers.Dense(1)(image), name=expected)
    assert model.predict(np.zeros((3, 2)), verbose=0).shape == (3, 1)


def test_slugs_tell_names_without_ascii_letters_apart():
    assert len(set(slugs(["🐟", "🐈", "猫"]).values())) == 3


def test_slugs_number_collisions():
    chosen = slugs(["a b", "a-b", "a-b-2", "A B"])
    assert chosen == {
        "a b": "a-b",
        "a-b": "a-b-2",
        "a-b-2": "a-b-2-2",
        "A B": "a-b-3",
    }
