import dataclasses

import numpy as np
import pytest

from kmod.composition.labelled_images import adapted_split
from kmod.composition.labelled_images import label_by_name
from kmod.composition.labelled_images import load_images
from kmod.composition.plan import plan
from kmod.data.image_data import LabelledImages
from kmod.errors import ArtifactError
from kmod.spec.loader import load_spec
from kmod.spec.model import DataRef
from kmod.store.manifest import InputContract


@pytest.fixture
def images():
    numbers = np.arange(4)
    return LabelledImages(numbers.reshape(4, 1, 1, 1), numbers)


def test_labels_follow_the_names(images):
    found = label_by_name(images, ["a", "b", "c", "d"], ("d", "x", "b"))
    assert found.labels.tolist() == [2, 0]
    assert found.images.ravel().tolist() == [1, 3]


def test_images_of_other_classes_may_stay(images):
    found = label_by_name(images, ["a", "b", "c", "d"], ("d", "b"), other=2)
    assert found.labels.tolist() == [2, 1, 2, 0]


def test_no_class_in_common(images):
    with pytest.raises(ArtifactError, match=r"\['a', 'b'\] for a model of"):
        label_by_name(images, ["a", "b"], ("x", "y"))


def test_bytes_of_the_right_range_stay_as_they_are(digits):
    contract = InputContract((8, 8, 1), "float32", (0.0, 255.0))
    assert adapted_split(digits, "test", contract) is digits.test


@pytest.mark.parametrize("size", ["resize", "pad"])
def test_images_are_adapted(write_spec, size):
    contract = {"shape": [16, 16, 3], "range": [-1, 1], "size": size}
    planned = plan(load_spec(write_spec(input=contract)))
    images, names = load_images(DataRef("digits", "validation"), planned)
    assert images.images.shape == (144, 16, 16, 3)
    assert names == tuple("0123456789")
    assert images.images.min() == -1 and images.images.max() == 1
    black = np.mean(images.images[:, :4] == -1)
    assert black == 1 if size == "pad" else black < 1


def test_images_that_can_not_be_adapted(digits):
    data = dataclasses.replace(digits, value_range=(0.0, 0.0))
    contract = InputContract((8, 8, 1), "float32", (0.0, 255.0))
    with pytest.raises(ArtifactError, match="a range of values rises"):
        adapted_split(data, "test", contract)
