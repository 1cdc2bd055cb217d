import dataclasses

import keras
import numpy as np
import pytest
import yaml

from kmod.data.digits import load_digits
from kmod.data.image_data import SPLITS
from kmod.data.subsets import class_subset
from kmod.masks.modular_model import ModularModel
from kmod.store.decompose import decompose

CLASS_NAMES = ("cat", "dog", "T-shirt/top", "no")


def build_source(num_classes=len(CLASS_NAMES), seed=0):
    keras.utils.set_random_seed(seed)
    image = keras.Input((8, 8, 1), name="image")
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


def build_modular(seed):
    """A modular model with random masks: nothing is trained."""
    source = build_source(seed=seed)
    modular = ModularModel(source, CLASS_NAMES, mask_from="conv_3", seed=seed)
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
        name: decompose(
            build_modular(seed), folder / name, value_range=(0, 255)
        )
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
        data["classes"] = data.pop("classes_", data["classes"])
        data = {key: value for key, value in data.items() if value}
        folder = stores["a"].path.parent / tmp_path.name
        folder.mkdir(exist_ok=True)
        path = folder / "spec.yaml"
        path.write_text(yaml.safe_dump(data, sort_keys=False))
        return path

    return write


@pytest.fixture(scope="session")
def digits():
    """The digits 3, 8 and 9, which look alike."""
    data = load_digits()
    parts = {
        name: class_subset(getattr(data, name), [3, 8, 9]) for name in SPLITS
    }
    return dataclasses.replace(data, class_names=("3", "8", "9"), **parts)


@pytest.fixture(scope="session")
def strong(digits):
    """A source model that knows the digits a little."""
    keras.utils.set_random_seed(0)
    model = build_source(num_classes=3)
    loss = "sparse_categorical_crossentropy"
    model.compile(keras.optimizers.Adam(0.01), loss)
    train = digits.train
    model.fit(train.images, train.labels, 32, epochs=8, verbose=0)
    return model


@pytest.fixture(scope="session")
def donor(strong, digits, tmp_path_factory):
    """A store of the strong model's unmasked modules."""
    modular = ModularModel(strong, digits.class_names, mask_from="conv_3")
    path = tmp_path_factory.mktemp("donor") / "store"
    return decompose(modular, path, value_range=(0, 255))


@pytest.fixture(scope="session")
def weak(strong):
    """The strong model, but blind to the digit 8."""
    model = keras.models.clone_model(strong)
    model.set_weights(strong.get_weights())
    kernel, bias = model.get_layer("logits").get_weights()
    kernel[:, 1] = kernel[:, 0]
    bias[1] = bias[0] - 0.5
    model.get_layer("logits").set_weights([kernel, bias])
    return model
