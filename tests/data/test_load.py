import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds

from kmod.data import disk_arrays
from kmod.data.image_data import LabelledImages
from kmod.data.load import load_data
from kmod.data.load import load_unlabelled
from kmod.data.load import parse_split
from kmod.data.load import split_name
from kmod.data.load import unlabelled_of
from kmod.errors import ArtifactError
from kmod.errors import UsageError

REPOSITORY = Path(__file__).parents[2]
DATA_DIR = Path(
    os.environ.get("KMOD_DATA_DIR", REPOSITORY.parent / "shared" / "data")
)

NUM_IMAGES = 40

needs_mnist = pytest.mark.skipif(
    not (DATA_DIR / "mnist").is_dir(),
    reason="mnist is not in KMOD_DATA_DIR or ../shared/data",
)


def test_digits_need_no_files():
    data = load_data("digits")
    assert data.class_names == tuple("0123456789")
    assert data.train.images.shape[1:] == (8, 8, 1)
    assert data.train.images.dtype == np.uint8
    assert data.train.images.max() == 255
    sizes = [len(data.train), len(data.validation), len(data.test)]
    assert sizes == [1149, 288, 360]


def test_test_images_are_the_same_for_every_seed():
    first, second = load_data(seed=0), load_data(seed=1)
    np.testing.assert_array_equal(first.test.images, second.test.images)
    assert not np.array_equal(first.train.images, second.train.images)


def test_validation_can_not_be_left_out():
    with pytest.raises(UsageError, match="above 0 and below 1. Received: 0.0"):
        load_data("digits", validation_split=0.0)


def test_version_stays_with_the_name():
    assert parse_split("mnist:3.0.1:test") == ("mnist:3.0.1", "test")


@pytest.mark.parametrize("text", ["digits", "digits:dev", ":test", "test"])
def test_split_must_be_named(text):
    with pytest.raises(UsageError, match=f"NAME:SPLIT.*Received: '{text}'"):
        parse_split(text)


@pytest.mark.parametrize(
    "text, expected",
    [
        ("digits", ("digits", None)),
        ("mnist:3.0.1", ("mnist:3.0.1", None)),
        ("mnist:3.0.1:test", ("mnist:3.0.1", "test")),
    ],
)
def test_split_may_be_left_out_without_labels(text, expected):
    assert split_name(text) == expected


def test_labels_of_a_data_set_are_left_out():
    found = load_unlabelled("digits", split="test")
    expected = load_data("digits").test.images
    np.testing.assert_array_equal(found.images, expected)
    assert len(load_unlabelled("digits", limit=7)) == 7


@pytest.mark.parametrize(
    "options, message",
    [
        ({"limit": 0}, "`limit` must be at least 1"),
        ({"split": "dev"}, "`split` must be one of train"),
        ({"image_size": (4, 4)}, "are for images from files"),
    ],
    ids=lambda value: str(value)[:12],
)
def test_wrong_options_of_unlabelled_images(options, message):
    with pytest.raises(UsageError, match=message):
        load_unlabelled("digits", **options)


def _batches(*arrays):
    import tensorflow as tf

    data = arrays if arrays[1:] else arrays[0]
    return tf.data.Dataset.from_tensor_slices(data).batch(2)


IMAGES = np.arange(3 * 16, dtype="uint8").reshape(3, 4, 4, 1)
LABELS = np.array([0, 1, 0])


@pytest.mark.parametrize(
    "make",
    [
        lambda: IMAGES,
        lambda: IMAGES[..., 0],
        lambda: (IMAGES, LABELS),
        lambda: LabelledImages(IMAGES, LABELS),
        lambda: _batches(IMAGES),
        lambda: _batches(IMAGES, LABELS),
    ],
    ids="array grey tuple labelled dataset labelled_dataset".split(),
)
def test_images_of_any_form_lose_their_labels(make):
    found = unlabelled_of(make())
    np.testing.assert_array_equal(found.images, IMAGES)
    assert found.value_range == (0.0, 255.0)
    assert unlabelled_of(found) is found


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: IMAGES[:0], "at least one"),
        (lambda: _batches(IMAGES).unbatch(), "Use `data.batch"),
        (lambda: _batches(IMAGES).take(0), "at least one image"),
        (lambda: _batches(IMAGES).repeat(), "endless"),
    ],
    ids="none unbatched no_batch endless".split(),
)
def test_images_that_can_not_be_read_whole(make, message):
    with pytest.raises(ValueError, match=message):
        unlabelled_of(make())


