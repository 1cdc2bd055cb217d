import keras
import numpy as np
import pytest

from kmod.composition import teaching
from kmod.composition.composition_manifest import manifest_of_model
from kmod.data.image_data import UnlabelledImages
from kmod.errors import ArtifactError
from kmod.modules.manifest import InputContract


def manifest(output_shape=(8, 8, 1)):
    return manifest_of_model(
        "model",
        ["3", "8", "9"],
        InputContract(output_shape, "float32", (0.0, 255.0)),
        "sha256:" + 64 * "0",
        {"parameters": 1, "macs": 1},
    )


def test_images_of_other_kinds_are_adapted_and_joined(digits):
    large = np.repeat(np.repeat(digits.train.images, 2, 1), 2, 2)
    images = [
        UnlabelledImages(large[:40] / np.float32(255), (0.0, 1.0), "large"),
        digits,
    ]
    found = teaching.unlabelled_for(manifest(), images)
    assert found.name == "large, digits"
    assert found.images.shape == (40 + len(digits.train), 8, 8, 1)
    np.testing.assert_allclose(
        found.images[:40], digits.train.images[:40], atol=1e-3
    )


def test_teacher_is_asked_once_for_each_image(digits):
    asked = []

    def answer(images):
        asked.append(images)
        return np.zeros((len(images), 3), "float32")

    images = digits.train.images[:60]
    lesson = teaching.prepare_lesson(manifest(), images, None, answer, seed=1)
    assert [len(each) for each in asked] == [54, 6]
    joined = np.concatenate(asked).reshape(60, -1)
    np.testing.assert_array_equal(
        np.sort(joined, axis=0), np.sort(images.reshape(60, -1), axis=0)
    )
    assert len(lesson.answers) == 54 and len(lesson.held_out_answers) == 6
    given = teaching.prepare_lesson(manifest(), images, images[:9], answer, 1)
    assert len(given.images) == 60 and len(given.held_out) == 9


def test_logits_and_probabilities_say_the_same():
    logits = np.random.default_rng(0).normal(size=(5, 3)).astype("float32")
    shares = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(
        teaching.log_probabilities(logits, "logits", "it"),
        teaching.log_probabilities(shares, "probabilities", "it"),
        atol=1e-5,
    )
    logits[2, 1] = np.nan
    with pytest.raises(ArtifactError):
        teaching.log_probabilities(logits, "logits", "it")


def test_rate_falls_and_the_best_epoch_is_kept_in_the_last_epochs_only(digits):
    images = digits.train.images[:40]
    lesson = teaching.prepare_lesson(
        *(manifest(), images, None),
        lambda shown: np.log(np.full((len(shown), 3), 1 / 3, "float32")),
        seed=0,
    )
    rates, shown = [], []

    class Watch(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            rates.append(float(self.model.optimizer.learning_rate))
            shown.append((epoch, "val_loss" in logs))

    training = teaching.Training(4, 8, 0.01, 2.0, False, 0, [Watch()], 0)
    network = keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            keras.layers.Flatten(),
            keras.layers.Dense(3),
        ]
    )
    teaching.learn(network, lesson, training, last_epoch=1)
    teaching.learn(network, lesson, training, first_epoch=1)
    assert shown == [(0, False), (1, True), (2, True), (3, True)]
    assert rates[0] == pytest.approx(0.01)
    assert rates[1] > rates[2] > rates[3] == pytest.approx(1e-4, rel=0.01)
