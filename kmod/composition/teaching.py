"""Trains a network on what a classifier answers to images."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any
from typing import Literal

import keras
import numpy as np
from keras import ops

from kmod.callbacks.epoch_checkpoints import EpochSeed
from kmod.callbacks.slim_checkpoints import SlimCheckpoints
from kmod.composition.composition_manifest import CompositionManifest
from kmod.composition.labelled_images import reader_of_manifest
from kmod.composition.scoring import LOG_ODDS_LAYER
from kmod.composition.scoring import build_classifier
from kmod.data.batches import fit_arguments
from kmod.data.disk_arrays import concatenate
from kmod.data.disk_arrays import take
from kmod.data.image_data import LabelledImages
from kmod.data.image_data import UnlabelledImages
from kmod.data.load import unlabelled_of
from kmod.data.replicas import predict_batch
from kmod.data.streaming import build_ahead
from kmod.data.streaming import predict
from kmod.data.streaming import streamed
from kmod.errors import UsageError
from kmod.graph import channel_graph
from kmod.graph import rebuild
from kmod.graph.fusion.fuse import fuse
from kmod.metrics.chance import answered_classes
from kmod.metrics.chance import check_above_chance
from kmod.modular.losses import distillation_loss
from kmod.modular.optimizer import adam
from kmod.zoo.augmented_images import AugmentedImages

HELD_OUT = 0.1
MAX_HELD_OUT = 5000
LEAST_IMAGES = 20
LEAST_PROBABILITY = 1e-7
LAST_RATE = 0.01  # What the learning rate comes down to, as a factor.
# Of the loss, where images have labels (benchmarks/trials.md).
LABEL_SHARE = 0.8


Output = Literal["probabilities", "logits"]


@dataclasses.dataclass(frozen=True, eq=False)
class Teacher:
    """A classifier whose answers are learned.

    Attributes:
        model: Keras model, images to `(batch, num_classes)`.
        output: What it answers.
        who: What it is called in messages.
    """

    model: keras.Model
    output: Output
    who: str

    def answers(self, images: np.ndarray) -> np.ndarray:
        """Returns log-probabilities of many images.

        Raises:
            ArtifactError: If answers are not numbers.
        """
        return self._logarithms(predict(self.model, images))

    def answers_on_batch(self, images: np.ndarray) -> np.ndarray:
        """Does what `answers` does, sooner for a batch."""
        return self._logarithms(predict_batch(self.model, images))

    def _logarithms(self, scores):
        scores = np.asarray(scores, "float32")
        answered_classes(scores, self.who)
        if self.output == "logits":
            return np.asarray(ops.log_softmax(scores, axis=-1))
        return np.log(np.maximum(scores, LEAST_PROBABILITY))


@dataclasses.dataclass(frozen=True, eq=False)
class TransferSet:
    """Images to learn on, and what the teacher answers to them.

    Attributes:
        images: Array of the images to learn from.
        answers: Array `(n, num_classes)`, its log-probabilities of each.
        held_out: Array of the images to choose the epoch on.
        held_out_answers: Its log-probabilities of these.
        teacher: Whose answers they are.
        name: Name of the data.
        black: Value of a black pixel.
        labels: One-hot array `(n, num_classes)` of the images to learn from,
            zeros where none is known; `None` if none is of any.
        held_out_labels: The same of the images that are held out.

    Reference:

    - [Hinton et al., 2015](https://arxiv.org/abs/1503.02531), section 2, for
      the name.
    """

    images: np.ndarray
    answers: np.ndarray
    held_out: np.ndarray
    held_out_answers: np.ndarray
    teacher: Teacher
    name: str
    black: float
    labels: np.ndarray | None = None
    held_out_labels: np.ndarray | None = None

    @property
    def targets(self) -> np.ndarray:
        """What is learned: the answers, and behind them labels if any are."""
        return self.with_labels(self.answers, self.labels)

    @property
    def held_out_targets(self) -> np.ndarray:
        """The same for the images that are held out."""
        own = self.held_out_labels
        if self.labels is not None and own is None:
            own = np.zeros_like(self.held_out_answers)
        return self.with_labels(self.held_out_answers, own)

    @staticmethod
    def with_labels(
        answers: np.ndarray, labels: np.ndarray | None
    ) -> np.ndarray:
        """Puts labels, if there are any, behind answers."""
        if labels is None:
            return answers
        return np.concatenate([answers, labels], axis=1)


@dataclasses.dataclass(frozen=True)
class Training:
    """How a network learns the answers.

    Attributes:
        epochs: Number of epochs.
        batch_size: Images to a step.
        learning_rate: Highest learning rate of Adam.
        temperature: What the scores of both are divided by before they are
            compared.
        augment: Whether images are mirrored and moved at random.
        seed: Seed of the images that are held out, and of shuffling.
        callbacks: Further Keras callbacks.
        verbose: Keras' progress bar.
        asks_anew: Whether the teacher answers each moved image. A network
            that has the teacher's layers learns more from that; one that
            begins anew learns more from what it answered to the original.

    Raises:
        UsageError: If a number is out of range.
    """

    epochs: int
    batch_size: int
    learning_rate: float
    temperature: float
    augment: bool
    seed: int
    callbacks: Sequence[keras.callbacks.Callback]
    verbose: str | int
    asks_anew: bool = False

    def __post_init__(self):
        sizes = self.epochs, self.batch_size
        if not all(isinstance(n, int) for n in sizes) or min(sizes) < 1:
            raise UsageError(
                "`epochs` and `batch_size` must be whole numbers of at least "
                f"1. Received: epochs={self.epochs}, "
                f"batch_size={self.batch_size}. Leave them out to take the "
                "usual ones."
            )
        if not (self.learning_rate > 0 and self.temperature > 0):
            raise UsageError(
                "`learning_rate` and `temperature` must be above 0. Received: "
                f"learning_rate={self.learning_rate}, "
                f"temperature={self.temperature}. Leave them out to take the "
                "usual ones."
            )


def prepare_transfer_set(
    manifest: CompositionManifest,
    images: Any,
    validation: Any,
    teacher: Teacher,
    seed: int,
    labels: np.ndarray | None = None,
    validation_labels: np.ndarray | None = None,
) -> TransferSet:
    """Asks the teacher for its answers to all images.

    Args:
        manifest: What images the teacher takes, and its classes.
        images: Images to learn from, as `unlabelled_for` takes them.
        validation: Images to choose the epoch on, or `None` for a tenth of
            the others, at most `MAX_HELD_OUT`.
        teacher: The teacher.
        seed: Integer, seed of which are held out.
        labels: Integer array `(n,)` of the images' classes, -1 for none of
            the teacher's. Defaults to none.
        validation_labels: The same of `validation`.

    Raises:
        ArtifactError: If images do not fit, answers are not numbers, or no
            better than guesses by the labels.
        UsageError: If there are fewer than `LEAST_IMAGES`.
    """
    found = unlabelled_for(manifest, images)
    if len(found) < LEAST_IMAGES:
        raise UsageError(
            f"A network learns from {LEAST_IMAGES} images or more, and needs "
            f"thousands to be good. Received: {len(found)} images in "
            f"{found.name!r}. Give more images, of any kind that the "
            "model will see."
        )
    train, held_out = found.images, None
    if validation is not None:
        held_out = unlabelled_for(manifest, validation).images
    else:
        order = np.random.default_rng(seed).permutation(len(found))
        count = min(math.ceil(HELD_OUT * len(found)), MAX_HELD_OUT)
        rows = [np.sort(each) for each in np.split(order, [count])]
        held_out, train = (take(train, each) for each in rows)
        if labels is not None:
            validation_labels, labels = (labels[each] for each in rows)
    answers = teacher.answers(train)
    if labels is not None:
        known = labels >= 0
        if known.any():
            own = answers[known].argmax(axis=1)
            check_above_chance(own, labels[known], teacher.who)
    size = answers.shape[1]
    return TransferSet(
        train,
        answers,
        held_out,
        teacher.answers(held_out),
        teacher,
        found.name,
        manifest.input.range[0],
        _one_hot(labels, size),
        _one_hot(validation_labels, size),
    )


def _one_hot(labels, num_classes):
    """Returns one row for each label, zeros for -1; `None` of no labels."""
    if labels is None:
        return None
    return np.eye(num_classes + 1, num_classes, dtype="float32")[labels]


def unlabelled_for(
    manifest: CompositionManifest, images: Any
) -> UnlabelledImages:
    """Returns images without labels as a model takes them.

    Args:
        manifest: What is known of the model.
        images: `UnlabelledImages`, an array, labelled images or an
            `ImageData`, whose labels are left out, or a batched data set; a
            list of such joins them. Those of an array have the model's range
            of values; others are adapted to what it takes.
    """
    reader, values = reader_of_manifest(manifest), manifest.input.range
    images = images if isinstance(images, list) else [images]
    found = [unlabelled_of(each, values) for each in images]
    adapted = [reader.adapt_unlabelled(each) for each in found]
    return UnlabelledImages(
        concatenate(adapted) if adapted[1:] else adapted[0],
        values,
        ", ".join(each.name for each in found),
    )


def learn(
    network: keras.Model,
    transfer_set: TransferSet,
    training: Training,
    output: Output = "logits",
    first_epoch: int = 0,
    last_epoch: int | None = None,
    checkpoints: SlimCheckpoints | None = None,
) -> None:
    """Trains a network on the teacher's answers.

    To the last epoch of the training the learning rate falls along a cosine,
    and the epoch is kept whose answers are closest to the teacher's on the
    images that are held out, or what there was before if that is closer still.
    Earlier the rate is constant, and the end is kept.

    Args:
        network: Model from images to `(batch, num_classes)`; it is trained.
        transfer_set: What to learn.
        training: How.
        output: What the network answers.
        first_epoch: Integer, epochs of the training that were run before.
        last_epoch: Integer, epochs of the training that are run after it.
            Defaults to all.
        checkpoints: Keeps what is reached, and knows what was reached before.
            Defaults to none.
    """
    last = training.epochs if last_epoch is None else last_epoch
    is_last = last == training.epochs
    done = first_epoch
    if checkpoints is not None:
        done = max(done, checkpoints.num_epochs)
        checkpoints.goes_on = done > first_epoch
        if done >= last and not is_last:
            return
    rate = training.learning_rate
    callbacks = [EpochSeed(training.seed), *training.callbacks]
    if is_last:
        steps = math.ceil(len(transfer_set.images) / training.batch_size)
        rate = keras.optimizers.schedules.CosineDecay(
            rate, (last - first_epoch) * steps, LAST_RATE
        )
        stopping = _KeepClosest(transfer_set, output, training)
        callbacks.append(stopping)
        if checkpoints is not None:
            checkpoints.stopping = stopping
    if checkpoints is not None:
        callbacks.append(checkpoints)
    network.compile(
        adam(rate),
        loss=_loss(output, training.temperature),
        metrics=[keras.metrics.MeanMetricWrapper(_agrees, name="agreement")],
    )
    build_ahead(network)
    given = transfer_set.images, transfer_set.targets
    if training.augment:
        given = _AnsweredImages(transfer_set, training, done)
    arguments = fit_arguments(given, training.batch_size)
    if is_last:
        arguments["validation_data"] = (
            transfer_set.held_out,
            transfer_set.held_out_targets,
        )
    network.fit(
        **streamed(arguments),
        initial_epoch=done,
        epochs=training.epochs,
        callbacks=[*callbacks, _StopAfter(last)],
        verbose=training.verbose,
    )


def agreement(model: keras.Model, transfer_set: TransferSet) -> float:
    """Returns how often a model gives its teacher's class, 0 to 1.

    It is measured on the images that were held out.
    """
    answered = answered_classes(
        predict(model, transfer_set.held_out), "the model"
    )
    return float(
        np.mean(answered == transfer_set.held_out_answers.argmax(axis=1))
    )


def to_classifier(
    network: keras.Model, manifest: CompositionManifest
) -> keras.Model:
    """Builds a trained network anew, flat and laid out to run fast.

    Args:
        network: Model from images to logits or probabilities.
        manifest: What is known of the classifier that it becomes.

    Returns:
        Functional model that answers as `manifest.output` says.
    """
    graph = channel_graph(network, input_shape=manifest.input.shape)
    flat = fuse(rebuild(graph, name=manifest.name))
    if flat.layers[-1].name == LOG_ODDS_LAYER:
        scores = flat.input, flat.output
        return build_classifier(*scores, manifest.name, manifest.output)
    for layer in flat.layers:
        if layer.name == LOG_ODDS_LAYER:
            layer.name = f"{LOG_ODDS_LAYER}_of_all"
    log_odds = keras.layers.Activation(
        "linear", name=LOG_ODDS_LAYER, dtype="float32"
    )
    return build_classifier(
        flat.input, log_odds(flat.output), manifest.name, manifest.output
    )


class _StopAfter(keras.callbacks.Callback):
    """Ends a part of a training, whose progress bar counts all epochs."""

    def __init__(self, num_epochs):
        super().__init__()
        self.num_epochs = num_epochs

    def on_epoch_end(self, epoch, logs=None):
        if epoch + 1 >= self.num_epochs:
            self.model.stop_training = True


class _KeepClosest(keras.callbacks.EarlyStopping):
    """Ends with the epoch of the least loss, or as it was before the first."""

    def __init__(self, transfer_set, output, training):
        patience = training.epochs
        super().__init__(
            "val_loss", patience=patience, restore_best_weights=True
        )
        self.transfer_set = transfer_set
        self.loss = _loss(output, training.temperature)

    def on_train_begin(self, logs=None):
        super().on_train_begin(logs)
        given = self.transfer_set
        scores = predict(self.model, given.held_out)
        self.best = float(self.loss(given.held_out_targets, scores))
        self.best_weights = self.model.get_weights()


def _loss(output, temperature):
    """Returns the loss of scores, beside targets as a `TransferSet` has."""

    def loss(wanted, scores):
        scores = ops.cast(scores, "float32")
        if output == "probabilities":
            scores = ops.log(ops.maximum(scores, LEAST_PROBABILITY))
        size = scores.shape[-1]
        divergence = distillation_loss(
            scores, wanted[:, :size], None, temperature
        )
        if wanted.shape[-1] == size:
            return divergence
        own = wanted[:, size:] * ops.log_softmax(scores, axis=-1)
        entropy = -ops.mean(ops.sum(own, axis=-1))
        return (1 - LABEL_SHARE) * divergence + LABEL_SHARE * entropy

    return loss


def _agrees(wanted, scores):
    answers = wanted[:, : scores.shape[-1]]
    return keras.metrics.categorical_accuracy(answers, scores)


class _AnsweredImages(AugmentedImages):
    """Batches of moved and mirrored images with what is answered to them."""

    def __init__(self, transfer_set, training, first_epoch):
        self.transfer_set = transfer_set
        self.asks_anew = training.asks_anew
        rows = np.arange(len(transfer_set.images))
        super().__init__(
            LabelledImages(transfer_set.images, rows),
            training.batch_size,
            training.seed,
            black=transfer_set.black,
            epoch=first_epoch,
        )

    def __getitem__(self, index):
        images, rows = super().__getitem__(index)
        given = self.transfer_set
        if self.asks_anew:
            answers = given.teacher.answers_on_batch(images)
        else:
            answers = given.answers[rows]
        labels = None if given.labels is None else given.labels[rows]
        return images, given.with_labels(answers, labels)
