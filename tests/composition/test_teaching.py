import dataclasses

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


class Asked(teaching.Teacher):
    """Holds all classes equally likely, and keeps what it was asked."""

    def __init__(self):
        super().__init__(None, "logits", "it")
        object.__setattr__(self, "asked", [])

    def answers(self, images):
        self.asked.append(images)
        return np.full((len(images), 3), np.log(1 / 3), "float32")

    answers_on_batch = answers


@pytest.fixture
def training():
    return teaching.Training(4, 8, 0.01, 2.0, False, 0, (), 0)


@pytest.fixture
def network():
    return keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            keras.layers.Flatten(),
            keras.layers.Dense(3),
        ]
    )


def test_teacher_is_asked_for_each_image(digits):
    teacher, images = Asked(), digits.train.images[:60]
    transfer_set = teaching.prepare_transfer_set(
        manifest(), images, None, teacher, 1
    )
    assert [len(each) for each in teacher.asked] == [54, 6]
    joined = np.concatenate(teacher.asked).reshape(60, -1)
    np.testing.assert_array_equal(
        np.sort(joined, axis=0), np.sort(images.reshape(60, -1), axis=0)
    )
    assert (
        len(transfer_set.answers) == 54
        and len(transfer_set.held_out_answers) == 6
    )
    given = teaching.prepare_transfer_set(
        manifest(), images, images[:9], teacher, 1
    )
    assert len(given.images) == 60 and len(given.held_out) == 9


@pytest.mark.parametrize("asks_anew", [True, False])
def test_moved_images_are_answered(digits, network, training, asks_anew):
    teacher, images = Asked(), digits.train.images[:40]
    transfer_set = teaching.prepare_transfer_set(
        manifest(), images, None, teacher, 1
    )
    teacher.asked.clear()
    moved = dataclasses.replace(training, augment=True, asks_anew=asks_anew)
    teaching.learn(network, transfer_set, moved, last_epoch=1)
    if not asks_anew:
        assert teacher.asked == []
        return
    shown = np.concatenate(teacher.asked)
    assert len(shown) >= 36
    same = (shown[:, None] == images[None]).all(axis=(2, 3, 4)).any(axis=1)
    assert same.mean() < 0.5


def test_logits_and_probabilities_say_the_same(network, digits):
    images = digits.train.images[:30] / np.float32(255)
    softmax = keras.layers.Softmax()
    other = keras.Model(network.inputs, softmax(network.outputs[0]))
    first, second = (
        teaching.Teacher(model, output, "it")
        for model, output in ((network, "logits"), (other, "probabilities"))
    )
    for answers in ("answers", "answers_on_batch"):
        np.testing.assert_allclose(
            getattr(first, answers)(images),
            getattr(second, answers)(images),
            atol=1e-5,
        )
    images[3] = np.nan
    with pytest.raises(ArtifactError):
        first.answers(images)


def test_loss_weighs_labels_and_answers():
    random = np.random.default_rng(0)
    scores, answers = random.normal(size=(2, 6, 3)).astype("float32")
    answers -= np.logaddexp.reduce(answers, axis=1, keepdims=True)
    labels = teaching._one_hot(np.array([0, 1, 2, -1, 2, 0]), 3)
    assert labels[3].sum() == 0
    own = scores - np.logaddexp.reduce(scores, axis=1, keepdims=True)
    entropy = -np.mean(np.sum(labels * own, axis=1))
    loss = teaching._loss("logits", 2.0)
    alone = float(loss(answers, scores))
    both = float(loss(np.concatenate([answers, labels], axis=1), scores))
    share = teaching.LABEL_SHARE
    expected = (1 - share) * alone + share * entropy
    assert both == pytest.approx(expected, rel=1e-5)


def test_rate_falls_in_the_last_epochs_only(digits, network, training):
    images = digits.train.images[:40]
    transfer_set = teaching.prepare_transfer_set(
        manifest(), images, None, Asked(), 0
    )
    rates, shown = [], []

    class Watch(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            rates.append(float(self.model.optimizer.learning_rate))
            shown.append((epoch, "val_loss" in logs))

    training = dataclasses.replace(training, callbacks=[Watch()])
    teaching.learn(network, transfer_set, training, last_epoch=1)
    teaching.learn(network, transfer_set, training, first_epoch=1)
    assert shown == [(0, False), (1, True), (2, True), (3, True)]
    assert rates[0] == pytest.approx(0.01)
    assert rates[1] > rates[2] > rates[3] == pytest.approx(1e-4, rel=0.01)
