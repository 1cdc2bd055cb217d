"""Trains one network to answer as a composed model does.

It learns from the composition's answers to images of which nobody says what
they show, so no label is needed.
"""

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras

from kmod.composition.composition_manifest import Composition
from kmod.composition.composition_manifest import CompositionManifest
from kmod.composition.teaching import Teacher
from kmod.composition.teaching import Training
from kmod.composition.teaching import agreement
from kmod.composition.teaching import learn
from kmod.composition.teaching import prepare_transfer_set
from kmod.composition.teaching import to_classifier
from kmod.errors import ArtifactError
from kmod.errors import UsageError
from kmod.export.keras_file import load_keras_file
from kmod.graph import channel_graph
from kmod.graph import set_state
from kmod.graph.sizes import model_sizes
from kmod.graph.sources import functional_of
from kmod.modules.adaptation import adapt_model
from kmod.modules.adaptation import plan_adaptation
from kmod.modules.manifest import InputContract
from kmod.zoo.build import ARCHITECTURES
from kmod.zoo.build import build

SMALL = "small"
SMALL_ARCHITECTURE = "rescnn"
SMALL_WIDTHS = 0.5, 4.0  # The least and the greatest.
ZOO_RANGE = 0.0, 255.0


def distil(
    model: keras.Model,
    images: Any,
    student: str | Path | keras.Model = SMALL,
    *,
    validation: Any = None,
    epochs: int = 20,
    batch_size: int = 64,
    learning_rate: float = 0.002,
    temperature: float = 2.0,
    augment: bool = False,
    seed: int = 0,
    callbacks: Sequence[keras.callbacks.Callback] = (),
    verbose: str | int = "auto",
) -> keras.Model:
    """Trains one network, the student, to answer as a composed model does.

    The composition answers every image once, and the student learns these
    answers: what it takes each image for, and how sure it is. No label is
    read. The epoch is kept whose answers are closest to the composition's on
    images that are held out. A student is seldom better than its composition:
    measure both on labelled test images.

    Args:
        model: What `kmod.compose`, `kmod.patch` or `kmod.load` returned.
        images: Images such as the composition will see, many and of all its
            classes: `UnlabelledImages`, an array, labelled images or an
            `ImageData`, whose labels are left out, or a batched data set.
            Those of an array have the composition's range of values; others
            are adapted to what it takes. A list of such joins them.
        student: `"small"`, a ResCNN of about the multiply-accumulates of one
            source; `"simcnn"`, `"rescnn"` or `"incecnn"`, the small networks
            of `kmod.zoo`; or a classifier of one's own, or the path of its
            `.keras` file, of the composition's images to as many logits or
            softmax probabilities as that has classes. It is not changed.
        validation: Images to choose the epoch on. Defaults to a tenth of
            `images`, at most 5,000.
        epochs: Integer, number of epochs.
        batch_size: Integer, images to a step.
        learning_rate: Highest learning rate of Adam; it falls along a cosine.
        temperature: What the scores of both are divided by before they are
            compared. The higher, the more unlikely classes count.
        augment: Whether to mirror and move images at random. Do not mirror
            digits or letters.
        seed: Integer, seed of the student's first weights, of the images that
            are held out, and of shuffling.
        callbacks: Further Keras callbacks.
        verbose: Keras' progress bar: `"auto"`, 0, 1 or 2.

    Returns:
        The student, a flat Functional model that answers as the composition
        does: in its classes, its attribute `class_names`, with probabilities
        or logits as that. `kmod.save` writes it as a composed model, whose
        manifest names the sources and says what it learned from.

    Raises:
        ArtifactError: If images or the student do not fit the composition, or
            its answers are not numbers.
        UnsupportedModelError: If the student's graph can not be read.
        UsageError: If a number is out of range, there are too few images, or
            `model` or `student` is another one.

    Example:

    >>> model = kmod.compose("specs/compose_digits.yaml")
    >>> photos = kmod.load_unlabelled("photos", image_size=(8, 8))
    >>> kmod.save(kmod.distil(model, photos), "distilled/digits")

    Reference:

    - [Hinton et al., 2015](https://arxiv.org/abs/1503.02531)
    """
    made_from = composition_of(model)
    manifest = made_from.manifest
    training = Training(
        epochs,
        batch_size,
        learning_rate,
        temperature,
        augment,
        seed,
        callbacks,
        verbose,
    )
    keras.utils.set_random_seed(seed)
    architecture, network, output = _network_of(student, model, manifest)
    teacher = Teacher(model, manifest.output, "the composition")
    transfer_set = prepare_transfer_set(
        manifest, images, validation, teacher, seed
    )
    learn(network, transfer_set, training, output)
    made = to_classifier(network, manifest)
    record = {
        "architecture": architecture,
        "data": transfer_set.name,
        "num_images": len(transfer_set.images),
        "epochs": epochs,
        "agreement": agreement(made, transfer_set),
        "num_held_out": len(transfer_set.held_out),
    }
    made.class_names = manifest.class_names
    made.composition = dataclasses.replace(
        made_from, manifest=_manifest_of_student(manifest, record)
    )
    return made


