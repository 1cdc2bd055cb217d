import dataclasses
import shutil

import keras
import numpy as np
import pytest

from kmod.composition.exporting import Exportable
from kmod.composition.exporting import export_model
from kmod.composition.exporting import in_float32
from kmod.composition.exporting import load_exportable
from kmod.errors import CheckError
from kmod.errors import IntegrityError
from kmod.errors import UnsupportedModelError
from kmod.errors import UsageError
from kmod.export import litert
from kmod.export.write import FORMS
from kmod.files.plain_yaml import read_yaml
from kmod.modules.manifest import InputContract


@pytest.fixture
def exportable(strong, digits):
    contract = InputContract((8, 8, 1), "float32", (0.0, 255.0))
    return Exportable(strong, digits.class_names, contract)


def test_module_takes_the_contract_of_its_store(stores):
    found = load_exportable(stores["a"].path / "cat")
    assert found.class_names == ("cat",)
    assert found.input == stores["a"].manifest.input


def test_keras_file_numbers_its_classes(strong, tmp_path):
    strong.save(tmp_path / "m.keras")
    found = load_exportable(tmp_path / "m.keras")
    assert found.class_names == ("0", "1", "2")
    assert found.input == InputContract((8, 8, 1), "float32", (0.0, 255.0))


def test_keras_file_of_values_from_0_to_1(strong, tmp_path):
    strong.save(tmp_path / "m.keras")
    found = load_exportable(tmp_path / "m.keras", value_range=(0, 1))
    assert found.input == InputContract((8, 8, 1), "float32", (0.0, 1.0))


def of_any_form(num_inputs=1, shape=(8, 8, 1), names=("kind", "age")):
    """A model of features and of outputs by name."""
    images = [keras.Input(shape) for _ in range(num_inputs)]
    x = keras.layers.Conv2D(4, 3)(sum(images[1:], images[0]))
    x = keras.layers.GlobalAveragePooling2D()(x)
    outputs = {
        name: keras.layers.Dense(3, "softmax", name=name)(x) for name in names
    }
    return keras.Model(images, outputs, name="m")


@pytest.mark.parametrize(
    ("model", "options", "error", "message"),
    [
        pytest.param(
            *({}, {}, UsageError),
            "must be the name of the output to take, one of",
            id="several-outputs",
        ),
        pytest.param(
            *({"num_inputs": 2, "names": ["kind"]}, {}),
            *(UnsupportedModelError, "A source model has one input"),
            id="several-inputs",
        ),
        pytest.param(
            *({"shape": (None, None, 3)}, {"output": "kind"}, UsageError),
            "image_size=None for 'm', which takes images of shape \\(None",
            id="open-size",
        ),
        pytest.param(
            *({}, {"output": "kind", "image_size": (8, 9)}, UsageError),
            "`image_size` must be the height and width of images that the",
            id="other-size",
        ),
        pytest.param(
            *({}, {"value_range": (1, 0)}, UsageError),
            "`value_range` must be the smallest and the largest",
            id="range-falls",
        ),
    ],
)
def test_keras_file_that_needs_more_words(
    tmp_path, model, options, error, message
):
    of_any_form(**model).save(tmp_path / "m.keras")
    with pytest.raises(error, match=message):
        load_exportable(tmp_path / "m.keras", **options)


@pytest.mark.parametrize(
    ("model", "options"),
    [
        pytest.param({}, {"output": "kind"}, id="one-of-several-outputs"),
        pytest.param({"names": ["kind"]}, {}, id="outputs-as-a-dict-of-one"),
        pytest.param(
            {"shape": (None, None, 1), "names": ["kind"]},
            {"image_size": (8, 8)},
            id="open-size",
        ),
    ],
)
def test_keras_file_of_any_form(tmp_path, model, options):
    saved = of_any_form(**model)
    saved.save(tmp_path / "m.keras")
    exportable = load_exportable(tmp_path / "m.keras", **options)
    assert exportable.class_names == ("0", "1", "2")
    assert exportable.input.shape == (8, 8, 1)
    path = export_model(exportable, "savedmodel", tmp_path / "out")
    images = np.full((1, 8, 8, 1), 100, "float32")
    answers = FORMS["savedmodel"].predict(path, images)
    expected = saved.predict(images, verbose=0)["kind"]
    np.testing.assert_allclose(answers["probabilities"], expected, atol=1e-5)


def test_what_kmod_saved_says_itself_what_it_takes(stores):
    with pytest.raises(UsageError, match="`value_range` is for a `.keras` fi"):
        load_exportable(stores["a"].path / "cat", value_range=(0, 1))


def test_damaged_module(stores, tmp_path):
    copy = shutil.copytree(stores["a"].path / "cat", tmp_path / "cat")
    (copy / "fingerprint.pb").write_bytes(b"x")
    with pytest.raises(IntegrityError, match="has other bytes"):
        load_exportable(copy)


