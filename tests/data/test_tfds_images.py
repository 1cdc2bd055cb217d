import numpy as np
import pytest
import tensorflow_datasets as tfds

from kmod.data.tfds_images import load_tfds
from kmod.errors import ArtifactError

NUM_IMAGES = 40


class Dots(tfds.core.GeneratorBasedBuilder):
    """A data set of our own, prepared in a temporary directory."""

    VERSION = tfds.core.Version("1.2.0")
    IMAGE = tfds.features.Image(shape=(4, 4, 1))
    SPLITS = ("train", "test")
    code_path = None  # Looking for it fails, see tensorflow/datasets#11212.

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
    data = load_tfds("dots", tmp_path, 0.2, download=True)
    assert data.class_names == ("dark", "light")
    assert data.version == "1.2.0"
    assert (len(data.train), len(data.validation)) == (32, 8)
    light = data.test.images.reshape(NUM_IMAGES, -1).all(axis=1)
    np.testing.assert_array_equal(data.test.labels, light)


def test_nothing_is_downloaded_unasked(tmp_path):
    with pytest.raises(ArtifactError, match="fetch it with `download=True`"):
        load_tfds("dots", tmp_path)
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["any_size_dots", "train_dots"])
def test_other_forms_of_data_are_refused(tmp_path, name):
    message = f"images of one size, .* Received: '{name}' with image=Image"
    with pytest.raises(ArtifactError, match=message):
        load_tfds(name, tmp_path, download=True)
