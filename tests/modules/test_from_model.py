"""Models become modules as they are."""

import keras
import numpy as np
import pytest

import kmod
from kmod.errors import ArtifactError
from kmod.errors import UnsupportedModelError
from kmod.errors import UsageError
from kmod.graph.sizes import model_sizes
from kmod.modules.from_model import module_from_model
from kmod.modules.from_model import modules_from_model
from kmod.spec.spec_file import write_spec

NAMES = ("3", "8", "9")


def binary_model(units=1, activation="sigmoid", seed=0):
    """A classifier of one class; two units are of the rest and the class."""
    keras.utils.set_random_seed(seed)
    return keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            keras.layers.Rescaling(1 / 255),
            keras.layers.Conv2D(8, 3, activation="relu", name="conv_1"),
            keras.layers.BatchNormalization(),
            keras.layers.Conv2D(16, 3, activation="relu", name="conv_2"),
            keras.layers.Flatten(),
            keras.layers.Dense(units, activation=activation, name="answer"),
        ],
        name="binary",
    )


def train(model, images, is_class):
    """Trains a model to tell one class from all else."""
    loss = "binary_crossentropy"
    if model.output_shape[-1] == 2:
        loss = "sparse_categorical_crossentropy"
    model.compile(keras.optimizers.Adam(0.01), loss)
    model.fit(images, is_class.astype("int64"), 32, epochs=8, verbose=0)
    return model


def own(part, index):
    return part.images, (part.labels == index).astype("int64")


@pytest.fixture(scope="module")
def model_of_8(digits):
    images, is_class = own(digits.train, 1)
    return train(binary_model(), images, is_class)


@pytest.mark.parametrize(
    ("units", "activation", "class_index", "log_odds"),
    [
        pytest.param(1, None, 1, lambda z: z[:, 0], id="one-logit"),
        pytest.param(
            1, "sigmoid", 1, lambda p: np.log(p / (1 - p))[:, 0], id="sigmoid"
        ),
        pytest.param(
            1,
            "sigmoid",
            0,
            lambda p: np.log((1 - p) / p)[:, 0],
            id="class-of-a-low-sigmoid",
        ),
        pytest.param(2, None, 1, lambda z: z[:, 1] - z[:, 0], id="two-logits"),
        pytest.param(
            2,
            "softmax",
            0,
            lambda p: np.log(p[:, 0] / p[:, 1]),
            id="first-of-a-softmax",
        ),
        pytest.param(
            2,
            "sigmoid",
            1,
            lambda p: np.log(p / (1 - p))[:, 1],
            id="second-of-two-sigmoids",
        ),
    ],
)
def test_raw_score_is_the_logit_of_the_model(
    tmp_path, digits, units, activation, class_index, log_odds
):
    images = digits.validation.images[:40]
    model = binary_model(units, activation, seed=1)
    expected = log_odds(model.predict(images, verbose=0).astype("float64"))
    # Labels that follow the answers, so that an untrained model is good.
    is_class = (expected > np.median(expected)).astype("int64")
    before = model.get_weights()
    store = module_from_model(
        model,
        "it",
        tmp_path / "store",
        data=(images, is_class),
        class_index=class_index,
    )
    module = store["it"].model
    raw = keras.Model(module.input, module.get_layer("head").output)
    found = raw.predict(images, verbose=0)[:, 0]
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4)
    for weight, kept in zip(model.get_weights(), before):
        np.testing.assert_array_equal(weight, kept)


def test_module_is_calibrated_and_described(tmp_path, model_of_8, digits):
    validation = digits.validation
    store = module_from_model(
        model_of_8,
        "8",
        tmp_path / "store",
        data=(validation.images, validation.labels == 1),
        source_name="eights",
        license="MIT",
    )
    info, manifest = store.info("8"), store.manifest
    assert store.class_names == manifest.class_names == ("8",)
    assert manifest.source.name == "eights"
    assert (manifest.method, manifest.license) == ("import", "MIT")
    assert manifest.input == kmod.InputContract((8, 8, 1), "float32", (0, 255))
    assert info.retention_rate == 1.0
    assert {layer: len(k) for layer, k in info.kept_kernels.items()} == {
        "conv_1": 8,
        "conv_2": 16,
    }
    assert info.calibration["num_images"] == len(validation.labels)
    assert info.metrics["f1"] > 0.9
    # Calibrated: of images that it gives such odds, as many are of the class.
    found = store["8"].model.predict(digits.test.images, verbose=0)[:, 0]
    share = np.mean(digits.test.labels == 1)
    assert found.mean() == pytest.approx(share, abs=0.06)
    assert np.mean((found > 0.5) == (digits.test.labels == 1)) > 0.9


