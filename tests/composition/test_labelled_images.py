import dataclasses

import keras
import numpy as np
import pytest
import tensorflow as tf

from kmod.composition.composition_manifest import manifest_of
from kmod.composition.labelled_images import ImageReader
from kmod.composition.labelled_images import reader_of_manifest
from kmod.composition.plan import plan
from kmod.errors import ArtifactError
from kmod.modules.manifest import InputContract
from kmod.spec.model import DataRef
from kmod.spec.spec_file import load_spec

OWN = InputContract((8, 8, 1), "float32", (0.0, 255.0))


def reader_of_spec(path):
    return reader_of_manifest(manifest_of(plan(load_spec(path))))


def test_labels_follow_the_names(digits):
    found = ImageReader(OWN, "resize", ("9", "x", "3")).read(digits, "test")
    before = digits.test.labels  # 0 is the digit 3, 2 the digit 9.
    np.testing.assert_array_equal(found.labels, 2 - before[before != 1])
    np.testing.assert_array_equal(found.images, digits.test.images[before != 1])


def test_images_of_other_classes_may_stay(digits):
    reader = ImageReader(OWN, "resize", ("9", "none"), other=1)
    found = reader.read(digits, "test")
    expected = np.where(digits.test.labels == 2, 0, 1)
    np.testing.assert_array_equal(found.labels, expected)


def test_no_class_in_common(digits):
    message = r"images of \['3', '8', '9'\] for a model of"
    with pytest.raises(ArtifactError, match=message):
        ImageReader(OWN, "resize", ("x", "y")).read(digits, "test")


def test_no_image_of_a_class_in_common(digits):
    """The data set names a class of the model that the split lacks."""
    eights = digits.test.take(np.flatnonzero(digits.test.labels == 1))
    data = dataclasses.replace(digits, test=eights)
    message = r"images of \['8'\] for a model of \['3', 'x'\]"
    with pytest.raises(ArtifactError, match=message):
        ImageReader(OWN, "resize", ("3", "x")).read(data, "test")
    unnamed = dataclasses.replace(data, class_names=None)
    with pytest.raises(ArtifactError, match=r"images of \[1\] for a model"):
        ImageReader(OWN, "resize", ("3",)).read(unnamed, "test")


def test_bytes_of_the_right_range_stay_as_they_are(digits):
    reader = ImageReader(OWN, "resize", ("3", "8", "9"))
    assert reader.adapt(digits, "test") is digits.test


@pytest.mark.parametrize("size", ["resize", "pad"])
def test_images_are_adapted_as_the_spec_says(write_spec, size):
    contract = {"shape": [16, 16, 3], "range": [-1, 1], "size": size}
    reader = reader_of_spec(write_spec(input=contract))
    assert reader.class_names == ("cat", "dog")
    reader = dataclasses.replace(reader, class_names=tuple("0123456789"))
    images = reader.load(DataRef("digits", "validation"))
    assert images.images.shape == (288, 16, 16, 3)
    assert images.images.min() == -1 and images.images.max() == 1
    black = np.mean(images.images[:, :4] == -1)
    assert black == 1 if size == "pad" else black < 1


def test_a_few_images_of_each_class_of_the_data():
    reader = ImageReader(OWN, "resize", ("3", "none"), other=1)
    few, same = (
        reader.load(DataRef("digits", "validation"), images_per_class=5)
        for _ in range(2)
    )
    assert np.bincount(few.labels).tolist() == [5, 45]
    np.testing.assert_array_equal(few.images, same.images)
    assert len(reader.load(DataRef("digits", "validation"))) == 288


def test_images_from_files_are_read_at_the_size_of_the_model(tmp_path, digits):
    for name, index in {"3": 0, "8": 1}.items():
        (tmp_path / "train" / name).mkdir(parents=True)
        images = digits.test.images[digits.test.labels == index][:10]
        for number, image in enumerate(images):
            path = tmp_path / "train" / name / f"{number}.png"
            keras.utils.save_img(path, image, scale=False)
    contract = InputContract((16, 12, 3), "float32", (0.0, 255.0))
    reader = ImageReader(contract, "resize", ("8", "3"))
    found = reader.load(DataRef(tmp_path, "train"))
    assert found.images.shape == (16, 16, 12, 3)
    assert np.bincount(found.labels).tolist() == [8, 8]
    with pytest.raises(ArtifactError, match="without test images"):
        reader.load(DataRef(tmp_path, "test"))