def composition_of(model: keras.Model) -> Composition:
    """Returns what a composed model was made from.

    Args:
        model: What `kmod.compose`, `kmod.patch` or `kmod.load` returned.

    Raises:
        UsageError: If it is another model.
    """
    made_from = getattr(model, "composition", None)
    manifest = getattr(model, "manifest", None)
    if made_from is None and isinstance(manifest, CompositionManifest):
        made_from = Composition(manifest)
    if not isinstance(made_from, Composition):
        raise UsageError(
            "`model` must be what `kmod.compose`, `kmod.patch` or `kmod.load` "
            f"returned. Received: {getattr(model, 'name', model)!r} of type "
            f"{type(model).__name__}, which does not say what it was composed "
            "from. Compose a spec, or load the directory of a composed model."
        )
    return made_from


def _network_of(student, model, manifest):
    """Returns name and network of a student, and what it answers."""
    if isinstance(student, str) and student in (SMALL, *ARCHITECTURES):
        return *_of_zoo(student, model, manifest), "logits"
    if isinstance(student, (str, Path)):
        if not Path(student).exists():
            raise UsageError(
                f"`student` must be {SMALL!r}, one of {list(ARCHITECTURES)}, "
                "a Keras model or the path of its .keras file. Received: "
                f"'{student}', which is not there. Look at its spelling."
            )
        student = load_keras_file(student, allow_custom=True)
    return student.name, *_own(student, manifest)


def _of_zoo(name, model, manifest):
    architecture = SMALL_ARCHITECTURE if name == SMALL else name
    shape, count = manifest.input.shape, len(manifest.class_names)
    network = build(architecture, shape, count)
    if name == SMALL:
        wanted = model_sizes(model).macs / _num_sources(manifest)
        width = math.sqrt(wanted / model_sizes(network).macs)
        low, high = SMALL_WIDTHS
        width = min(max(width, low), high)
        network = build(architecture, shape, count, width=width)
    logits = network.get_layer("logits").output
    network = keras.Model(network.input, logits, name=architecture)
    takes = InputContract(shape, "float32", ZOO_RANGE)
    image = keras.Input(shape, dtype=manifest.input.dtype)
    return architecture, adapt_model(
        network, plan_adaptation(manifest.input, takes), image
    )


def _num_sources(manifest):
    return len({source["source"] for source in manifest.sources})


def _own(student, manifest):
    """Returns a copy of the user's network, and what it answers."""
    functional = functional_of(student)
    shape, count = manifest.input.shape, len(manifest.class_names)
    sizes = tuple(functional.inputs[0].shape[1:])
    fits = len(sizes) == len(shape) and all(
        own in (None, size) for own, size in zip(sizes, shape)
    )
    if not fits:
        raise ArtifactError(
            "A student takes the images of its composition, of shape "
            f"{shape}. Received: {student.name!r}, which takes {sizes}. Put "
            "`keras.layers.Resizing` in front of it, or make the composition "
            "for its images with `input` in the spec."
        )
    answer = tuple(functional.outputs[0].shape)
    if answer != (None, count):
        raise ArtifactError(
            "A student has one output for each class of its composition, "
            f"{count}. Received: {student.name!r} with an output of shape "
            f"{answer}. Give it a new head, `keras.layers.Dense({count})`; a "
            "network of `keras.applications` takes `include_top=False` and "
            "`pooling='avg'` in front of it."
        )
    activations = channel_graph(functional, input_shape=shape).activations
    if activations not in ((), ("softmax",)):
        raise ArtifactError(
            "A student answers with logits or softmax probabilities. "
            f"Received: {student.name!r}, which ends with "
            f"{', '.join(activations)}. Leave that out, or put a softmax in "
            "its place."
        )
    copy = keras.models.clone_model(functional)
    set_state(copy, functional.get_weights())
    return copy, "probabilities" if activations else "logits"


def _manifest_of_student(manifest, record):
    metrics = dict(manifest.metrics)
    metrics.pop("checks", None)  # The composition passed them.
    return dataclasses.replace(
        manifest, student=record, metrics=metrics, unshared=None, files={}
    )
