"""Training on two devices, in processes of their own."""

import importlib.util
import json
import os
import subprocess
import sys

import pytest

pytestmark = pytest.mark.long

TWO_PROCESSORS = """
import tensorflow as tf

tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0],
    [tf.config.LogicalDeviceConfiguration()] * 2,
)
strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
"""
SOURCE = """
import contextlib
import json
import tempfile
from pathlib import Path

import keras
import numpy as np

import kmod
from kmod.callbacks.epoch_checkpoints import EpochSeed
from kmod.data.load import load_data
from kmod.data.subsets import class_subset
from kmod.modular import modular_model
from kmod.modular.losses import ModuleLoss
from kmod.modular.recipe import Recipe

RECIPE = Recipe("quick", retention_target=0.5, rows_per_image=2, warm_up=0.0)
digits = load_data("digits")
train = class_subset(digits.train, [3, 5, 8, 9]).take(np.arange(384))
held_out = class_subset(digits.validation, [3, 5, 8, 9]).take(np.arange(64))
keras.utils.set_random_seed(0)
source = keras.Sequential([
    keras.Input((8, 8, 1)),
    keras.layers.Rescaling(1 / 255),
    keras.layers.Conv2D(24, 3, activation="relu"),
    keras.layers.Conv2D(32, 3, activation="relu"),
    keras.layers.GlobalAveragePooling2D(),
    keras.layers.Dense(4, activation="softmax"),
])
source.compile(keras.optimizers.Adam(0.01), "sparse_categorical_crossentropy")
source.fit(train.images, train.labels, 32, epochs=8, verbose=0)
"""
COMPARISON = """
class Steep(ModuleLoss):
    def call(self, labels, scores):  # Nearly all gradients of masks clip.
        return 100 * super().call(labels, scores)


def trained(scope=contextlib.nullcontext):
    with scope():
        keras.utils.set_random_seed(0)
        modular = kmod.ModularModel(source, recipe=RECIPE)
        modular.compile(loss=Steep())
        modular.fit(
            train.images, train.labels, batch_size=32, verbose=0,
            callbacks=[EpochSeed(0)],
        )
    return modular


def figures(one, two, control):
    return {
        "equal": equal(one, two),
        "control": equal(one, control),
        "accuracies": [accuracy(one), accuracy(two)],
    }


def equal(one, other):
    return float(np.mean(one.kernel_masks == other.kernel_masks))


def accuracy(modular):
    scores = modular.class_scores(train.images[:383])
    return float(np.mean(scores.argmax(1) == train.labels[:383]))


one = trained()
"""
ON_TENSORFLOW = """
two = trained(strategy.scope)
modular_model.draw_by_image = lambda draw, num_images: draw(num_images)
print(json.dumps(figures(one, two, control=trained(strategy.scope))))
"""
ON_JAX = """
devices = keras.distribution.list_devices()
keras.distribution.set_distribution(
    keras.distribution.DataParallel(devices=devices)
)
two = trained()
errors = []
for count, held in ((65, 64), (64, 63)):
    try:
        two.fit(
            train.images[:count],
            train.labels[:count],
            validation_data=(held_out.images[:held], held_out.labels[:held]),
        )
    except kmod.UsageError as error:
        errors.append(str(error))
draw = keras.random.uniform
keras.random.uniform = lambda shape, seed: draw(shape, seed=1)
found = figures(one, two, control=trained())
print(json.dumps({**found, "devices": len(devices), "errors": errors}))
"""
WHOLE_WAY = """
FOLDER = Path(tempfile.mkdtemp())
validation = held_out.images, held_out.labels


class CutShort(keras.callbacks.Callback):
    def on_epoch_begin(self, epoch, logs=None):
        if epoch == 1:
            raise KeyboardInterrupt


def modularize(scope=contextlib.nullcontext, **options):
    with scope():
        return kmod.modularize(
            source,
            (train.images, train.labels),
            validation,
            recipe=RECIPE,
            epochs=2,
            batch_size=32,
            accuracy_budget=1.0,
            value_range=(0, 255),
            verbose=0,
            **options,
        )


one = modularize()
run = {"scope": strategy.scope, "run_directory": FOLDER / "run"}
with contextlib.suppress(KeyboardInterrupt):
    modularize(**run, callbacks=[CutShort()])
two = modularize(**run, resume=True)
with strategy.scope():
    store = kmod.decompose(two, FOLDER / "store", data=validation)
    refined = kmod.refine(
        store,
        FOLDER / "refined",
        source,
        (train.images, train.labels),
        validation,
        epochs=2,
        verbose=0,
    )

# Built in the scope, trained outside of it, from disk, beside negatives; the
# last batch has an image for one of the replicas only.
images = np.lib.format.open_memmap(
    FOLDER / "images.npy", "w+", train.images.dtype, (65, 8, 8, 1)
)
images[:] = train.images[:65]
with strategy.scope():
    modular = kmod.ModularModel(source, recipe=RECIPE, value_range=(0, 255))
modular.compile()
history = modular.fit(
    images,
    train.labels[:65],
    negatives=255 - train.images[:40],
    batch_size=32,
    verbose=0,
)
weights = modular.get_weights()
print(json.dumps({
    "equal": float(np.mean(one.kernel_masks == two.kernel_masks)),
    "gap": max(store[name].info.max_output_gap for name in store),
    "refined": refined.manifest.metrics["after"]["accuracy"],
    "variables": [
        type(each.value).__name__ for each in modular.optimizer.variables
    ],
    "are_finite": bool(
        np.isfinite(history.history["loss"]).all()
        and all(np.isfinite(each).all() for each in weights)
    ),
}))
"""


def run(*parts, **environment):
    done = subprocess.run(
        [sys.executable, "-c", "".join(parts)],
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join(sys.path),
            **environment,
        },
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])


def check_alike(found):
    one, two = found["accuracies"]
    assert found["equal"] >= 0.995
    assert one > 0.9
    assert abs(one - two) <= 0.005
    assert found["control"] < 0.98, "the comparison tells nothing"


def test_mirrored_strategy_finds_the_masks_of_one_device():
    check_alike(
        run(
            TWO_PROCESSORS,
            SOURCE,
            COMPARISON,
            ON_TENSORFLOW,
            KERAS_BACKEND="tensorflow",
        )
    )


@pytest.mark.skipif(
    importlib.util.find_spec("jax") is None, reason="JAX is not installed"
)
def test_jax_finds_the_masks_of_one_device():
    found = run(
        SOURCE,
        COMPARISON,
        ON_JAX,
        KERAS_BACKEND="jax",
        JAX_PLATFORMS="cpu",
        XLA_FLAGS="--xla_backend_optimization_level=0 "
        "--xla_force_host_platform_device_count=2",
    )
    check_alike(found)
    assert found["devices"] == 2
    of_training, of_validation = found["errors"]
    assert "65 images as `x` in batches of 32, the last one of 1" in of_training
    assert "63 images as `validation_data`" in of_validation


@pytest.mark.slow
def test_whole_way_in_the_scope():
    found = run(TWO_PROCESSORS, SOURCE, WHOLE_WAY, KERAS_BACKEND="tensorflow")
    assert found["equal"] >= 0.995
    assert found["gap"] < 1e-4
    assert found["refined"] > 0.9
    assert {*found["variables"]} == {"MirroredVariable"}
    assert found["are_finite"]