@pytest.mark.parametrize("serving", [False, True])
def test_nothing_is_left_of_an_export_that_answers_otherwise(
    exportable, tmp_path, monkeypatch, serving
):
    wrong = dataclasses.replace(
        FORMS["savedmodel"],
        predict=lambda *_: {"probabilities": np.ones((8, 3))},
    )
    monkeypatch.setitem(FORMS, "savedmodel", wrong)
    with pytest.raises(CheckError, match="must answer as the one in memory"):
        export_model(
            exportable, "savedmodel", tmp_path / "out", serving=serving
        )
    assert not any(path.is_file() for path in tmp_path.rglob("*"))


@pytest.mark.parametrize("count, error", [(40, CheckError), (19, UsageError)])
def test_what_fewer_bits_change_too_much_is_refused(
    exportable, tmp_path, monkeypatch, count, error
):
    def other(path, images):
        answers = np.zeros((len(images), 3))
        answers[:, 2] = 1
        return {"probabilities": answers}

    monkeypatch.setattr(litert, "predict", other)
    images = np.random.default_rng(0).uniform(0, 255, (count, 8, 8, 1))
    with pytest.raises(error, match="Received"):
        export_model(
            *(exportable, "litert", tmp_path / "out"),
            images=images.astype("float32"),
            quantize="dynamic",
        )
    assert not (tmp_path / "out").exists()


def test_what_litert_does_not_run_is_refused(exportable, tmp_path, monkeypatch):
    def fail(path, images):
        raise RuntimeError("failed to prepare\nmore")

    monkeypatch.setattr(litert, "predict", fail)
    images = np.random.default_rng(0).uniform(0, 255, (20, 8, 8, 1))
    with pytest.raises(
        CheckError, match="says: failed to prepare. Quantize as"
    ):
        export_model(
            *(exportable, "litert", tmp_path / "out"),
            images=images.astype("float32"),
            quantize="int8",
        )


def test_manifest_of_an_export(exportable, tmp_path):
    images = np.zeros((2, 8, 8, 1), "uint8")  # The model takes floats.
    path = export_model(exportable, "litert", tmp_path / "out", images=images)
    manifest = read_yaml(path / "export.yaml")
    assert manifest["format"] == "litert"
    assert manifest["class_names"] == ["3", "8", "9"]
    assert sorted(manifest["files"]) == ["labels.txt", "model.tflite"]
    assert manifest["created_by"]["keras"] == keras.__version__


@pytest.mark.parametrize("form", ["litert", "onnx"])
def test_mixed_precision_is_exported_in_float32(strong, tmp_path, form):
    half = keras.models.clone_model(strong, clone_function=in_half)
    half.set_weights(strong.get_weights())
    half.save(tmp_path / "half.keras")
    exportable = load_exportable(tmp_path / "half.keras")
    export_model(exportable, form, tmp_path / "out")
    images = np.full((1, 8, 8, 1), 100, "float32")
    answers = FORMS[form].predict(tmp_path / "out" / FORMS[form].path, images)
    np.testing.assert_allclose(
        answers["probabilities"], strong(images), atol=1e-4
    )


def in_half(layer):
    config = layer.get_config()
    if "dtype" in config:
        config["dtype"] = "mixed_float16"
    return type(layer).from_config(config)


def network(policy):
    keras.utils.set_random_seed(0)
    image = keras.Input((6, 6, 1), name="image")
    x = keras.layers.Rescaling(1 / 255, dtype=policy)(image)
    inner = keras.Sequential(
        [
            keras.layers.Conv2D(4, 3, activation="relu", dtype=policy),
            keras.layers.BatchNormalization(dtype=policy),
        ]
    )
    x = keras.layers.Flatten(dtype=policy)(inner(x))
    x = keras.layers.Dense(3, activation="softmax", dtype=policy)(x)
    return keras.Model(image, x)


@pytest.mark.parametrize(
    "policy", ["mixed_float16", "mixed_bfloat16", "float16", "float64"]
)
def test_copy_answers_alike_in_float32(policy):
    model = network(policy)
    images = np.linspace(0, 255, 2 * 36).reshape(2, 6, 6, 1)
    copy = in_float32(model)
    assert copy is not model
    answers = copy(images)
    assert keras.backend.standardize_dtype(answers.dtype) == "float32"
    assert {weight.dtype for weight in copy.weights} == {"float32"}
    half = keras.ops.cast(model(images), "float32")
    np.testing.assert_allclose(answers, half, atol=0.02)


def test_model_in_float32_is_itself():
    model = network("float32")
    assert in_float32(model) is model


def test_model_that_is_no_graph_is_refused():
    class Own(keras.Model):
        def __init__(self):
            super().__init__(dtype="float16", name="own")

    with pytest.raises(UnsupportedModelError, match="Save it in float32"):
        in_float32(Own())
