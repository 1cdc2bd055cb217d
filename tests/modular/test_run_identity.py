import keras
import numpy as np
import pytest

from kmod.data.image_data import UnlabelledImages
from kmod.modular.modular_model import ModularModel
from kmod.modular.run_identity import array_digest
from kmod.modular.run_identity import run_identity

IMAGES = np.arange(24, dtype="float32").reshape(6, 2, 2, 1)
LABELS = np.arange(6) % 2
NEGATIVES = UnlabelledImages(IMAGES, (0.0, 23.0), "images")


class Stream(keras.utils.PyDataset):
    num_batches = 3

    def __getitem__(self, index):
        return IMAGES, LABELS


def source_of(bias=0.0):
    keras.utils.clear_session()
    source = keras.Sequential(
        [
            keras.Input((2, 2, 1)),
            keras.layers.Conv2D(2, 2, name="conv"),
            keras.layers.Flatten(),
            keras.layers.Dense(
                2, bias_initializer=keras.initializers.Constant(bias)
            ),
        ]
    )
    source.layers[0].kernel.assign(np.ones((2, 2, 1, 2)))
    source.layers[2].kernel.assign(np.ones((2, 2)))
    return source


def identity_of(source=None, train=(IMAGES, LABELS), **changes):
    modular = ModularModel(source or source_of(), changes.pop("names", None))
    validation = changes.pop("validation", (IMAGES, LABELS))
    return run_identity(modular, train, validation, **changes)


def test_identities_are_the_same_for_the_same_run():
    assert identity_of(epochs=2) == identity_of(epochs=2)


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        pytest.param(
            {"source": lambda: source_of(1e-7)}, "source model", id="source"
        ),
        pytest.param(
            {"train": (IMAGES, 1 - LABELS)}, "training data", id="labels"
        ),
        pytest.param({"train": Stream()}, "training data", id="stream"),
        pytest.param(
            {"validation": (IMAGES + 1, LABELS)}, "validation data", id="images"
        ),
        pytest.param({"negatives": NEGATIVES}, "negatives", id="negatives"),
        pytest.param({"names": ["a", "b"]}, "class names", id="names"),
        pytest.param({"epochs": 3}, "epochs", id="argument"),
        pytest.param({"packages": ["pytest"]}, "versions", id="package"),
    ],
)
def test_each_change_is_another_fact(changes, name):
    before = identity_of(epochs=2)
    if "source" in changes:
        changes = {"source": changes["source"]()}
    after = identity_of(**{"epochs": 2, **changes})
    assert "negatives" not in before  # Of runs that began without them.
    assert [key for key in after if before.get(key) != after[key]] == [name]


def test_stream_is_known_by_its_type_and_length():
    assert identity_of(train=Stream())["training data"] == "3 batches of Stream"
    assert identity_of(train=None)["training data"] is None


@pytest.mark.parametrize(
    "other",
    [
        pytest.param(np.arange(4, dtype="int32"), id="dtype"),
        pytest.param(np.arange(4).reshape(2, 2), id="shape"),
        pytest.param(np.array([0, 1, 2, 4]), id="value"),
    ],
)
def test_digest_tells_arrays_apart(other):
    assert array_digest(np.arange(4)) == array_digest(np.arange(8)[:4])
    assert array_digest(np.arange(4)) != array_digest(other)


def test_package_that_is_missing_has_no_version():
    versions = identity_of(packages=["no-such-package"])["versions"]
    assert versions["no-such-package"] is None
    assert versions["keras"] == keras.__version__
