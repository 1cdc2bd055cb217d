import keras
import numpy as np
import pytest
import yaml

from kmod.data.digits import load_digits
from kmod.masks.modular_model import ModularModel
from kmod.store.decompose import decompose

CLASS_NAMES = ("cat", "dog", "T-shirt/top", "no")
STEM = ("conv_1", "norm_1")


def build_source(num_classes=len(CLASS_NAMES), seed=0, shape=(8, 8, 1)):
    keras.utils.set_random_seed(seed)
    image = keras.Input(shape, name="image")
    x = keras.layers.Rescaling(1 / 255, name="rescaling")(image)
    x = keras.layers.Conv2D(6, 3, name="conv_1")(x)
    x = keras.layers.BatchNormalization(name="norm_1")(x)
    x = keras.layers.ReLU(name="relu_1")(x)
    x = x + keras.layers.Conv2D(6, 3, padding="same", name="conv_2")(x)
    x = keras.layers.Conv2D(24, 3, activation="relu", name="conv_3")(x)
    x = keras.layers.GlobalAveragePooling2D(name="pool")(x)
    x = keras.layers.Dense(num_classes, name="logits")(x)
    x = keras.layers.Softmax(name="probabilities")(x)
    return keras.Model(image, x, name=f"source_{seed}")


def build_modular(seed=0, mask_from="conv_3", **changes):
    """A modular model with random masks: nothing is trained."""
    names = CLASS_NAMES if "num_classes" not in changes else None
    source = build_source(seed=seed, **changes)
    modular = ModularModel(source, names, mask_from=mask_from, seed=seed)
    random = np.random.default_rng(seed)
    masks = np.ones_like(modular.kernel_masks)
    columns = modular.kernels.ids_of("conv_3")
    masks[:, columns] = random.integers(0, 2, (len(masks), len(columns)))
    masks[:, columns[0]] = 1
    modular.kernel_masks = masks
    modular.set_calibration(random.uniform(1, 3, len(masks)), -0.5)
    return modular


@pytest.fixture(scope="session")
def stores(tmp_path_factory):
    """Two stores, `a` and `b`, of source models with different weights."""
    folder = tmp_path_factory.mktemp("stores")
    return {
        name: decompose(build_modular(seed), folder / name)
        for seed, name in enumerate("ab")
    }


@pytest.fixture(scope="session")
def images():
    draw = np.random.default_rng(7)
    return draw.uniform(0, 255, (16, 8, 8, 1)).astype("float32")


@pytest.fixture
def write_spec(stores, tmp_path):
    """Writes a spec of the stores `a` and `b` and returns its path."""

    def write(classes=(("cat", "a", "cat"), ("dog", "a", "dog")), **changes):
        data = {
            "version": 1,
            "name": "pets",
            "stores": {
                name: {"path": f"../{store.path.name}"}
                for name, store in stores.items()
            },
            "classes": [
                {"name": name, "module": {"store": store, "class": module}}
                for name, store, module in classes
            ],
            **changes,
        }
        data = {key: value for key, value in data.items() if value is not None}
        folder = stores["a"].path.parent / tmp_path.name
        folder.mkdir(exist_ok=True)
        path = folder / "spec.yaml"
        path.write_text(yaml.safe_dump(data, sort_keys=False))
        return path

    return write


@pytest.fixture(scope="session")
def digits():
    return load_digits()


@pytest.fixture(scope="session")
def strong(digits):
    """A modular model of a source that knows the digits a little."""
    source = build_source(num_classes=10, seed=3)
    _train(source, digits.train, epochs=12)
    return ModularModel(source, digits.class_names, mask_from="conv_3")


@pytest.fixture(scope="session")
def donor(strong, digits, tmp_path_factory):
    validation = digits.validation
    return decompose(
        strong,
        tmp_path_factory.mktemp("donor") / "store",
        data=(validation.images, validation.labels),
        value_range=digits.value_range,
    )


@pytest.fixture(scope="session")
def weak(digits):
    """A model that has hardly seen the digit 8."""
    train = digits.train
    source = build_source(num_classes=10, seed=4)
    rare = (train.labels != 8) | (np.arange(len(train)) % 12 == 0)
    _train(source, train.take(np.flatnonzero(rare)), epochs=8)
    return source


def _train(model, images, epochs):
    keras.utils.set_random_seed(0)
    model.compile(
        keras.optimizers.Adam(0.01), "sparse_categorical_crossentropy"
    )
    model.fit(images.images, images.labels, 32, epochs, verbose=0)
