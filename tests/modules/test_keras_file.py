import keras
import numpy as np
import pytest

from kmod.errors import ArtifactError
from kmod.modules.keras_file import load_keras_file


def build_model(layer):
    image = keras.Input((3,))
    return keras.Model(image, layer(image))


def test_load(tmp_path):
    model = build_model(keras.layers.Dense(2))
    model.compile("adam", "mse")
    model.save(tmp_path / "m.keras")
    loaded = load_keras_file(tmp_path / "m.keras")
    assert not loaded.compiled
    x = np.ones((1, 3))
    np.testing.assert_array_equal(loaded(x), model(x))


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("m.keras", "which does not exist"),
        ("m.h5", "a file of another kind"),
        ("folder", "a directory"),
    ],
)
def test_other_paths(tmp_path, name, what):
    (tmp_path / "m.h5").write_bytes(b"x")
    (tmp_path / "folder").mkdir()
    with pytest.raises(ArtifactError, match=f"{name}', {what}"):
        load_keras_file(tmp_path / name)


def test_damaged_file(tmp_path):
    (tmp_path / "m.keras").write_bytes(b"no archive")
    with pytest.raises(ArtifactError, match="can not be loaded by Keras"):
        load_keras_file(tmp_path / "m.keras")


def test_code_in_a_file_is_not_run(tmp_path):
    build_model(keras.layers.Lambda(lambda x: x)).save(tmp_path / "m.keras")
    with pytest.raises(ArtifactError, match="without Lambda layers"):
        load_keras_file(tmp_path / "m.keras")
