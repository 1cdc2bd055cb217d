import keras
import numpy as np
import pytest
import tensorflow as tf

from kmod.export import savedmodel
from kmod.export.savedmodel import predict_by_name


def test_signatures_name_everything(tmp_path, model, images, class_names):
    savedmodel.write(model, class_names, tmp_path)
    loaded = tf.saved_model.load(str(tmp_path))
    serve = loaded.signatures["serving_default"]
    assert list(serve.structured_input_signature[1]) == ["image"]
    answers = serve(image=tf.constant(images))
    assert answers.keys() == {"probabilities", "class_id", "class_name"}
    best = answers["probabilities"].numpy().argmax(axis=1)
    assert answers["class_id"].dtype == tf.int32
    np.testing.assert_array_equal(answers["class_id"], best)
    names = [class_names[index].encode() for index in best]
    assert answers["class_name"].numpy().tolist() == names
    listed = loaded.signatures["class_names"]()["class_names"].numpy()
    assert listed.tolist() == [name.encode() for name in class_names]


def test_tensorflow_notes_nothing(tmp_path, model, class_names, caplog):
    with caplog.at_level("INFO", "tensorflow"):
        tf.saved_model.save(tf.Module(), str(tmp_path / "noted"))
        assert "written" in caplog.text
        caplog.clear()
        savedmodel.write(model, class_names, tmp_path / "quiet")
        assert not caplog.records
        tf.saved_model.save(tf.Module(), str(tmp_path / "again"))
        assert "written" in caplog.text


def test_first_of_equal_answers_is_the_class(tmp_path, images, class_names):
    image = keras.Input((6, 6, 1), name="image")
    zero = keras.layers.Rescaling(0.0)(keras.layers.Flatten()(image))
    model = keras.Model(image, keras.layers.Softmax()(zero[:, :3]))
    savedmodel.write(model, class_names, tmp_path)
    answers = savedmodel.predict(tmp_path, images)
    assert answers["class_id"].tolist() == [0] * len(images)


def test_module_answers_with_its_score(tmp_path, capsys):
    image = keras.Input((2, 2, 1), name="any", dtype="uint8")
    scaled = keras.layers.Rescaling(0.5)(image)
    total = keras.layers.Dense(1, kernel_initializer="ones")
    model = keras.Model(image, total(keras.layers.Flatten()(scaled)))
    savedmodel.write(model, ("cat",), tmp_path)
    loaded = tf.saved_model.load(tmp_path)
    expected = {"serve", "serving_default", "class_names"}
    assert set(loaded.signatures) == expected
    image = np.full((3, 2, 2, 1), 4, "uint8")
    answer = loaded.signatures["serving_default"](image=tf.constant(image))
    assert list(answer) == ["score"]
    np.testing.assert_array_equal(answer["score"], np.full((3, 1), 8.0))
    np.testing.assert_array_equal(loaded.serve(image)["score"], answer["score"])
    assert capsys.readouterr().out == ""


def test_weights_share_variables(tmp_path):
    image = keras.Input((6, 6, 1), name="image")
    x = keras.layers.Flatten()(keras.layers.Conv2D(7, 2)(image))
    x = keras.layers.BatchNormalization()(x)
    x = keras.layers.Dense(67, dtype="mixed_float16")(x)
    x = keras.layers.Dense(67, dtype="float16")(x)
    model = keras.Model(image, keras.layers.Dense(3, "softmax")(x))
    sizes = [np.prod(weight.shape) for weight in model.weights]
    assert max(sizes) > savedmodel.LARGE and max(sizes) % 16
    rng = np.random.default_rng(0)
    for weight in model.weights:
        weight.assign(rng.uniform(0, 0.2, weight.shape))
    savedmodel.write(model, ("a", "b", "c"), tmp_path)
    images = rng.uniform(size=(5, 6, 6, 1)).astype("float32")
    expected = predict_by_name(model, images)["probabilities"]
    answers = savedmodel.predict(tmp_path, images)["probabilities"]
    np.testing.assert_allclose(answers, expected, rtol=1e-6)
    weights = tf.saved_model.load(str(tmp_path)).weights
    assert len(weights) == 4 < len(model.weights)
    model.weights[1].assign(model.weights[1] + 0.1)
    changed = predict_by_name(model, images)["probabilities"]
    assert np.abs(changed - answers).max() > 1e-4


@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
def test_fused_activations_are_probabilities(images, activation):
    layers = [
        keras.Input((6, 6, 1)),
        keras.layers.Flatten(),
        keras.layers.Dense(3, activation=activation),
    ]
    assert list(predict_by_name(keras.Sequential(layers), images)) == [
        "probabilities"
    ]


def test_nested_models_count(images, build):
    image = keras.Input((6, 6, 1))
    model = keras.Model(image, build()(image))
    assert list(predict_by_name(model, images)) == ["probabilities"]


def test_logits_get_probabilities(images, build):
    answers = predict_by_name(build(output="logits"), images)
    assert list(answers) == ["probabilities", "logits"]
    expected = keras.ops.softmax(answers["logits"])
    np.testing.assert_array_equal(answers["probabilities"], expected)


def test_one_score(images, build):
    assert list(predict_by_name(build(num_classes=1), images)) == ["score"]


def test_full_disk_is_an_error_of_the_system(tmp_path, monkeypatch):
    def fail(*_, **__):
        message = "{{node x}} /a/part-0; No space left on device [Op:SaveV2]"
        raise tf.errors.ResourceExhaustedError(None, None, message)

    monkeypatch.setattr(tf.saved_model, "save", fail)
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(2)])
    with pytest.raises(OSError, match="No space left on device: '") as caught:
        savedmodel.write(model, ("a", "b"), tmp_path / "out")
    assert caught.value.filename == str(tmp_path / "out")


@pytest.mark.parametrize("name", ["re[g]ex*?", "a\\b", "x*"])
def test_path_is_no_pattern(tmp_path, images, build, name):
    """TensorFlow reads weights by a pattern, so that `x*` may be another."""
    model, other = build(), build()
    other.set_weights([weight + 1 for weight in other.get_weights()])
    for each, folder in ((other, "x"), (other, "xy"), (model, name)):
        savedmodel.write(each, ("a", "b", "c"), tmp_path / folder / "s")
    answers = savedmodel.predict(tmp_path / name / "s", images)
    expected = predict_by_name(model, images)["probabilities"]
    np.testing.assert_allclose(answers["probabilities"], expected, atol=1e-5)


def test_tensorflow_optimizes_as_before(tmp_path, model, images, class_names):
    savedmodel.write(model, class_names, tmp_path)
    before = tf.config.optimizer.get_experimental_options()
    savedmodel.predict(tmp_path, images)
    assert tf.config.optimizer.get_experimental_options() == before
