"""Every row of docs/models_and_data.md, tried as a user would.

Training runs eagerly: tracing graphs would take longer than the few steps.
"""

import csv
import functools
import json
import re
import shutil
import sys
import traceback
import types
import warnings
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers
from keras import ops

import kmod
from kmod.cli.main import main
from kmod.cli.models import load_model
from kmod.errors import KmodError
from kmod.graph import PassThrough
from kmod.graph.rules.table import _registered
from kmod.modules.cut import cut_module

PAGE = Path(__file__).parent.parent / "docs/models_and_data.md"
SIZE, NUM_IMAGES = 8, 60
NAMES = ("10", "2", "ant")
# Keeps all kernels and trains too little to change an answer.
STILL = kmod.Recipe(
    "still",
    retention_target=1.0,
    head_rate=1e-9,
    adapt_rate=1e-9,
    mask_rate=1e-9,
)
# What is tried for each row, by its first cell.
CASES = {}


def read_rows():
    """Returns the rows of all tables of the page, by their first cell."""
    lines = PAGE.read_text("utf-8").splitlines()
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in lines
        if line.startswith("| ")
    ]
    rows = [row for row in rows if row[1] not in ("outcome", "---")]
    assert len({row[0] for row in rows}) == len(rows)
    return {row[0]: row[1:] for row in rows}


ROWS = read_rows()


def row(name):
    def add(case):
        assert name not in CASES
        CASES[name] = case
        return case

    return add


class Refused(Exception):
    """What a command says when it does not exit with 0."""


class User:
    """Somebody with a folder, a few images and a model of three classes."""

    def __init__(self, folder, capsys):
        self.folder = folder
        self.capsys = capsys
        self.out = folder / "out"
        self.said = ""
        self.images = coarse_images((SIZE, SIZE, 3))
        self.source = knowing(classifier(), self.images)
        self.labels = answers(self.source, self.images)

    def command(self, *argv):
        """Runs a command; returns what it prints to stdout."""
        self.capsys.readouterr()
        exit_code = main([str(word) for word in argv])
        out, err = self.capsys.readouterr()
        self.said += " ".join(err.split())
        if exit_code != 0:
            assert exit_code in (2, 3), err
            raise Refused(self.said)
        return out

    def modularize(self, train=None, validation=None, model=None, **options):
        """Searches for one epoch, which changes nothing."""
        pair = self.images, self.labels
        options = {"recipe": STILL, **options}
        return kmod.modularize(
            self.source if model is None else model,
            pair if train is None else train,
            pair if validation is None else validation,
            epochs=1,
            verbose=0,
            **options,
        )

    def search(self, *data, **options):
        """Checks that modules keep the order of the classes."""
        modular = self.modularize(*data, **options)
        labels = answers(modular, self.images)
        np.testing.assert_array_equal(labels, self.labels)
        assert kmod.evaluate(self.source, data[-1]).accuracy == 1
        return modular

    def unmasked(self, model, shape=(SIZE, SIZE, 3), images=None, **options):
        """Checks that all modules together answer as a model does."""
        if images is None:
            images = coarse_images(shape)
        if not hasattr(model, "class_names"):
            model = knowing(model, images)
        labels = answers(model, images)
        assert len(np.unique(labels)) > 1
        modular = kmod.ModularModel(
            model, input_shape=images.shape[1:], **options
        )
        np.testing.assert_array_equal(answers(modular, images), labels)
        assert kmod.evaluate(model, (images, labels)).accuracy == 1
        return modular

    def saved(self, model=None, name="model.keras"):
        path = self.folder / name
        (model or self.source).save(path)
        return path

    def refused_file(self, path):
        self.command(
            *("modularize", path, "--data", self.npz(), "--out", self.out)
        )

    def npz(self, images=None, **arrays):
        images = self.images if images is None else images
        arrays = {"x_test": images, "y_test": self.labels, **arrays}
        path = self.folder / "data.npz"
        np.savez(path, x_train=images, y_train=self.labels, **arrays)
        return path

    def batches(self, labels=None, size=20):
        labels = self.labels if labels is None else labels
        data = tf.data.Dataset.from_tensor_slices((self.images, labels))
        return data.batch(size)

    def generator(self):
        while True:
            yield from self.batches().as_numpy_iterator()

    def photos(self, classes=NAMES, count=10, below=""):
        """Saves images of the source's classes in folders."""
        for label, name in enumerate(classes):
            folder = self.folder / "photos" / below / name
            folder.mkdir(parents=True, exist_ok=True)
            for index in np.flatnonzero(self.labels == label)[:count]:
                keras.utils.save_img(
                    folder / f"{index}.png", self.images[index], scale=False
                )
        return self.folder / "photos"

    def load(self, path, **options):
        """Loads images and checks that the source tells them apart."""
        options = {"image_size": (SIZE, SIZE), **options}
        data = kmod.load_data(path, **options)
        for part in (data.train, data.validation, data.test):
            assert len(part)
            assert kmod.evaluate(self.source, part).accuracy > 0.95
        return data

    def evaluate(self, model, data, *options):
        out = self.command("evaluate", model, "--data", data, *options)
        return float(out.splitlines()[-1].removeprefix("accuracy "))