@pytest.mark.parametrize("name", ["os:listdir", "photos"])
def test_names_in_specs_are_no_functions_and_no_folders(
    tmp_path, monkeypatch, name
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos" / "cat").mkdir(parents=True)
    reader = ImageReader(OWN, "resize", ("3", "8"))
    with pytest.raises(ArtifactError, match="must not be called|A data set is"):
        reader.load(DataRef(name, "test"))


def test_other_class_of_a_plan(write_spec):
    scores = {"other": {"name": "none", "threshold": 0.5}}
    reader = reader_of_spec(write_spec(scores=scores))
    assert reader.class_names == ("cat", "dog", "none")
    assert reader.other == 2


def test_names_of_joined_modules_are_their_class(write_spec, digits):
    def ref(name, store="a"):
        return {"store": store, "class": name}

    path = write_spec(
        classes=(),
        classes_=[
            {"name": "pet", "any_of": [ref("cat"), ref("dog")]},
            {"name": "thing", "any_of": [ref("no"), ref("cat", "b")]},
            {"name": "top", "module": ref("T-shirt/top")},
        ],
    )
    reader = reader_of_spec(path)
    assert reader.aliases == {"dog": 0, "no": 1}  # There are two of "cat".
    data = dataclasses.replace(digits, class_names=("dog", "top", "cat"))
    labels = reader.read(data, "test").labels
    before = digits.test.labels
    np.testing.assert_array_equal(labels, before[before < 2] * 2)


def test_images_that_can_not_be_adapted(digits):
    data = dataclasses.replace(digits, value_range=(0.0, 0.0))
    with pytest.raises(ArtifactError, match="a range of values rises"):
        ImageReader(OWN, "resize", ("3",)).read(data, "test")


def test_renamed_class_is_found_by_its_modules_class(write_spec, ten_digits):
    spec = write_spec((("kitty", "a", "cat"), ("dog", "b", "dog")))
    reader = reader_of_spec(spec)
    names = ("cat", "dog", *map(str, range(8)))
    data = dataclasses.replace(ten_digits, class_names=names)
    labels = reader.read(data, "test").labels
    assert np.bincount(labels).tolist() == (
        np.bincount(ten_digits.test.labels)[:2].tolist()
    )
    # Data that show a kitty by its own name mean something else by a cat.
    names = ("cat", "dog", "kitty", *map(str, range(7)))
    data = dataclasses.replace(ten_digits, class_names=names)
    labels = reader.read(data, "test").labels
    assert np.bincount(labels)[0] == (ten_digits.test.labels == 2).sum()


def test_a_name_of_two_classes_is_nobodys(write_spec, ten_digits):
    spec = write_spec((("kitty", "a", "cat"), ("puss", "b", "cat")))
    names = ("cat", "kitty", "puss", *map(str, range(7)))
    data = dataclasses.replace(ten_digits, class_names=names)
    found = reader_of_spec(spec).read(data, "test")
    assert len(found) == np.isin(ten_digits.test.labels, (1, 2)).sum()


@pytest.mark.parametrize("form", ["image-data", "arrays", "tf-data"])
def test_images_in_python_are_read_as_those_by_name(ten_digits, form):
    """In the order of the model's classes, then others, or by names."""
    ref = DataRef("digits", "validation")
    reader = ImageReader(OWN, "resize", ("3", "8"), other=2)
    given, part = ten_digits, ten_digits.validation
    if form == "arrays":
        order = np.array([2, 3, 4, 0, 5, 6, 7, 8, 1, 9])
        given = part.images[..., 0], np.eye(10)[order[part.labels]]
    elif form == "tf-data":
        given = tf.data.Dataset.from_tensor_slices((part.images, part.labels))
        given = given.batch(50)
        given.class_names = ten_digits.class_names
    found, expected = (
        each.load(ref, images_per_class=500)
        for each in (dataclasses.replace(reader, given={ref: given}), reader)
    )
    np.testing.assert_array_equal(found.images, expected.images)
    np.testing.assert_array_equal(found.labels, expected.labels)
    assert set(found.labels) == {0, 1, 2}
