import subprocess
import sys

import keras
import numpy as np
import pytest

from kmod.graph.content import content_digest

DIGEST_ELSEWHERE = """
import sys, keras
from kmod.graph.content import content_digest
print(content_digest(keras.saving.load_model(sys.argv[1])))
"""


def make(units=2, name="net"):
    model = keras.Sequential(
        [
            keras.Input((4, 4, 1)),
            keras.layers.Conv2D(units, 3, kernel_regularizer="l2"),
            keras.Sequential([keras.layers.BatchNormalization()]),
            keras.layers.Dropout(0.5),
            keras.layers.Flatten(),
            keras.layers.Dense(2),
        ],
        name=name,
    )
    rng = np.random.default_rng(0)
    model.set_weights([rng.uniform(size=w.shape) for w in model.weights])
    return model


@pytest.mark.long
def test_digest_survives_saving_compiling_and_another_process(tmp_path):
    keras.utils.clear_session()
    model = make()
    digest = content_digest(model)
    model.compile("adam", "mse")
    model(np.zeros((3, 4, 4, 1)))
    model.save(tmp_path / "model.keras")
    assert content_digest(model) == digest
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert content_digest(loaded) == digest
    result = subprocess.run(
        [sys.executable, "-c", DIGEST_ELSEWHERE, tmp_path / "model.keras"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert result.stdout.strip() == digest


def test_digest_tells_models_apart():
    keras.utils.clear_session()
    digest = content_digest(make())
    keras.utils.clear_session()
    assert content_digest(make()) == digest
    keras.utils.clear_session()
    assert content_digest(make(units=3)) != digest
    keras.utils.clear_session()
    other = make()
    other.weights[0].assign(other.weights[0] + 1e-6)
    assert content_digest(other) != digest
