import json
import zipfile

import keras
import pytest

from kmod.errors import ArtifactError
from kmod.modules.keras_archive import load_keras_archive


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
    assert load_keras_archive(archive).count_params() == 20 + 5


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
        load_keras_archive(archive)


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
        load_keras_archive(archive)


def test_file_that_is_no_archive(tmp_path):
    (tmp_path / "model.keras").write_text("text")
    with pytest.raises(ArtifactError, match="not a Keras archive: .*not a zip"):
        load_keras_archive(tmp_path / "model.keras")


def test_what_keras_can_not_load(archive):
    rewrite(archive, lambda data: data[:100], "model.weights.h5")
    with pytest.raises(ArtifactError, match="can not load .*model.keras': "):
        load_keras_archive(archive)
