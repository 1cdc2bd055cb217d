import json

import keras
import pytest

from kmod.cli.main import main
from kmod.modules.module_store import load_store


@pytest.fixture(scope="module")
def model_path(ten_digits, tmp_path_factory):
    """A model of one output that tells zeros from other digits."""
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            keras.layers.Rescaling(1 / 255),
            keras.layers.Conv2D(8, 3, activation="relu"),
            keras.layers.Flatten(),
            keras.layers.Dense(1, activation="sigmoid"),
        ]
    )
    model.compile(keras.optimizers.Adam(0.01), "binary_crossentropy")
    images, labels = ten_digits.train.images, ten_digits.train.labels
    model.fit(images, (labels == 0).astype("int64"), 64, epochs=4, verbose=0)
    path = tmp_path_factory.mktemp("binary") / "is-zero.keras"
    model.save(path)
    return path


def arguments(model_path, out, class_name="0"):
    start = ["import", str(model_path), "--class", class_name]
    return [*start, "--data", "digits", "--out", str(out)]


def test_store_holds_the_one_module(model_path, tmp_path, capsys, ten_digits):
    out = tmp_path / "store"
    assert main([*arguments(model_path, out), "--license", "MIT"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].split()[:2] == ["0", "100.0%"]
    store = load_store(out)
    assert (store.class_names, store.manifest.license) == (("0",), "MIT")
    assert store.manifest.source.name == "is-zero"
    calibration = store.info("0").calibration
    assert calibration["num_images"] == len(ten_digits.validation.labels)
    assert store.info("0").metrics["f1"] > 0.9
    # Nothing is compared with other classes' images under a wrong name.
    assert main(["test", str(out), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    *others, last = [row["outcome"] for row in found]
    assert (set(others), last) == ({"passed"}, "skipped")
    # The class is named as in the store.
    argv = ["familiarity", str(out), "--data", "digits", "--classes", "1,2"]
    assert main(argv) == 3
    assert "for a store of '0'. Give data that show" in capsys.readouterr().err


def test_class_is_one_of_the_data(model_path, tmp_path, capsys):
    out = tmp_path / "store"
    assert main(arguments(model_path, out, "zero")) == 3
    message = " ".join(capsys.readouterr().err.split())
    assert "`--class` must be a class of the data." in message
    assert "['0', '1'," in message
    assert not out.exists()


def test_model_of_another_class_is_refused(model_path, tmp_path, capsys):
    assert main(arguments(model_path, tmp_path / "store", "7")) == 3
    message = " ".join(capsys.readouterr().err.split())
    assert "must be better than guesses" in message
    assert "model 'is-zero'" in message


@pytest.mark.long
def test_classifier_becomes_a_module_of_each_class(
    tmp_path, capsys, build_source, train, digits
):
    train(build_source(), digits).save(tmp_path / "model.keras")
    out = tmp_path / "store"
    command = ["import", str(tmp_path / "model.keras"), "--data", "digits"]
    command += ["--classes", "3,8,9", "--out", str(out)]
    assert main([*command, "--class-index", "1"]) == 2
    assert "`--class-index` says which output" in capsys.readouterr().err
    assert not out.exists()
    assert main([*command, "--json"]) == 0
    modules = json.loads(capsys.readouterr().out)["modules"]
    assert [row["class"] for row in modules] == ["3", "8", "9"]
    assert {row["retention_rate"] for row in modules} == {1.0}
    assert load_store(out).manifest.familiarity is not None
