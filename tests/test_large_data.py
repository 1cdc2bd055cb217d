"""Images on disk go every way that images in memory go, and none is copied."""

import mmap

import keras
import numpy as np
import pytest
from keras.src.trainers.data_adapters import array_data_adapter

from kmod.composition.composer import compose
from kmod.composition.labelled_images import ImageReader
from kmod.data import disk_arrays
from kmod.data.image_data import LabelledImages
from kmod.metrics.evaluate import evaluate
from kmod.modular.cnnsplitter.sensitivity import activation_norms
from kmod.modular.modular_model import ModularModel
from kmod.modular.modularize import modularize
from kmod.modules.decompose import decompose
from kmod.modules.manifest import InputContract
from kmod.modules.refine import refine
from kmod.patching.donors import Donor
from kmod.patching.search import choose_patches
from kmod.selection.module_choice import choose_modules
from kmod.spec.spec_file import write_spec
from kmod.zoo.train import train_source

pytestmark = pytest.mark.long

REPEATS = 5  # More images than any batch has.
MOST = 256


class Watched(np.memmap):
    """An array on disk that notes what would copy it as a whole."""

    noted = []

    def __getitem__(self, index):
        found = super().__getitem__(index)
        if not isinstance(index, slice) and len(found) > MOST:
            self.noted.append("index")
        return found

    def __array_function__(self, function, types, args, kwargs):
        if function is not np.may_share_memory:  # NumPy's own question.
            self.noted.append(function.__name__)
        return super().__array_function__(function, types, args, kwargs)

    def __array_ufunc__(self, ufunc, method, *inputs, **kwargs):
        self.noted.append(ufunc.__name__)
        inputs = [np.asarray(each) for each in inputs]
        return getattr(ufunc, method)(*inputs, **kwargs)

    def astype(self, *args, **kwargs):
        self.noted.append("astype")
        return super().astype(*args, **kwargs)


def is_on_disk(array):
    while isinstance(array, np.ndarray):
        array = array.base
    return isinstance(array, mmap.mmap)


@pytest.fixture
def noted(monkeypatch):
    """Puts all that is collected on disk and notes whole copies of it."""
    monkeypatch.setattr(Watched, "noted", [])
    monkeypatch.setattr(disk_arrays, "LIMIT", 0)
    monkeypatch.setattr(disk_arrays, "PART", 2**12)
    mapped = disk_arrays._GrowingFile.mapped

    def watched(file):
        array = mapped(file)  # Scores are on disk, too, and may be copied.
        return array.view(Watched) if array.ndim == 4 else array

    monkeypatch.setattr(disk_arrays._GrowingFile, "mapped", watched)
    adapter = array_data_adapter.ArrayDataAdapter
    init = adapter.__init__

    def noting(self, x, *args, **kwargs):
        if any(map(is_on_disk, keras.tree.flatten(x))):
            Watched.noted.append("Keras")
        return init(self, x, *args, **kwargs)

    monkeypatch.setattr(adapter, "__init__", noting)
    return Watched.noted


@pytest.fixture(scope="module")
def many(digits):
    """More validation images than a batch has."""
    return digits.validation.take(
        np.tile(np.arange(len(digits.validation)), REPEATS)
    )


def on_disk(images):
    return images.take(np.arange(len(images)))


def calibrated(images, strong, **others):
    modular = ModularModel(strong, mask_from="conv_3", value_range=(0, 255))
    modular.calibrate(images)
    return modular.calibration


def decomposed(images, strong, folder, **others):
    modular = ModularModel(strong, mask_from="conv_3")
    store = decompose(modular, folder / "store", data=images)
    return [store.info(name).metrics for name in store]


def patches(images, weak, donor, **others):
    contract = InputContract((8, 8, 1), "float32", (0.0, 255.0))
    options = {"target_classes": ["8"], "class_names": ("3", "8", "9")}
    options["contract"] = contract
    choice = choose_patches(weak, [Donor(donor)], images, **options)
    return [vars(each.fit.after) for each in choice.tried]


