import runpy
import shutil
import types
from pathlib import Path

import keras
import numpy as np
import pytest

from kmod.modules.class_module import ClassModule
from kmod.modules.class_module import ModuleInfo
from kmod.modules.manifest import InputContract
from kmod.modules.manifest import SourceRecord
from kmod.modules.manifest import StoreManifest
from kmod.modules.module_store import StoreContent
from kmod.modules.module_store import save_store

BENCHMARK = Path("benchmarks", "removable_kernels.py")
SOURCE_DIGEST = "sha256:" + "5" * 64
CLASS_NAMES = ("../x", "cat", "T-shirt/top", "🐟", "no")


def build_model(filters=3, seed=0):
    """Returns a model as `cut` makes them: convolution to calibrated score."""
    keras.utils.set_random_seed(seed)
    image = keras.Input((8, 8, 3), name="image")
    x = keras.layers.Conv2D(filters, 3, name="conv")(image)
    x = keras.layers.BatchNormalization(name="norm")(x)
    x = keras.layers.ReLU(name="relu")(x)
    x = x + keras.layers.Conv2D(filters, 1, activation="gelu")(x)
    x = keras.layers.GlobalAveragePooling2D(name="pool")(x)
    x = keras.layers.Dense(1, name="head")(x)
    x = keras.layers.Dense(1, name="calibration")(x)
    x = keras.layers.Activation("sigmoid", name="score")(x)
    return keras.Model(image, x, name="module")


def build_module(class_name, model=None, **changes):
    index = CLASS_NAMES.index(class_name) if class_name in CLASS_NAMES else 9
    facts = {
        "class_name": class_name,
        "class_index": index,
        "source_digest": SOURCE_DIGEST,
        "kept_kernels": {"conv": (0, 2, 5), "hidden": ()},
        "num_kernels": 12,
        "retention_rate": 0.25,
        "parameters": 100,
        "macs": 1000,
        "calibration": {"scale": 2.0, "shift": -1.5, "num_images": 50},
        "metrics": {"f1": 0.75},
        "max_output_gap": None,
    }
    return ClassModule(model or build_model(), ModuleInfo(**facts | changes))


@pytest.fixture(scope="session")
def modules():
    return [
        build_module(name, build_model(index + 2, seed=index))
        for index, name in enumerate(["🐟", "cat", "T-shirt/top"])
    ]


@pytest.fixture(scope="session")
def manifest():
    return StoreManifest(
        source=SourceRecord("source", SOURCE_DIGEST, "SimCNN"),
        class_names=CLASS_NAMES,
        input=InputContract((8, 8, 3), "float32", (0.0, 255.0)),
        method="gradsplitter",
        arguments={"epochs": np.int64(3), "alpha": np.float32(0.5)},
        kernels={"conv": 8, "hidden": 4},
        seed=7,
        data={"name": "digits", "version": "1.0", "split": "train"},
        license="Apache-2.0",
        metrics={"before": {"accuracy": 0.9}, "after": {"accuracy": 0.89}},
    )


@pytest.fixture(scope="session")
def images():
    return np.random.default_rng(1).uniform(0, 255, (4, 8, 8, 3))


@pytest.fixture(scope="session")
def saved(tmp_path_factory, modules, manifest):
    """A store for reading only."""
    return save_store(
        tmp_path_factory.mktemp("s") / "store", StoreContent(modules, manifest)
    )


@pytest.fixture
def store_copy(saved, tmp_path):
    """Path of a store that a test may damage."""
    return shutil.copytree(saved.path, tmp_path / "moved")


@pytest.fixture(scope="session")
def exactness():
    """What the benchmark measures exactness with."""
    path = Path(__file__).parents[2] / BENCHMARK
    return types.SimpleNamespace(**runpy.run_path(str(path)))
