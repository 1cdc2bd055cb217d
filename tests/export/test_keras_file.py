import io
import json
import random
import sys
import zipfile

import h5py
import keras
import numpy as np
import pytest

from kmod.errors import ArtifactError
from kmod.export import keras_file
from kmod.export.keras_file import load_keras_file
from kmod.graph.internals import declared_bytes


@pytest.fixture
def archive(tmp_path):
    """A Keras archive with all that a module may hold."""
    image = keras.Input((4, 4, 1))
    x = keras.layers.Conv2D(
        2, 3, kernel_regularizer="l2", bias_constraint="non_neg"
    )(image)
    x = keras.ops.relu(x + 1.0)[:, 1:]
    x = keras.Sequential([keras.layers.Flatten(), keras.layers.Dense(1)])(x)
    keras.Model(image, x).save(tmp_path / "model.keras")
    return tmp_path / "model.keras"


def rewrite(path, change, member="config.json"):
    """Rewrites one member of an archive; `None` leaves it out."""
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    members[member] = change(members.get(member))
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members.items():
            if data is not None:
                archive.writestr(name, data)


def replace_first_layer(path, **changes):
    def change(data):
        config = json.loads(data)
        config["config"]["layers"][1].update(changes)
        return json.dumps(config)

    rewrite(path, change)


def test_built_in_layers_and_operations_load(archive):
    assert load_keras_file(archive).count_params() == 20 + 5


@pytest.mark.parametrize(
    ("changes", "refused"),
    [
        pytest.param({"class_name": "Lambda"}, "Lambda", id="lambda"),
        pytest.param({"class_name": "TFSMLayer"}, "TFSMLayer", id="savedmodel"),
        pytest.param({"class_name": "StringLookup"}, "StringLookup", id="file"),
        pytest.param({"class_name": "add"}, "add", id="function"),
        pytest.param({"class_name": "Gone"}, "Gone", id="unknown"),
        pytest.param({"class_name": ["Conv2D"]}, "Conv2D", id="no-text"),
        pytest.param({"module": "os", "class_name": "system"}, "os", id="os"),
        pytest.param({"module": "kerasx.layers"}, "kerasx", id="look-alike"),
        pytest.param({"module": "keras.saving"}, "keras.saving", id="api"),
        pytest.param({"module": None}, r"\?.Conv2D", id="no-module"),
        pytest.param({"registered_name": "a>B"}, "Conv2D", id="registered"),
        pytest.param(
            {"module": "keras.src.ops.numpy", "class_name": "np"},
            "numpy.np",
            id="no-operation",
        ),
        pytest.param(
            {"config": {"kernel_initializer": {"class_name": "__lambda__"}}},
            "__lambda__",
            id="nested-bytecode",
        ),
        pytest.param(
            {"config": {"activation": {"class_name": "function"}}},
            "function",
            id="nested-function",
        ),
    ],
)
def test_anything_else_is_refused(archive, changes, refused):
    replace_first_layer(archive, **changes)
    with pytest.raises(ArtifactError, match=f"built-in Keras .*{refused}"):
        load_keras_file(archive)


@pytest.mark.parametrize(
    ("member", "change", "reason"),
    [
        pytest.param("config.json", lambda data: None, "it holds", id="gone"),
        pytest.param("x.npz", lambda data: b"", "it holds", id="added"),
        pytest.param("config.json", lambda data: b"{", "Expecting", id="json"),
        pytest.param(
            "config.json",
            lambda data: b" " * (2**24 + 1),
            "config is too large",
            id="large",
        ),
        pytest.param(
            "config.json", lambda data: b"[" * 10**6, "recursion", id="deep"
        ),
    ],
)
def test_other_archives_are_refused(archive, member, change, reason):
    rewrite(archive, change, member)
    with pytest.raises(ArtifactError, match=f"not a Keras archive: .*{reason}"):
        load_keras_file(archive)


def test_file_that_is_no_archive(tmp_path):
    (tmp_path / "model.keras").write_text("text")
    with pytest.raises(ArtifactError, match="not a Keras archive: .*not a zip"):
        load_keras_file(tmp_path / "model.keras")


