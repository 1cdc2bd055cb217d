"""Small networks of the reuse benchmarks: weak models, sources, modules.

Weak models of one shape are trained with one compiled graph, because tracing
a graph takes longer than training on a few hundred images.
"""

import dataclasses
import os
from collections.abc import Callable
from collections.abc import Sequence
from pathlib import Path

import keras
import numpy as np
from keras import layers

from kmod.data.image_data import ImageData
from kmod.data.image_data import LabelledImages
from kmod.data.subsets import class_subset
from kmod.modular.modular_model import ModularModel
from kmod.modular.modularize import modularize
from kmod.modular.recipe import DEFAULT
from kmod.modular.stem import cache_stem
from kmod.zoo.augmented_images import AugmentedImages
from kmod.zoo.augmented_images import augment
from kmod.zoo.build import build
from kmod.zoo.train import train_source

# First layer whose kernels may go, and the retention rate that leaves 40 % of
# the kernels from there on.
MASKS = {
    "simcnn": ("conv_5", 0.6),
    "rescnn": ("conv_6", 0.69),
    "incecnn": ("conv_block_2_5x5", 0.78),
}


def batch_size(images: LabelledImages) -> int:
    """Returns 32, or 16 for few images, so that an epoch has some steps."""
    return 32 if len(images) >= 500 else 16


