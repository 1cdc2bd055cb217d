import keras
import numpy as np
import pytest
import tensorflow as tf

from kmod.errors import UsageError
from kmod.modules.savedmodel import export_saved_model


@pytest.fixture
def model():
    image = keras.Input((2, 2, 1), name="any", dtype="uint8")
    scaled = keras.layers.Rescaling(0.5)(image)
    return keras.Model(image, keras.layers.Flatten()(scaled))


def test_signatures_have_names(model, tmp_path, capsys):
    export_saved_model(model, tmp_path, output="scores")
    loaded = tf.saved_model.load(tmp_path)
    assert set(loaded.signatures) == {"serve", "serving_default"}
    image = np.full((3, 2, 2, 1), 4, "uint8")
    answer = loaded.signatures["serving_default"](image=tf.constant(image))
    np.testing.assert_array_equal(answer["scores"], np.full((3, 4), 2.0))
    np.testing.assert_array_equal(
        loaded.serve(image)["scores"], answer["scores"]
    )
    assert capsys.readouterr().out == ""


def test_other_backends_are_refused(model, tmp_path, monkeypatch):
    monkeypatch.setattr(keras.backend, "backend", lambda: "jax")
    with pytest.raises(UsageError, match="Received: backend='jax'. Save"):
        export_saved_model(model, tmp_path)