def coarse_images(shape):
    draw = np.random.default_rng(0)
    small = [-(-size // 2) for size in shape[:-1]]
    images = draw.random((NUM_IMAGES, *small, shape[-1])) ** 2
    for axis, size in enumerate(shape[:-1], 1):
        images = np.repeat(images, 2, axis).take(range(size), axis)
    return np.rint(images * 255).astype("float32")


def body(x, rank=2, **options):
    conv = getattr(layers, f"Conv{rank}D")
    x = conv(6, 3, activation="relu", name="first", **options)(x)
    return conv(8, 3, activation="relu", name="second", **options)(x)


def pooled(x, rank=2, **options):
    pool = getattr(layers, f"GlobalAveragePooling{rank}D")
    return pool(**options)(body(x, rank, **options))


def classifier(head=None, features=pooled, shape=(SIZE, SIZE, 3), dtype=None):
    image = keras.Input(shape, dtype=dtype, name="image")
    head = head or layers.Dense(3, activation="softmax")
    return keras.Model(image, head(features(image)))


def knowing(model, images):
    """Sets the output layer so that every class is the best for some."""
    places = [
        layer
        for layer in model._flatten_layers(include_self=False)
        if isinstance(layer, (layers.Dense, layers.Conv2D))
    ]
    layer = places[-1]
    try:
        found = keras.Model(model.inputs[0], layer.input)(images)
    except (AttributeError, ValueError):
        return model
    found = np.asarray(ops.convert_to_numpy(found), "float32")
    kernel, *others = layer.get_weights()
    if len(others) != 1:
        return model
    axes = tuple(range(found.ndim - 1))
    spread = found.std(axes)
    kernel = kernel / np.where(spread < 1e-3, 1, spread)[:, None]
    shift = -found.mean(axes) @ kernel.reshape(len(spread), -1)
    layer.set_weights([kernel, shift])
    return model


def answers(model, images):
    scores = model.predict(images, batch_size=NUM_IMAGES, verbose=0)
    (scores,) = keras.tree.flatten(scores)
    scores = np.asarray(scores, "float32")
    if scores.shape[1] > 1:
        return scores.argmax(axis=1)
    is_sigmoid = "sigmoid" in str(model.layers[-1].get_config())
    return (scores[:, 0] > (0.5 if is_sigmoid else 0)).astype(int)


@pytest.fixture(autouse=True)
def quick():
    """Runs eagerly, and puts back what a case sets."""
    keras.utils.set_random_seed(0)
    registered, policy = dict(_registered), keras.config.dtype_policy()
    tf.config.run_functions_eagerly(True)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Even though the `tf.config")
        yield
    tf.config.run_functions_eagerly(False)
    keras.config.set_dtype_policy(policy)
    _registered.clear()
    _registered.update(registered)


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """A store of the modules of a model like the source, and all composed."""
    keras.utils.set_random_seed(0)
    folder = tmp_path_factory.mktemp("built")
    images = coarse_images((SIZE, SIZE, 3))
    source = knowing(classifier(), images)
    modular = kmod.ModularModel(source, class_names=NAMES)
    data = images, answers(source, images)
    store = kmod.decompose(modular, folder / "store", data=data)
    spec = folder / "three.yaml"
    lines = [
        f"  - {{name: '{name}', module: {{store: own, class: '{name}'}}}}\n"
        for name in NAMES
    ]
    spec.write_text(
        "version: 1\nname: three\nstores: {own: {path: store}}\nclasses:\n"
        + "".join(lines)
    )
    kmod.save(kmod.compose(spec), folder / "three", formats=["keras"])
    return types.SimpleNamespace(store=store, composed=folder / "three")


@pytest.fixture
def user(built, quick, tmp_path, capsys):
    user = User(tmp_path, capsys)
    user.built = built
    return user


def test_every_row_is_tried():
    assert list(CASES) == list(ROWS)
    assert len(ROWS) >= 40


@pytest.mark.parametrize("name", ROWS)
def test_row(name, user, caplog, monkeypatch):
    outcome, text = ROWS[name]
    quoted = re.findall("“(.+?)”", text)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        if outcome == "refused":
            said = refusal(name, user, monkeypatch)
            assert not user.out.exists()
        else:
            CASES[name](user)
            said = user.said
    said += " ".join(
        [str(each.message) for each in caught if "kmod" in each.filename]
        + [r.getMessage() for r in caplog.records if r.name == "kmod"]
    )
    assert outcome in ("works", "said", "refused")
    assert bool(quoted) == (outcome != "works")
    if outcome == "works":
        assert said == ""
    for words in quoted:
        assert words in said


def refusal(name, user, monkeypatch):
    """Returns the message of kmod itself, before a step is made."""

    @functools.wraps(keras.Model.fit)
    def fit(*args, **kwargs):
        pytest.fail("the search began")

    monkeypatch.setattr(keras.Model, "fit", fit)
    kinds = KmodError, ValueError, TypeError, Refused
    with pytest.raises(kinds) as caught:
        CASES[name](user)
    if caught.type is not Refused:
        last = traceback.extract_tb(caught.value.__traceback__)[-1]
        assert Path(last.filename).is_relative_to(Path(kmod.__file__).parent)
    return " ".join(str(caught.value).split())


# Models


@row("Functional model")
def functional(user):
    user.unmasked(classifier())


@row("Sequential model")
def sequential(user):
    first = layers.Conv2D(6, 3, activation="relu")
    last = layers.Dense(3, activation="softmax")
    stack = [keras.Input((SIZE, SIZE, 3)), first]
    stack += [layers.Conv2D(6, 3), layers.GlobalAveragePooling2D(), last]
    user.unmasked(keras.Sequential(stack))


@row("Sequential model that is not built")
def not_built(user):
    stack = [layers.Conv2D(6, 3), layers.Flatten(), layers.Dense(3)]
    user.modularize(model=keras.Sequential(stack))


@row("model with models inside")
def nested(user):
    image = keras.Input((SIZE, SIZE, 3))
    inner = keras.Model(image, pooled(image))
    outer = keras.Input((SIZE, SIZE, 3))
    user.unmasked(keras.Model(outer, layers.Dense(3)(inner(outer))))


@row("a layer called in two places")
def shared(user):
    twice = layers.Conv2D(6, 3, padding="same", activation="relu")

    def features(image):
        x = layers.Conv2D(6, 3, activation="relu")(image)
        return layers.GlobalAveragePooling2D()(twice(twice(x)))

    modular = user.unmasked(classifier(features=features))
    assert modular.kernels.removable.all()


@row("a residual connection")
def residual(user):
    def features(image):
        x = layers.Conv2D(6, 3, activation="relu")(image)
        x = layers.ReLU()(x + layers.Conv2D(6, 3, padding="same")(x))
        return layers.GlobalAveragePooling2D()(x)

    modular = user.unmasked(classifier(features=features))
    groups = modular.kernels.groups
    np.testing.assert_array_equal(groups[:6], groups[6:])


class OwnTrainStep(keras.Model):
    def train_step(self, data):
        return super().train_step(data)


class OwnPredictStep(keras.Model):
    def predict_step(self, data):
        return super().predict_step(data)


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__()
        self.body, self.last = layers.Conv2D(3, 3), layers.Dense(3)

    def call(self, inputs):
        return self.last(ops.mean(self.body(inputs), (1, 2)))


@row("`keras.Model` with its own `train_step`")
def own_train_step(user):
    model = classifier()
    user.unmasked(OwnTrainStep(model.inputs, model.outputs))


@row("`keras.Model` with its own `predict_step`")
def own_predict_step(user):
    model = classifier()
    user.modularize(model=OwnPredictStep(model.inputs, model.outputs))


@row("subclassed model with its own `call`")
def subclassed(user):
    user.modularize(model=Subclassed())


class PipelineModel(keras.Model):
    """Stands in for the class of KerasHub that preprocesses in `predict`."""

    def preprocess_samples(self, x):
        return self.preprocessor(x)

    def predict(self, x, **kwargs):
        return super().predict(np.array(self.preprocess_samples(x)), **kwargs)


@row("KerasHub `ImageClassifier`")
def keras_hub(user):
    model = knowing(classifier(), user.images / 255)
    task = PipelineModel(model.inputs, model.outputs)
    task.preprocessor = layers.Rescaling(1 / 255)
    labels = answers(task, user.images)
    modular = kmod.ModularModel(task)
    np.testing.assert_array_equal(answers(modular, user.images), labels)
    assert np.any(labels != answers(model, user.images))


@row("model of `tf_keras`")
def keras_2(user):
    kind = type("Functional", (), {"__module__": "tf_keras.src.models"})
    user.modularize(model=kind())


@row("something that is no model")
def no_model(user):
    user.modularize(model=types.SimpleNamespace(name="forest"))


@row("`.keras` file")
def keras_file(user):
    path = user.saved(classifier_of_tenths(user))
    assert user.evaluate(path, f"{user.npz()}:test") == 1


def classifier_of_tenths(user):
    """A model like the source that scales its images itself."""
    image = keras.Input((SIZE, SIZE, 3))
    whole = layers.Rescaling(1.0)(image)
    return keras.Model(image, user.source(whole))


@row("`.h5`, `.hdf5` file")
def legacy_file(user):
    path = user.saved(classifier_of_tenths(user), "model.h5")
    user.said = ""
    assert user.evaluate(path, f"{user.npz()}:test") == 1


def call_of_mobile_net(weights):
    return f"MobileNet(weights={weights!r}, classes=3, alpha=0.25)"


@row("a call of `keras.applications`, its weights in a file")
def called(user):
    path = str(user.folder / "own.weights.h5")
    model = keras.applications.MobileNet(
        weights=None, classes=3, alpha=0.25, classifier_activation=None
    )
    model.save_weights(path)
    printed = user.command("inspect", call_of_mobile_net(path), "--json")
    assert json.loads(printed)["num_classes"] == 3
    read = load_model(call_of_mobile_net(path))
    for own, other in zip(model.weights, read.weights, strict=True):
        np.testing.assert_array_equal(own, other)


@row("a call of `keras.applications` without a file of weights")
def called_without(user):
    user.refused_file(call_of_mobile_net("imagenet"))


@row("`.weights.h5` file")
def weights_file(user):
    user.source.save_weights(user.folder / "model.weights.h5")
    user.refused_file(user.folder / "model.weights.h5")


@row("directory of a SavedModel")
def saved_model(user):
    tf.config.run_functions_eagerly(False)
    user.source.export(user.folder / "saved", verbose=False)
    user.refused_file(user.folder / "saved")


@row("Lambda layer")
def lambda_layer(user):
    model = classifier(features=lambda x: pooled(layers.Lambda(abs)(x)))
    user.modularize(model=model)


@row("Lambda layer in a file")
def lambda_file(user):
    half = layers.Lambda(lambda x: x / 2)
    user.refused_file(
        user.saved(classifier(features=lambda x: pooled(half(x))))
    )


class Unregistered(layers.Layer):
    def call(self, inputs):
        return 2 * inputs


@keras.saving.register_keras_serializable("models_and_data")
class Scale(layers.Layer):
    def build(self, input_shape):
        self.scale = self.add_weight((input_shape[-1],), "ones", name="scale")

    def call(self, inputs):
        return inputs * self.scale


def with_own_layer(layer):
    def features(image):
        x = layers.Conv2D(6, 3, activation="relu")(image)
        x = layers.Conv2D(6, 3, activation="relu")(layer(x))
        return layers.GlobalAveragePooling2D()(x)

    return classifier(features=features)


@row("layer of your own that is not registered")
def unregistered_layer(user):
    with_labels_of(user, with_own_layer(Unregistered()))


def with_labels_of(user, model, **options):
    model = knowing(model, user.images)
    pair = user.images, answers(model, user.images)
    user.modularize(pair, pair, model, **options)


@row("registered layer of your own without a channel rule")
def own_layer(user):
    with_labels_of(user, with_own_layer(Scale()), retention_target=0.4)


@row("registered layer of your own with a channel rule")
def own_layer_with_rule(user):
    kmod.register_channel_rule(Scale, PassThrough(weights={0: -1}))
    modular = user.unmasked(with_own_layer(Scale()))
    assert modular.kernels.removable.all()


@row("attention")
def attention(user):
    def features(image):
        x = layers.Reshape((16, 8))(body(image))
        x = layers.MultiHeadAttention(2, 4)(x, x)
        return layers.GlobalAveragePooling1D()(x)

    modular = user.unmasked(classifier(features=features))
    assert modular.kernels.removable.sum() == 6  # Those of `first`.


@row("grouped, depthwise and separable convolutions")
def grouped(user):
    def features(image):
        x = layers.Conv2D(6, 1, activation="relu")(image)
        x = layers.Conv2D(8, 3, groups=2, activation="relu")(x)
        x = layers.SeparableConv2D(8, 3)(layers.DepthwiseConv2D(3)(x))
        return layers.GlobalMaxPooling2D()(x)

    user.unmasked(classifier(features=features))


@row("Dense layers only")
def dense_layers(user):
    def features(image):
        return layers.Dense(12, activation="relu")(layers.Flatten()(image))

    modular = user.unmasked(classifier(features=features))
    assert modular.kernels.removable.sum() == 12


@row("one Dense layer")
def linear(user):
    user.modularize(model=classifier(features=layers.Flatten()))


@row("RandomFlip, noise, dropout")
def train_only(user):
    def features(image):
        x = layers.RandomRotation(0.1)(layers.RandomFlip()(image))
        return layers.Dropout(0.5)(pooled(layers.GaussianNoise(0.1)(x)))

    modular = user.unmasked(classifier(features=features))
    images = ops.convert_to_tensor(user.images)
    first, second = (modular(images) for _ in range(2))
    np.testing.assert_array_equal(first, second)
    kinds = {type(layer).__name__ for layer in cut_module(modular, 0).layers}
    assert "Conv2D" in kinds
    assert not kinds & {"RandomRotation", "RandomFlip", "Dropout"}
    assert "GaussianNoise" not in kinds


@row("Rescaling, Normalization, Resizing, CenterCrop")
def preprocessing(user):
    def features(image):
        x = layers.CenterCrop(8, 8)(layers.Resizing(10, 10)(image))
        x = layers.Rescaling(1 / 255)(x)
        return pooled(layers.Normalization(mean=0.5, variance=0.1)(x))

    model = classifier(features=features, shape=(12, 12, 3))
    modular = user.unmasked(model, (12, 12, 3))
    kinds = {type(layer).__name__ for layer in modular.flat_source.layers}
    assert kinds >= {"CenterCrop", "Resizing", "Rescaling", "Normalization"}


@row("frozen BatchNormalization")
def frozen(user):
    def features(image):
        x = layers.Conv2D(6, 3, name="first")(image)
        x = layers.BatchNormalization(trainable=False, name="frozen")(x)
        return layers.GlobalAveragePooling2D()(layers.ReLU()(x))

    model = classifier(features=features)
    model.get_layer("frozen").moving_mean.assign(np.full(6, 5.0))
    model = knowing(model, user.images)
    labels = answers(model, user.images)
    pair = user.images, labels
    modular = user.modularize(pair, pair, model)
    found = modular.flat_source.get_layer("frozen").moving_mean
    np.testing.assert_array_equal(found, np.full(6, 5.0))


@row("LoRA")
def lora(user):
    model = knowing(classifier(), user.images)
    layer = model.layers[-1]
    layer.enable_lora(2)
    layer.lora_kernel_b.assign(1e-3 * np.arange(6).reshape(2, 3))
    user.unmasked(model)


@row("quantised model")
def quantised(user):
    user.source.quantize("int8")
    user.modularize()


@row("`mixed_float16`")
def mixed_float16(user):
    with_policy(user, "mixed_float16")


@row("`mixed_bfloat16`")
def mixed_bfloat16(user):
    with_policy(user, "mixed_bfloat16")


@row("float16")
def float16(user):
    with_policy(user, "float16")


@row("float64")
def float64(user):
    with_policy(user, "float64")


def with_policy(user, policy):
    keras.config.set_dtype_policy(policy)

    def features(image):
        return pooled(layers.Rescaling(1 / 255)(image))

    head = layers.Dense(3, activation="softmax", dtype="float32")
    model = knowing(classifier(head, features), user.images)
    labels = answers(model, user.images)
    pair = user.images, labels
    modular = user.modularize(pair, pair, model)
    np.testing.assert_array_equal(answers(modular, user.images), labels)
    assert kmod.evaluate(model, pair).accuracy == 1


@row("channels first")
def channels_first(user):
    def features(image):
        return pooled(image, data_format="channels_first")

    images = np.moveaxis(user.images, -1, 1)
    model = classifier(features=features, shape=(3, SIZE, SIZE))
    user.unmasked(model, images=images)


@row('`Input(dtype="uint8")`')
def bytes_input(user):
    def features(image):
        return pooled(layers.Rescaling(1 / 255)(image))

    images = user.images.astype("uint8")
    user.unmasked(classifier(features=features, dtype="uint8"), images=images)


@row("`Input((None, None, 3))`")
def any_size(user):
    user.unmasked(classifier(shape=(None, None, 3)))


@row("`Input((None, None, 3))` without a size")
def no_size(user):
    kmod.ModularModel(classifier(shape=(None, None, 3)))


@row("Conv1D")
def one_axis(user):
    model = classifier(features=lambda x: pooled(x, 1), shape=(20, 3))
    user.unmasked(model, (20, 3))


@row("Conv3D")
def three_axes(user):
    model = classifier(features=lambda x: pooled(x, 3), shape=(8, 8, 8, 1))
    user.unmasked(model, (8, 8, 8, 1))


@row('image as a dict `{"image": ...}`')
def dict_input(user):
    image = keras.Input((SIZE, SIZE, 3), name="image")
    model = keras.Model({"image": image}, layers.Dense(3)(pooled(image)))
    user.unmasked(model)


@row("a second input")
def two_inputs(user):
    image, age = keras.Input((SIZE, SIZE, 3)), keras.Input((1,))
    features = layers.Concatenate()([pooled(image), age])
    user.refused_file(
        user.saved(keras.Model([image, age], layers.Dense(3)(features)))
    )


@row("a module of `kmod`")
def module(user):
    model = user.built.store["ant"].model
    labels = answers(model, user.images)
    modular = kmod.ModularModel(model)
    np.testing.assert_array_equal(answers(modular, user.images), labels)
    assert np.mean(labels == (user.labels == 2)) > 0.9


@row("a composed model of `kmod`")
def composed(user):
    modular = user.unmasked(kmod.load(user.built.composed))
    labels = answers(modular, user.images)
    assert np.mean(labels == user.labels) > 0.9


@row("a model that was not trained")
def not_trained(user):
    labels = np.arange(NUM_IMAGES) % 3
    user.modularize(validation=(user.images, labels), model=classifier())


@row("weights that are NaN")
def nan_weights(user):
    kernel, bias = user.source.get_layer("first").get_weights()
    user.source.get_layer("first").set_weights([kernel * np.nan, bias])
    user.modularize()


# Heads


@row('`Dense(n, activation="softmax")`')
def softmax_head(user):
    user.unmasked(classifier(layers.Dense(4, activation="softmax")))


@row("`Dense(n)`, logits")
def logits_head(user):
    user.unmasked(classifier(layers.Dense(4)))


@row("`Softmax` or `Activation` layer")
def softmax_layer(user):
    for layer in (layers.Softmax(), layers.Activation("softmax")):
        user.unmasked(classifier(lambda x: layer(layers.Dense(3)(x))))


@row("`keras.ops.softmax`, `log_softmax`")
def softmax_operation(user):
    for operation in (ops.softmax, ops.log_softmax):
        user.unmasked(classifier(lambda x: operation(layers.Dense(3)(x))))


@row("convolution, global pooling, softmax")
def convolution_head(user):
    def head(x):
        x = layers.GlobalAveragePooling2D()(layers.Conv2D(3, 1)(x))
        return ops.softmax(x)

    user.unmasked(classifier(head, body))


@row("Flatten and Dense")
def flatten_head(user):
    def features(image):
        return layers.Flatten()(body(image))

    user.unmasked(classifier(features=features))


@row('`Dense(1, activation="sigmoid")`')
def sigmoid_head(user):
    model = classifier(layers.Dense(1, activation="sigmoid"))
    assert user.unmasked(model).class_names == ("0", "1")


@row("`Dense(1)`, one logit")
def one_logit_head(user):
    user.unmasked(classifier(layers.Dense(1)))


@row('`Dense(n, activation="sigmoid")`, one against the rest')
def one_against_rest(user):
    user.unmasked(classifier(layers.Dense(4, activation="sigmoid")))


@row('`Dense(n, activation="sigmoid")`, several labels at once')
def several_labels(user):
    model = knowing(classifier(layers.Dense(4, "sigmoid")), user.images)
    labels = (model.predict(user.images, verbose=0) > 0.3).astype(int)
    user.modularize((user.images, labels), (user.images, labels), model)


@row('`Dense(1, activation="softmax")`')
def softmax_of_one(user):
    user.modularize(model=classifier(layers.Dense(1, activation="softmax")))


@row("regression")
def regression(user):
    pair = user.images, user.images.mean((1, 2, 3))
    user.modularize(pair, pair, classifier(layers.Dense(1)))


@row("a map of scores, one for each pixel")
def segmentation(user):
    user.modularize(model=classifier(layers.Conv2D(3, 1), body))


def two_outputs():
    image = keras.Input((SIZE, SIZE, 3))
    kind, age = layers.Dense(3, name="kind"), layers.Dense(2, name="age")
    features = pooled(image)
    return keras.Model(image, [age(features), kind(features)])


@row("several outputs, one named")
def named_output(user):
    model = two_outputs()
    kind = knowing(keras.Model(model.inputs, model.outputs[1]), user.images)
    labels = answers(kind, user.images)
    pair = user.images, labels
    modular = user.modularize(pair, pair, model, output="kind")
    np.testing.assert_array_equal(answers(modular, user.images), labels)
    image = keras.Input((SIZE, SIZE, 3))
    scaled = model(layers.Rescaling(1.0)(image))
    named = {"age": scaled[0], "kind": scaled[1]}
    path, data = user.saved(keras.Model(image, named)), user.folder / "d.npz"
    arrays = {"x_train": user.images, "y_train": labels}
    np.savez(data, **arrays, x_test=user.images, y_test=labels)
    assert user.evaluate(path, f"{data}:test", "--output", "kind") == 1


@row("several outputs")
def no_output_named(user):
    user.refused_file(user.saved(two_outputs()))


@row("outputs as a dict of one")
def dict_output(user):
    image = keras.Input((SIZE, SIZE, 3))
    scores = layers.Dense(3)(pooled(image))
    user.unmasked(keras.Model(image, {"kind": scores}))


# Images


@row("arrays `(images, labels)`")
def arrays(user):
    pair = user.images, user.labels
    modular = user.search(pair, pair)
    counts = np.bincount(user.labels)
    np.testing.assert_array_equal(modular.calibration_images, counts)


@row("`kmod.LabelledImages`")
def labelled_images(user):
    data = kmod.LabelledImages(user.images, user.labels)
    user.search(data, data)


@row("batched `tf.data.Dataset`")
def tf_data(user):
    user.search(user.batches(), user.batches())


class Batches(keras.utils.PyDataset):
    def __init__(self, user):
        super().__init__()
        self.parts = list(user.batches().as_numpy_iterator())

    num_batches = 3

    def __getitem__(self, index):
        return self.parts[index]


@row("`keras.utils.PyDataset`")
def py_dataset(user):
    user.search(Batches(user), Batches(user))


@row("generator to train on")
def generator(user):
    pair = user.images, user.labels
    user.search(user.generator(), pair, steps_per_epoch=3)


@row("generator to validate on")
def validation_generator(user):
    user.modularize(validation=user.generator())


@row("lists")
def lists(user):
    user.modularize((user.images.tolist(), user.labels.tolist()))


@row("path in the place of arrays")
def path_as_data(user):
    user.modularize("photos")


@row("endless data set with `steps_per_epoch`")
def endless_with_steps(user):
    pair = user.images, user.labels
    user.search(user.batches().repeat(), pair, steps_per_epoch=3)


@row("endless data set")
def endless(user):
    user.modularize(user.batches().repeat())


@row("endless validation data")
def endless_validation(user):
    user.modularize(validation=user.batches().repeat())


@row("data set that is not batched")
def unbatched(user):
    user.modularize(user.batches().unbatch())


@row("batches of several sizes")
def ragged(user):
    def parts():
        yield user.images[:20], user.labels[:20]
        yield user.images[20:, :6], user.labels[20:]

    spec = tf.TensorSpec((None, None, SIZE, 3)), tf.TensorSpec((None,), "int32")
    data = tf.data.Dataset.from_generator(parts, output_signature=spec)
    user.modularize(validation=data)


@row("array of objects")
def objects(user):
    images = np.empty(NUM_IMAGES, object)
    images[:] = list(user.images)
    user.modularize((images, user.labels))


@row("NaN in training images")
def nan_images(user):
    user.images[3, 0, 0, 0] = np.nan
    user.modularize(user.batches(), (user.images[4:], user.labels[4:]))


@row("NaN in validation images")
def nan_validation(user):
    images = user.images.copy()
    images[3, 0, 0, 0] = np.nan
    user.modularize(validation=(images, user.labels))


@row("no training images")
def no_training(user):
    user.modularize(
        (user.images[:0], user.labels[:0]), (user.images, user.labels)
    )


@row("no validation images")
def no_validation(user):
    user.modularize(validation=(user.images[:0], user.labels[:0]))


@row("uint8, float16 or float64 images")
def other_types(user):
    for dtype in ("uint8", "float16", "float64"):
        pair = user.images.astype(dtype), user.labels
        assert kmod.evaluate(user.source, pair).accuracy == 1
    user.search((user.images.astype("uint8"), user.labels), pair)


@row("`(n, 28, 28)` for a model of `(28, 28, 1)`")
def no_channel_axis(user):
    images = coarse_images((28, 28, 1))
    model = knowing(classifier(shape=(28, 28, 1)), images)
    pair = images[..., 0], answers(model, images)
    modular = user.modularize(pair, pair, model)
    np.testing.assert_array_equal(answers(modular, images), pair[1])
    assert kmod.evaluate(model, pair).accuracy == 1


@row("another size or number of channels")
def another_shape(user):
    user.modularize(validation=(user.images[..., :1], user.labels))


@row("training images of another size")
def another_training_shape(user):
    user.modularize((user.images[:, :6], user.labels))


@row("0 to 1 or -1 to 1, as the model takes them")
def other_ranges(user):
    for low, high in ((0, 1), (-1, 1)):
        images = user.images / 255 * (high - low) + low
        model = knowing(classifier(), images)
        pair = images, answers(model, images)
        modular = user.modularize(pair, pair, model)
        assert modular.value_range == (low, high)
        np.testing.assert_array_equal(answers(modular, images), pair[1])


@row("0 to 1 for a model of 0 to 255")
def wrong_range(user):
    pair = user.images / 255, user.labels
    user.modularize(pair, pair)


@row("0 to 1 to train on, 0 to 255 to validate on")
def uneven_ranges(user):
    user.modularize((user.images / 255, user.labels))


@row("another data set of the same classes")
def another_data_set(user):
    images = np.clip(user.images + 4, 0, 255)
    pair = images, answers(user.source, images)
    modular = user.search(pair, pair)
    np.testing.assert_array_equal(answers(modular, images), pair[1])


# Labels


@row("one-hot")
def one_hot(user):
    pair = user.images, np.eye(3)[user.labels]
    user.search(pair, pair)


@row("`(n, 1)`")
def column(user):
    pair = user.images, user.labels[:, None]
    user.search(pair, pair)


@row("whole floats")
def whole_floats(user):
    pair = user.images, user.labels.astype("float32")
    user.search(pair, pair)


@row("fractions")
def fractions(user):
    pair = user.images, np.full((NUM_IMAGES, 3), 1 / 3)
    user.modularize(pair)


@row("text")
def text(user):
    names = np.array(["ant", "bee", "cat"])[user.labels]
    for data in ((user.images, names.astype(object)), user.batches(names)):
        with pytest.raises(ValueError, match="Number the classes"):
            user.modularize(validation=data)
    user.modularize((user.images, names))


@row("beyond the model's classes")
def beyond(user):
    user.modularize(user.batches(user.labels + 1))


@row("below 0")
def below(user):
    user.modularize((user.images, user.labels - 1))


@row("another number than images")
def counts_differ(user):
    user.modularize((user.images, user.labels[:50]))


@row("in another order than the outputs")
def permuted(user):
    pair = user.images, (user.labels + 1) % 3
    user.modularize(pair, pair)


@row("class names in another order")
def reordered_names(user):
    train, validation = user.batches(), user.batches()
    train.class_names = ["ant", "bee", "cat"]
    validation.class_names = ["bee", "ant", "cat"]
    user.modularize(train, validation)


@row("sample weights")
def sample_weights(user):
    weights = np.where(user.labels == 1, 2.0, 1.0)
    triple = user.images, user.labels, weights
    user.search(triple, triple)


@row("class weights")
def class_weights(user):
    modular = kmod.ModularModel(user.source, recipe=STILL)
    modular.compile()
    weights = {0: 1.0, 1: 2.0, 2: 1.0}
    modular.fit(user.images, user.labels, class_weight=weights, verbose=0)
    labels = answers(modular, user.images)
    np.testing.assert_array_equal(labels, user.labels)


@row("a class that validation images do not show")
def missing_class(user):
    shown = user.labels < 2
    modular = user.modularize(
        validation=(user.images[shown], user.labels[shown])
    )
    assert modular.calibration_images[2] == 0


@row("one class only")
def single_class(user):
    shown = user.labels == 1
    user.modularize(validation=(user.images[shown], user.labels[shown]))


@row("1 image to 50")
def rare_class(user):
    common = np.flatnonzero(user.labels == 0)
    kept = [*np.repeat(common, 5)[:50], *np.flatnonzero(user.labels == 1)[:20]]
    kept.append(np.flatnonzero(user.labels == 2)[0])
    user.modularize(validation=(user.images[kept], user.labels[kept]))


# Folders, files and names


@row("folder of `train`, `val` and `test`")
def folder_of_splits(user):
    for split, count in {"train": 9, "val": 4, "test": 3}.items():
        user.photos(count=count, below=split)
    data = user.load(user.folder / "photos")
    assert len(data.train) == 27 and len(data.test) == 9


@row("folder of classes")
def folder_of_classes(user):
    data = user.load(user.photos())
    assert [len(data.train), len(data.validation), len(data.test)] == [19, 5, 6]


@row("classes `10`, `2`, `ant`")
def class_order(user):
    path = user.photos()
    assert user.load(path).class_names == ("10", "2", "ant")
    order = ("2", "ant", "10")
    data = kmod.load_data(path, image_size=(SIZE, SIZE), classes=order)
    assert data.class_names == order
    labels = answers(user.source, data.test.images.astype("float32"))
    np.testing.assert_array_equal((labels + 2) % 3, data.test.labels)


@row("grey, RGBA and photos of several sizes")
def other_photos(user):
    path = user.photos()
    for name, shape in {"grey": (8, 8, 1), "rgba": (8, 8, 4)}.items():
        image = np.repeat(user.images[:1, ..., :1], shape[-1], -1)[0]
        for folder in ("10", "2", "ant"):
            target = path / folder / f"{name}.png"
            keras.utils.save_img(target, image, scale=False)
    keras.utils.save_img(path / "ant/tall.png", np.zeros((20, 9, 3)))
    data = kmod.load_data(path, image_size=(SIZE, SIZE))
    assert data.train.images.shape[1:] == (SIZE, SIZE, 3)
    grey = kmod.load_data(path, image_size=(SIZE, SIZE), color_mode="grayscale")
    assert grey.train.images.shape[1:] == (SIZE, SIZE, 1)
    assert len(data.train) + len(data.validation) + len(data.test) == 37


@row("broken files and files of other kinds")
def broken_files(user):
    path = user.photos()
    (path / "ant/notes.txt").write_text("dear")
    (path / "ant/broken.png").write_bytes(b"no image")
    user.load(path)


@row("empty folder of a class")
def empty_folder(user):
    (user.photos() / "lion").mkdir()
    user.load(user.folder / "photos")


@row("folder of one class")
def one_folder(user):
    user.load(user.photos(classes=("10",)))


@row("class that only `test` has")
def class_elsewhere(user):
    user.photos(below="train")
    user.photos(classes=("10", "2", "lion"), below="test")
    user.load(user.folder / "photos")


def write_table(user, *lines):
    path = user.folder / "photos.csv"
    with open(path, "w", newline="") as file:
        csv.writer(file).writerows(lines)
    return path


def table_lines(user):
    photos = sorted(user.photos().rglob("*.png"))
    return [[path, path.parent.name] for path in photos]


@row("`.csv` of paths and labels")
def table(user):
    lines = table_lines(user)
    data = user.load(write_table(user, ["path", "label"], *lines))
    assert data.class_names == ("10", "2", "ant")


@row("`.csv` without column names")
def table_without_names(user):
    user.load(write_table(user, *table_lines(user)))


@row("`.npz` of arrays")
def npz(user):
    names = {"class_names": ["ant", "bee", "cat"]}
    data = user.load(user.npz(**names), image_size=None)
    assert data.class_names == ("ant", "bee", "cat")


@row("`module:function`")
def function(user):
    found = types.ModuleType("own_photos")
    found.load = lambda: (user.batches(), user.batches(), user.batches())
    sys.modules["own_photos"] = found
    try:
        data = user.load("own_photos:load", image_size=None)
    finally:
        del sys.modules["own_photos"]
    assert len(data.train) == NUM_IMAGES


@row("TensorFlow data set that is not there")
def not_prepared(user):
    kmod.load_data("mnist", user.folder)


@row("name that nobody knows")
def unknown_name(user):
    kmod.load_data("mnits", user.folder)


@row("path where nothing is")
def missing_path(user):
    kmod.load_data(user.folder / "fotos")


def ten_classes(user):
    """Photos of ten classes, of which three are the source's."""
    path = user.photos(count=20)
    for number in range(7):
        shutil.copytree(path / "ant", path / f"b{number}")
    return path


@row("ten classes for a model of three")
def ten_for_three(user):
    user.evaluate(user.saved(), f"{ten_classes(user)}:test")


@row("ten classes for a model of three, with `--classes`")
def ten_with_classes(user):
    path = user.saved(classifier_of_tenths(user))
    data = f"{ten_classes(user)}:test"
    assert user.evaluate(path, data, "--classes", "10,2,ant") > 0.95


@row("ten classes for a composed model of three")
def ten_for_composed(user):
    data = f"{ten_classes(user)}:test"
    assert user.evaluate(user.built.composed, data) > 0.8


def model_of_tenths(user):
    """A model that was trained on images from 0 to 1."""
    image = keras.Input((SIZE, SIZE, 3))
    model = knowing(classifier(), user.images / 255)
    user.labels = answers(model, user.images / 255)
    return user.saved(keras.Model(image, model(image)))


@row("a folder for a model that takes 0 to 1")
def folder_of_bytes(user):
    user.evaluate(model_of_tenths(user), f"{user.photos(count=20)}:test")


@row("a folder for a model that takes 0 to 1, with `--value-range`")
def scaled_folder(user):
    model = model_of_tenths(user)
    data = f"{user.photos(count=20)}:test"
    assert user.evaluate(model, data, "--value-range", 0, 1) > 0.95


@row("a model that only guesses, in `kmod evaluate`")
def guessing(user):
    labels = np.roll(user.labels, 1)
    data = user.npz(x_test=user.images, y_test=labels)
    user.evaluate(user.saved(), f"{data}:test")