def test_what_keras_can_not_load(archive):
    rewrite(archive, lambda data: data[:100], "model.weights.h5")
    with pytest.raises(
        ArtifactError, match="model.keras' can not be loaded by Keras"
    ):
        load_keras_file(archive)


def build_model(layer):
    image = keras.Input((3,))
    return keras.Model(image, layer(image))


def test_load_what_a_user_brought(tmp_path):
    model = build_model(keras.layers.Dense(2))
    model.compile("adam", "mse")
    model.save(tmp_path / "m.keras")
    loaded = load_keras_file(tmp_path / "m.keras", allow_custom=True)
    assert not loaded.compiled
    x = np.ones((1, 3))
    np.testing.assert_array_equal(loaded(x), model(x))


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("m.keras", "which does not exist"),
        ("m.h5", "a file of another kind"),
        ("folder", "a directory"),
    ],
)
def test_other_paths(tmp_path, name, what):
    (tmp_path / "m.h5").write_bytes(b"x")
    (tmp_path / "folder").mkdir()
    with pytest.raises(ArtifactError, match=f"{name}', {what}"):
        load_keras_file(tmp_path / name)


@pytest.mark.parametrize("suffix", [".h5", ".hdf5"])
def test_legacy_file_of_a_user(tmp_path, suffix):
    model = build_model(keras.layers.Dense(2))
    path = tmp_path / f"m{suffix}"
    model.save(path)
    loaded = load_keras_file(path, allow_custom=True)
    x = np.ones((1, 3))
    np.testing.assert_array_equal(loaded(x), model(x))
    with pytest.raises(ArtifactError, match="existing `.keras` file"):
        load_keras_file(path)


def test_code_in_a_legacy_file_is_not_run(tmp_path):
    ran = []
    path = tmp_path / "m.h5"
    build_model(keras.layers.Lambda(lambda x: ran.append(1) or x)).save(path)
    ran.clear()
    with pytest.raises(ArtifactError, match="without Lambda layers"):
        load_keras_file(path, allow_custom=True)
    assert not ran


def test_file_of_weights_alone(tmp_path):
    path = tmp_path / "m.weights.h5"
    build_model(keras.layers.Dense(2)).save_weights(path)
    with pytest.raises(ArtifactError, match="Of a file of weights, load them"):
        load_keras_file(path, allow_custom=True)


def test_saved_model_has_no_layers(tmp_path):
    (tmp_path / "saved_model.pb").write_bytes(b"x")
    with pytest.raises(ArtifactError, match="a SavedModel, which holds op"):
        load_keras_file(tmp_path, allow_custom=True)


def test_damaged_file(tmp_path):
    (tmp_path / "m.keras").write_bytes(b"no archive")
    with pytest.raises(ArtifactError, match="can not be loaded by Keras"):
        load_keras_file(tmp_path / "m.keras", allow_custom=True)


def test_code_in_a_file_is_not_run(tmp_path):
    build_model(keras.layers.Lambda(lambda x: x)).save(tmp_path / "m.keras")
    with pytest.raises(ArtifactError, match="without Lambda layers"):
        load_keras_file(tmp_path / "m.keras", allow_custom=True)


def test_preset_without_keras_hub(tmp_path, monkeypatch):
    (tmp_path / "task.json").write_text("{}")
    monkeypatch.setitem(sys.modules, "keras_hub", None)
    with pytest.raises(ArtifactError, match="pip install keras-hub"):
        load_keras_file(tmp_path, allow_custom=True)


def sequential(units=3):
    dense = keras.layers.Dense(units, name="dense")
    return keras.Sequential([keras.Input((4,)), dense], name="small")


def with_wide_layers(config):
    """Asks for ten layers, each of 4,000 x 4,000 weights."""
    config = json.loads(config)
    *_, dense = config["config"]["layers"]
    dense["config"]["units"] = 4000
    for number in range(10):
        wide = json.loads(json.dumps(dense))
        wide["config"]["name"] = f"wide_{number}"
        wide.pop("build_config", None)
        config["config"]["layers"].append(wide)
    return json.dumps(config)