def test_missing_data_set_names_what_is_there(tmp_path):
    prepared = tmp_path / "photos" / "1.0.0"
    prepared.mkdir(parents=True)
    (prepared / "dataset_info.json").write_text("{}")
    message = r"'mnist' version 3\.0\.1 .* holds \['photos/1.0.0'\]"
    with pytest.raises(ArtifactError, match=message):
        load_data("mnist", tmp_path)


@pytest.mark.parametrize("name", ["mnits", "photos/"])
def test_unknown_data_set_is_refused(tmp_path, name):
    with pytest.raises(ArtifactError, match=f"Received: '{name}'; prepared"):
        load_data(name, tmp_path)


def test_unknown_version_is_refused(tmp_path):
    with pytest.raises(ArtifactError, match="only: 3.0.1. Leave the version"):
        load_data("mnist:0.1.0", tmp_path)


@pytest.mark.data
@needs_mnist
def test_tfds_data_set_is_read_whole():
    data = load_data("mnist", DATA_DIR)
    assert (data.name, data.version) == ("mnist", "3.0.1")
    assert data.train.images.dtype == np.uint8
    assert data.train.labels.dtype == np.int64
    sizes = [len(data.train), len(data.validation), len(data.test)]
    assert sizes == [54000, 6000, 10000]


def test_importing_data_is_light():
    code = (
        "import sys, kmod.data.load, kmod.data.batches; "
        "sys.exit(any(m in sys.modules for m in "
        "('tensorflow', 'keras', 'sklearn', 'tensorflow_datasets')))"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


class Dots(tfds.core.GeneratorBasedBuilder):
    """A data set of our own, prepared in a temporary directory."""

    VERSION = tfds.core.Version("1.2.0")
    IMAGE = tfds.features.Image(shape=(4, 4, 1))
    SPLITS = ("train", "test")
    code_path = None  # Looking for it fails, see tensorflow/datasets#11212.
    pkg_dir_path = Path(__file__).parent  # Others install a `tests`.

    def _info(self):
        return self.dataset_info_from_configs(
            features=tfds.features.FeaturesDict(
                {
                    "image": self.IMAGE,
                    "label": tfds.features.ClassLabel(names=["dark", "light"]),
                }
            ),
            supervised_keys=("image", "label"),
        )

    def _split_generators(self, dl_manager):
        return {split: self._generate_examples() for split in self.SPLITS}

    def _generate_examples(self):
        for index in range(NUM_IMAGES):
            label = index % 2
            image = np.full((4, 4, 1), 200 * label, "uint8")
            yield index, {"image": image, "label": label}


class AnySizeDots(Dots):
    IMAGE = tfds.features.Image(shape=(None, None, 1))


class TrainDots(Dots):
    SPLITS = ("train",)


def test_data_set_is_downloaded_when_asked_for(tmp_path):
    data = load_data("dots", tmp_path, 0.2, download=True)
    assert data.class_names == ("dark", "light")
    assert data.version == "1.2.0"
    assert (len(data.train), len(data.validation)) == (32, 8)
    light = data.test.images.reshape(NUM_IMAGES, -1).all(axis=1)
    np.testing.assert_array_equal(data.test.labels, light)


@pytest.mark.parametrize("splits", [("test",), ("train", "validation")])
def test_large_data_set_is_read_to_disk(tmp_path, monkeypatch, splits):
    expected = load_data("dots", tmp_path, 0.2, download=True)
    monkeypatch.setattr(disk_arrays, "LIMIT", 0)
    found = load_data("dots", tmp_path, 0.2, splits=splits)
    for split in ("train", "validation", "test"):
        one, other = getattr(found, split), getattr(expected, split)
        if split in splits:
            assert isinstance(one.images, np.memmap)
            np.testing.assert_array_equal(one.images, other.images)
            np.testing.assert_array_equal(one.labels, other.labels)
        else:
            assert one.images.shape == (0, 4, 4, 1)


def test_data_set_that_the_disk_has_no_room_for(tmp_path, monkeypatch):
    load_data("dots", tmp_path, 0.2, download=True)
    monkeypatch.setattr(disk_arrays, "LIMIT", 100)
    monkeypatch.setattr(disk_arrays, "_free", lambda: 600)
    with pytest.raises(ArtifactError, match="'dots', which takes 0 MiB"):
        load_data("dots", tmp_path, 0.2)


def test_nothing_is_downloaded_unasked(tmp_path):
    with pytest.raises(ArtifactError, match="fetch it with `download=True`"):
        load_data("dots", tmp_path)
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["any_size_dots", "train_dots"])
def test_other_forms_of_data_are_refused(tmp_path, name):
    message = f"images of one size, .* Received: '{name}' with image=Image"
    with pytest.raises(ArtifactError, match=message):
        load_data(name, tmp_path, download=True)