def arrays(path: Path, function: Callable, *args) -> dict[str, np.ndarray]:
    """Runs one part and keeps its arrays, or reads an earlier call's."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(".part.npz")
        np.savez_compressed(temporary, **function(*args))
        os.replace(temporary, path)
    with np.load(path) as stored:
        return dict(stored)


def some(
    images: LabelledImages, per_class: int, seed: int = 0, skip: int = 0
) -> LabelledImages:
    """Draws a number of images of each class, after `skip` others."""
    return images.take(indices_of_some(images.labels, per_class, seed, skip))


def indices_of_some(
    labels: np.ndarray, per_class: int, seed: int = 0, skip: int = 0
) -> np.ndarray:
    """Returns where the images are that `some` draws; few are among more."""
    random = np.random.default_rng(seed)
    members = (
        random.permutation(np.flatnonzero(labels == label))
        for label in np.unique(labels)
    )
    chosen = [found[skip : skip + per_class] for found in members]
    return np.sort(np.concatenate(chosen))


def of_classes(images: LabelledImages, classes: Sequence[int]):
    """Keeps classes and numbers them anew, in the order given."""
    return class_subset(images, list(classes))


def simple_net(like: str, shape, num_classes: int) -> keras.Model:
    """Builds a network of three layers in the manner of a twin."""
    image = keras.Input(shape, name="image")
    x = layers.Rescaling(1 / 127.5, offset=-1)(image)
    x = _conv(x, 16)
    x = layers.MaxPooling2D()(x)
    if like == "rescnn":
        x = layers.Add()([_conv(_conv(x, 16), 16), x])
    elif like == "incecnn":
        x = layers.Concatenate()(
            [_conv(x, 16, 1), _conv(x, 16), _conv(x, 8, 5)]
        )
    else:
        x = _conv(x, 32)
    x = _conv(layers.MaxPooling2D()(x), 32)
    x = layers.GlobalAveragePooling2D()(x)
    x = layers.Dense(num_classes, name="logits")(x)
    probabilities = layers.Softmax(name="probabilities")(x)
    return keras.Model(image, probabilities, name=f"simple_{like}")


def _conv(x, filters, size=3):
    x = layers.Conv2D(filters, size, padding="same")(x)
    x = layers.BatchNormalization(momentum=0.9, epsilon=1e-5)(x)
    return layers.ReLU()(x)


class Twin:
    """A network that is trained from new weights again and again.

    Args:
        make: Builds the network, with a layer `logits`.
        **optimizer: Arguments of `keras.optimizers.SGD`.
    """

    def __init__(self, make: Callable[[], keras.Model], **optimizer):
        self.make = make
        self.model = make()
        self.model.compile(
            keras.optimizers.SGD(**optimizer),
            "sparse_categorical_crossentropy",
            metrics=["accuracy"],
        )
        self.model.optimizer.build(self.model.trainable_variables)
        self._start = [
            keras.ops.convert_to_numpy(variable)
            for variable in self.model.optimizer.variables
        ]
        logits = self.model.get_layer("logits").output
        self._logits = keras.Model(self.model.input, logits)

    def reset(self, seed: int) -> None:
        """Gives the network new weights."""
        keras.utils.set_random_seed(seed)
        self.model.set_weights(self.make().get_weights())
        for variable, value in zip(self.model.optimizer.variables, self._start):
            variable.assign(value)

    def epoch(self, data: LabelledImages | AugmentedImages) -> float:
        """Trains for one epoch; returns the training accuracy."""
        given = {"x": data}
        if isinstance(data, LabelledImages):
            given = {
                "x": data.images,
                "y": data.labels,
                "batch_size": batch_size(data),
            }
        history = self.model.fit(**given, verbose=0)
        return history.history["accuracy"][0]

    def logits(self, images: np.ndarray) -> np.ndarray:
        return self._logits.predict(images, batch_size=500, verbose=0)


@dataclasses.dataclass(frozen=True)
class SourceSettings:
    """How a source model and its modules are trained.

    Attributes:
        epochs: Of the source model.
        mask_epochs: Of its modules.
        augment: Whether the source model sees changed images.
        batch_size: Of both.
        adapt_rate: Learning rate of the modules' scales and shifts; 0.01 was
            the default recipe's when most figures were measured.
        copies: Changed copies of each image that modules see instead of it, 0
            for the image itself.
    """

    epochs: int
    mask_epochs: int = 3
    augment: bool = False
    batch_size: int = 64
    adapt_rate: float = 0.01
    copies: int = 0


def train_modular(
    architecture: str, data: ImageData, settings: SourceSettings, seed: int
) -> ModularModel:
    """Trains a source model of all classes of `data`, and its masks."""
    keras.utils.set_random_seed(seed)
    shape = data.train.images.shape[1:]
    source = build(architecture, shape, len(data.class_names))
    train_source(
        source,
        data,
        settings.epochs,
        batch_size=settings.batch_size,
        seed=seed,
        augment=settings.augment,
        verbose=0,
    )
    mask_from, target = MASKS[architecture]
    train = data.train
    if settings.copies:
        train = changed_copies(train, settings.copies, seed)
    return modularize(
        source,
        (train.images, train.labels),
        (data.validation.images, data.validation.labels),
        class_names=data.class_names,
        recipe=dataclasses.replace(
            DEFAULT, retention_target=target, adapt_rate=settings.adapt_rate
        ),
        mask_from=mask_from,
        epochs=settings.mask_epochs,
        seed=seed,
        verbose=0,
    )


def changed_copies(
    images: LabelledImages, copies: int, seed: int
) -> LabelledImages:
    """Mirrors and moves images, as training with augmentation does."""
    rng = np.random.default_rng(seed)
    changed = [augment(images.images, rng) for _ in range(copies)]
    labels = np.tile(images.labels, copies)
    return LabelledImages(np.concatenate(changed), labels)


def module_answers(
    modular: ModularModel, images: np.ndarray
) -> dict[str, np.ndarray]:
    """Returns what all modules and the source model say of images."""
    kept = cache_stem(modular.stem, images)
    log_odds = modular.class_log_odds(kept, batch_size=256)
    scale, shift = keras.ops.convert_to_numpy(modular.calibration).T
    return {
        "log_odds": log_odds,
        "raw": (log_odds - shift) / scale,
        "logits": kept["teacher"],
    }


def thin_out(modular: ModularModel, share: float, seed: int = 0) -> None:
    """Keeps a share of the kernels that may go, drawn for each class."""
    random = np.random.default_rng(seed)
    shape = modular.num_classes, modular.kernels.num_groups
    kept = random.random(shape) < share
    kept |= ~modular.placement.may_go
    modular.kernel_masks = kept[:, modular.kernels.groups].astype("int64")


def randomize(
    modular: ModularModel, validation: LabelledImages, seed: int
) -> None:
    """Keeps random kernels instead, as many of each layer and class."""
    random = np.random.default_rng(seed)
    masks = modular.kernel_masks
    table = modular.kernels
    for layer in table.layers:
        columns = table.ids_of(layer)
        for row in range(len(masks)):
            masks[row, columns] = random.permutation(masks[row, columns])
    # Kernels that a residual join ties are kept or removed together.
    first = np.unique(table.groups, return_index=True)[1]
    modular.kernel_masks = masks[:, first][:, table.groups]
    modular.calibrate(validation.images, validation.labels)