def with_huge_layer(config):
    return str(config, "utf-8").replace('"units": 3', '"units": 200000000')


def with_zeros(weights):
    """Declares 800 MB of zeros, which take no room in the file."""
    shape = 100_000, 2000
    weights.create_dataset(
        "zeros", shape, "f4", chunks=(100_000, 20), compression="gzip"
    )


def test_archive_holds_what_keras_saves(tmp_path):
    model, members = sequential(), []
    keras.utils.clear_session(free_memory=False)
    model.save(tmp_path / "keras.keras")
    keras_file.write(model, ("cat",), tmp_path / "kmod.keras")
    for name in ("keras", "kmod"):
        with zipfile.ZipFile(tmp_path / f"{name}.keras") as archive:
            weights = io.BytesIO(archive.read("model.weights.h5"))
        with h5py.File(weights) as file:
            members.append([])
            file.visit(members[-1].append)
    assert members[0] == members[1]


@pytest.mark.parametrize("allow_custom", [False, True])
@pytest.mark.parametrize("change", [with_huge_layer, with_wide_layers])
def test_layers_larger_than_the_file_are_not_allocated(
    tmp_path, change, allow_custom
):
    bomb = tmp_path / "bomb.keras"
    sequential().save(bomb)
    rewrite(bomb, change)
    with pytest.raises(
        ArtifactError, match="layers with weights of [0-9,]{11}"
    ):
        load_keras_file(bomb, allow_custom=allow_custom)


@pytest.mark.parametrize("change", [with_huge_layer, with_wide_layers])
def test_layers_larger_than_a_legacy_file_are_not_allocated(tmp_path, change):
    bomb = tmp_path / "bomb.h5"
    sequential().save(bomb)
    with h5py.File(bomb, "r+") as file:
        config = file.attrs["model_config"].encode()
        file.attrs["model_config"] = change(config)
    with pytest.raises(
        ArtifactError, match="layers with weights of [0-9,]{11}"
    ):
        load_keras_file(bomb, allow_custom=True)


def test_arrays_larger_than_the_file_are_not_read(tmp_path):
    legacy, archive = tmp_path / "bomb.h5", tmp_path / "bomb.keras"
    sequential().save(legacy)
    sequential().save(archive)
    with h5py.File(legacy, "r+") as file:
        with_zeros(file)

    def change(data):
        weights = io.BytesIO(data)
        with h5py.File(weights, "r+") as file:
            with_zeros(file)
        return weights.getvalue()

    rewrite(archive, change, "model.weights.h5")
    for bomb in (legacy, archive):
        with pytest.raises(ArtifactError, match="arrays of 800,0"):
            load_keras_file(bomb, allow_custom=True)


def test_archive_that_unpacks_to_far_more_is_not_read(tmp_path):
    bomb = tmp_path / "bomb.keras"
    sequential().save(bomb)
    with zipfile.ZipFile(bomb, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("assets/zeros", bytes(100 * 2**20))
    with pytest.raises(ArtifactError, match="files of 104,8"):
        load_keras_file(bomb, allow_custom=True)


def test_size_is_told_without_a_trace(tmp_path):
    model = sequential(30)
    model.save(tmp_path / "model.keras")
    random.seed(5)
    drawn = random.random()
    random.seed(5)
    size = declared_bytes(lambda: sequential(30))
    assert size == 4 * model.count_params()
    assert random.random() == drawn
    loaded = load_keras_file(tmp_path / "model.keras")
    images = np.ones((2, 4), "float32")
    assert np.array_equal(loaded(images), model(images))


def test_what_keras_says_in_many_lines_is_said_in_one(tmp_path):
    path = tmp_path / "model.keras"
    sequential().save(path)

    def change(data):
        weights = io.BytesIO(data)
        with h5py.File(weights, "r+") as file:
            del file["layers/dense/vars/0"]
            file["layers/dense/vars/0"] = np.zeros((2, 2))
        return weights.getvalue()

    rewrite(path, change, "model.weights.h5")
    with pytest.raises(ArtifactError, match="could not be loaded") as caught:
        load_keras_file(path)
    assert len(str(caught.value).splitlines()) == 1
    assert "shape" in str(caught.value)
