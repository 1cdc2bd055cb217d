"""Sources of every form: composed again, their modules answer as they do."""

import keras
import numpy as np
import pytest
from keras import layers

import kmod

SPEC = """
version: 1
name: again
stores:
  own: {path: store}
scores: {calibration: none}
classes:
"""


def body(image):
    x = layers.Conv2D(6, 3, activation="relu", name="first")(image)
    return layers.Conv2D(8, 3, activation="relu", name="second")(x)


def pooled(image):
    return layers.GlobalAveragePooling2D()(body(image))


def sigmoid():
    image = keras.Input((8, 8, 3))
    dense = layers.Dense(1, activation="sigmoid")
    return keras.Model(image, dense(pooled(image)))


def one_logit():
    image = keras.Input((8, 8, 3))
    return keras.Model(image, layers.Dense(1)(pooled(image)))


def convolution():
    image = keras.Input((8, 8, 3))
    x = layers.Conv2D(3, 1)(body(image))
    x = layers.GlobalAveragePooling2D()(x)
    return keras.Model(image, keras.ops.softmax(x))


def any_size():
    image = keras.Input((None, None, 3))
    x = layers.Dense(3, activation="softmax")(pooled(image))
    return keras.Model(image, x)


def takes_bytes():
    image = keras.Input((8, 8, 3), dtype="uint8")
    x = layers.Rescaling(1 / 255)(image)
    return keras.Model(image, layers.Dense(3)(pooled(x)))


def grey():
    image = keras.Input((8, 8, 1))
    return keras.Model(image, layers.Dense(3)(pooled(image)))


CASES = [
    pytest.param(sigmoid, (8, 8, 3), "float32", id="sigmoid"),
    pytest.param(one_logit, (8, 8, 3), "float32", id="one-logit"),
    pytest.param(convolution, (8, 8, 3), "float32", id="convolution"),
    pytest.param(any_size, (9, 10, 3), "float32", id="any-size"),
    pytest.param(takes_bytes, (8, 8, 3), "uint8", id="takes-bytes"),
    pytest.param(grey, (8, 8), "float32", id="no-channel-axis"),
    pytest.param(grey, (8, 8), "uint8", id="bytes-into-float"),
]


def centred(model, images):
    """Shifts the output layer so that every class is the best for some."""
    layer = next(x for x in reversed(model.layers) if x.weights)
    features = keras.Model(model.input, layer.input)
    kernel, bias = layer.get_weights()
    values = features(images)
    axes = tuple(range(len(values.shape) - 1))
    spread = np.std(values, axis=axes) + 1e-6
    kernel = kernel / spread[:, None]
    bias = -np.mean(values, axis=axes) @ kernel.reshape(len(spread), -1)
    layer.set_weights([kernel, bias])
    return model


@pytest.mark.parametrize(("make", "shape", "dtype"), CASES)
def test_composed_again_it_answers_the_same(make, shape, dtype, tmp_path):
    keras.utils.set_random_seed(0)
    draw = np.random.default_rng(0)
    images = draw.random((60, 4, 4, *shape[2:])) ** 2
    images = np.repeat(np.repeat(images, 3, 1), 3, 2)
    images = images[:, : shape[0], : shape[1]] * 255
    images = images.astype(dtype)
    source = make()
    ready = images[..., None] if len(shape) == 2 else images
    source = centred(source, ready.astype(source.inputs[0].dtype))
    answers = source.predict(images, verbose=0)
    if answers.shape[1] == 1:
        threshold = 0.5 if make is sigmoid else 0
        labels = (answers[:, 0] > threshold).astype(int)
    else:
        labels = answers.argmax(axis=1)
    num_classes = labels.max() + 1
    assert np.bincount(labels).min() >= 5
    modular = kmod.ModularModel(source, input_shape=shape)
    kmod.decompose(
        modular, tmp_path / "store", data=(images, labels), value_range=(0, 255)
    )
    spec = tmp_path / "again.yaml"
    rows = [
        f"  - {{name: '{i}', module: {{store: own, class: '{i}'}}}}\n"
        for i in range(num_classes)
    ]
    spec.write_text(SPEC.lstrip() + "".join(rows))
    model = kmod.compose(kmod.load_spec(spec))
    found = model.predict(ready.astype("float32"), verbose=0)
    np.testing.assert_array_equal(found.argmax(axis=1), labels)
    assert kmod.evaluate(source, (images, labels)).accuracy == 1