def chosen(images, poor, donor, **others):
    contract = InputContract((8, 8, 1), "float32", (-255.0, 255.0))
    stores = [poor, donor]
    choice = choose_modules(("3", "8", "9"), stores, images, contract=contract)
    return choice.roc_auc


def composed(images, donor, digits, folder, **others):
    """Composes with a calibration and a check on images of a file."""
    np.savez(
        folder / "digits.npz",
        **{"x_train": images.images, "y_train": images.labels},
        **{"x_val": images.images, "y_val": images.labels},
        class_names=digits.class_names,
    )
    data = {"path": "digits.npz", "split": "validation"}
    path = folder / "spec.yaml"
    write_spec(
        {
            "version": 1,
            "name": "two",
            "stores": {"digits": {"path": donor.path}},
            "input": {"shape": [12, 12, 1], "range": [0, 255]},
            "scores": {"calibration": "joint", "data": data},
            "classes": [
                {"name": name, "module": {"store": "digits", "class": name}}
                for name in ("9", "3")
            ],
        },
        path,
    )
    return compose(path).predict(np.ones((4, 12, 12, 1)), verbose=0)


def adapted(images, digits, **others):
    contract = InputContract((6, 6, 3), "float32", (0.0, 1.0))
    reader = ImageReader(contract, "resize", ("9", "3"))
    data = vars(digits) | {"validation": images}
    found = reader.read(type(digits)(**data), "validation")
    return np.asarray(found.images), found.labels


WAYS = {
    "evaluate": lambda images, strong, **others: evaluate(
        strong, images
    ).confusion,
    "norms": lambda images, strong, **others: activation_norms(
        ModularModel(strong, mask_from="conv_3"), images.images, images.labels
    ),
    **{
        way.__name__: way
        for way in (calibrated, decomposed, patches, chosen, composed, adapted)
    },
}


@pytest.mark.parametrize("way", WAYS)
def test_answers_from_disk_are_those_from_memory(
    way, many, strong, weak, donor, poor, digits, tmp_path, request
):
    given = {"strong": strong, "weak": weak, "donor": donor, "poor": poor}
    given["digits"] = digits
    folders = [tmp_path / "memory", tmp_path / "disk"]
    for folder in folders:
        folder.mkdir()
    expected = WAYS[way](many, folder=folders[0], **given)
    noted = request.getfixturevalue("noted")
    images = on_disk(many)
    assert is_on_disk(images.images)
    if way == "composed":  # It reads them from a file itself.
        images = many
    found = WAYS[way](images, folder=folders[1], **given)
    assert noted == []
    for one, other in zip(*map(keras.tree.flatten, (found, expected))):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)


def test_training_copies_nothing(many, strong, digits, tmp_path, noted):
    images = on_disk(many)
    assert is_on_disk(images.images)
    options = {"epochs": 1, "batch_size": 128, "verbose": 0}
    modular = modularize(strong, images, images, mask_from="conv_3", **options)
    assert modular.history.epoch == [0]
    store = decompose(modular, tmp_path / "store", value_range=(0, 255))
    refine(store, tmp_path / "refined", strong, images, images, **options)
    data = type(digits)(**{**vars(digits), "train": images})
    del options["epochs"]
    model = keras.models.clone_model(strong)
    train_source(model, data, 1, **options)
    assert noted == []


@pytest.mark.parametrize(
    ("name", "copy"),
    [
        ("astype", lambda images, model: images.astype("float32")),
        ("concatenate", lambda images, model: np.concatenate([images])),
        ("index", lambda images, model: images[np.arange(len(images))]),
        ("add", lambda images, model: images + 1),
        ("Keras", lambda images, model: model.predict(images, verbose=0)),
    ],
)
def test_copies_would_be_noted(name, copy, many, strong, noted):
    copy(on_disk(many).images, strong)
    assert name in noted


def test_labelled_images_keep_what_is_on_disk_there(many, noted):
    images = on_disk(many)
    half = images.take(np.arange(0, len(images), 2))
    assert isinstance(half, LabelledImages) and is_on_disk(half.images)
    np.testing.assert_array_equal(half.images[::9], many.images[::18])
