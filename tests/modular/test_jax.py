"""The modular model on the JAX backend, in a process of its own."""

import importlib.util
import os
import subprocess
import sys

import pytest

pytestmark = pytest.mark.long

SCRIPT = """
import keras
import numpy as np
from keras import layers

from kmod.modular.modular_model import ModularModel
from kmod.modular.recipe import Recipe
from kmod.modules.cut import cut_module, log_odds_model

assert keras.backend.backend() == "jax"


def source_of(shape, **first):
    axis = 1 if first else -1
    return keras.Sequential([
        keras.Input(shape),
        layers.Conv2D(4, 3, name="first", **first),
        layers.BatchNormalization(axis, beta_initializer="ones"),
        layers.DepthwiseConv2D(3, depth_multiplier=2, **first),
        layers.PReLU("uniform"),
        layers.Conv2DTranspose(4, 2, **first),
        layers.Flatten(**first),
        layers.Dense(3, activation="softmax"),
    ])


def check_exact(modular):
    expected = modular.class_log_odds(images)[:, 1]
    module = log_odds_model(cut_module(modular, 1))
    gap = np.abs(np.array(module(images))[:, 0] - expected).max()
    assert module.get_layer("first").filters < 4
    assert gap < 1e-4 * np.abs(expected).max(), gap


images = np.random.default_rng(0).normal(size=(24, 6, 6, 3)).astype("float32")
recipe = Recipe("quick", retention_target=0.5, rows_per_image=2, warm_up=0.0)
modular = ModularModel(source_of((6, 6, 3)), recipe=recipe)
modular.compile()
modular.fit(images, np.arange(24) % 3, epochs=1, batch_size=4, verbose=0)
assert modular.retention_rate == 0.5, modular.retention_rate
modular.kernel_masks = np.tile([1, 0, 1, 0, 1, 1, 0, 1], (3, 1))
check_exact(modular)

images = images.transpose(0, 3, 1, 2)
modular = ModularModel(source_of((3, 6, 6), data_format="channels_first"))
modular.run_eagerly = True
modular.kernel_masks = np.tile([1, 0, 1, 0, 1, 1, 0, 1], (3, 1))
check_exact(modular)
print("exact")
"""


@pytest.mark.skipif(
    importlib.util.find_spec("jax") is None, reason="JAX is not installed"
)
def test_fit_and_cut():
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        env={
            **os.environ,
            "KERAS_BACKEND": "jax",
            "JAX_PLATFORMS": "cpu",
            "XLA_FLAGS": "--xla_backend_optimization_level=0",
            "PYTHONPATH": os.pathsep.join(sys.path),
        },
        capture_output=True,
        text=True,
    )
    assert done.stdout.strip() == "exact", done.stderr[-2000:]