@pytest.mark.long
def test_three_binary_models_become_one_classifier(tmp_path, digits):
    for index, name in enumerate(NAMES):
        images, is_class = own(digits.train, index)
        units = 1 + index % 2  # Of one output, and of two.
        activation = "softmax" if units == 2 else "sigmoid"
        model = train(binary_model(units, activation, index), images, is_class)
        module_from_model(
            model,
            name,
            tmp_path / f"is-{name}",
            data=own(digits.validation, index),
        )
    classes = [
        {"name": name, "module": {"store": f"is-{name}", "class": name}}
        for name in NAMES
    ]
    stores = {f"is-{name}": {"path": tmp_path / f"is-{name}"} for name in NAMES}
    spec = {"version": 1, "name": "digits", "stores": stores}
    path = tmp_path / "spec.yaml"
    write_spec({**spec, "classes": classes}, path)
    composed = kmod.compose(path)
    assert composed.class_names == NAMES
    assert kmod.evaluate(composed, digits.test, NAMES).accuracy > 0.85


def test_grey_images_may_lack_their_channel(tmp_path, model_of_8, digits):
    images, is_class = own(digits.validation, 1)
    store = module_from_model(
        model_of_8, "8", tmp_path / "store", data=(images[..., 0], is_class)
    )
    assert store.manifest.input.shape == (8, 8, 1)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        pytest.param(
            lambda images, labels: (images, 1 - labels),
            ArtifactError,
            "must be better than guesses",
            id="labels-the-other-way-round",
        ),
        pytest.param(
            lambda images, labels: (images[:2], np.array([1, 1])),
            ArtifactError,
            "2 images of the class and 0 of others. Give images of both",
            id="one-kind-only",
        ),
        pytest.param(
            lambda images, labels: (images, labels + 1),
            ValueError,
            "Labels must be class indices from 0 to 1",
            id="labels-of-other-classes",
        ),
        pytest.param(
            lambda images, labels: (images / 1e5, labels),
            UsageError,
            "`value_range` must be that of the images given",
            id="images-of-another-range",
        ),
    ],
)
def test_data_that_do_not_fit_are_refused(
    tmp_path, model_of_8, digits, change, error, message
):
    data = change(*own(digits.validation, 1))
    with pytest.raises(error, match=message):
        module_from_model(
            model_of_8,
            "8",
            tmp_path / "store",
            data=data,
            value_range=(0, 255),
        )
    assert not (tmp_path / "store").exists()


def test_models_of_more_classes_are_referred_to_modularize(
    tmp_path, strong, digits
):
    with pytest.raises(UnsupportedModelError, match="with 3 outputs. `kmod.mo"):
        module_from_model(
            strong, "8", tmp_path / "s", data=own(digits.validation, 1)
        )


def test_class_index_is_one_of_two(tmp_path, model_of_8, digits):
    with pytest.raises(UsageError, match="`class_index` must be 0 or 1"):
        module_from_model(
            model_of_8,
            "8",
            tmp_path / "s",
            data=own(digits.validation, 1),
            class_index=2,
        )


def test_store_that_is_there_stays(tmp_path, model_of_8, digits):
    (tmp_path / "s").mkdir()
    (tmp_path / "s/thesis.txt").write_text("dear")
    with pytest.raises(UsageError, match="must be new or empty"):
        module_from_model(
            model_of_8, "8", tmp_path / "s", data=own(digits.validation, 1)
        )


@pytest.fixture(scope="module")
def whole(tmp_path_factory, strong, digits):
    """The store of a classifier as it is."""
    path = tmp_path_factory.mktemp("whole") / "store"
    return modules_from_model(
        strong, path, data=digits.validation, class_names=NAMES
    )


def test_modules_of_a_classifier_have_its_logits(whole, strong, digits):
    images = digits.test.images[:50]
    logits = np.log(strong.predict(images, verbose=0))
    logits -= logits.mean(axis=1, keepdims=True)
    for index, name in enumerate(NAMES):
        module = whole[name].model
        raw = keras.Model(module.input, module.get_layer("head").output)
        found = raw.predict(images, verbose=0)[:, 0]
        np.testing.assert_allclose(found, logits[:, index], atol=1e-4)
        # Another class's column would differ.
        assert np.abs(found - logits[:, index - 1]).max() > 1
    assert whole.manifest.method == "import"
    assert {whole.sizes(name).retention_rate for name in whole} == {1.0}


def test_composition_of_a_classifier_costs_what_it_does(
    tmp_path, whole, strong, digits
):
    classes = [
        {"name": name, "module": {"store": "s", "class": name}}
        for name in NAMES
    ]
    spec = {
        "version": 1,
        "name": "again",
        "stores": {"s": {"path": whole.path}},
        "classes": classes,
    }
    write_spec(spec, tmp_path / "spec.yaml")
    again = kmod.compose(tmp_path / "spec.yaml")
    own, source = model_sizes(again), model_sizes(strong)
    assert own.macs - source.macs < 100  # Three numbers to a score each.
    test = digits.test
    before, after = (
        np.mean(model.predict(test.images, verbose=0).argmax(1) == test.labels)
        for model in (strong, again)
    )
    assert after > before - 0.03


def test_classifier_of_other_classes_is_refused(tmp_path, strong, digits):
    with pytest.raises(UsageError, match="class_names"):
        modules_from_model(
            strong,
            tmp_path / "s",
            data=digits.validation,
            class_names=["3", "8"],
        )
    assert not (tmp_path / "s").exists()
