"""Makes any classifier physically smaller."""

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from kmod.callbacks.slim_checkpoints import STAGE
from kmod.callbacks.slim_checkpoints import SlimCheckpoints
from kmod.composition.composition_manifest import Composition
from kmod.composition.composition_manifest import CompositionManifest
from kmod.composition.composition_manifest import is_patched
from kmod.composition.composition_manifest import manifest_of_model
from kmod.composition.composition_manifest import total_sizes
from kmod.composition.distillation import composition_of
from kmod.composition.labelled_images import check_shown
from kmod.composition.labelled_images import reader_of_manifest
from kmod.composition.plan import ALL_CLASSES
from kmod.composition.routing import is_fixed
from kmod.composition.teaching import Teacher
from kmod.composition.teaching import Training
from kmod.composition.teaching import agreement
from kmod.composition.teaching import learn
from kmod.composition.teaching import prepare_transfer_set
from kmod.composition.teaching import to_classifier
from kmod.data.batches import class_names_of
from kmod.data.batches import common_class_names
from kmod.data.batches import to_arrays
from kmod.data.image_data import ImageData
from kmod.data.image_data import LabelledImages
from kmod.data.image_data import UnlabelledImages
from kmod.data.load import unlabelled_of
from kmod.errors import KmodError
from kmod.errors import UsageError
from kmod.export.keras_file import file_bytes
from kmod.files.run_directory import check_resume
from kmod.files.run_directory import discard_run
from kmod.files.run_directory import open_run
from kmod.graph import channel_graph
from kmod.graph import rebuild
from kmod.graph.content import content_digest
from kmod.graph.sources import functional_of
from kmod.modular.modular_model import checked_names
from kmod.modular.run_identity import array_digest
from kmod.modular.run_identity import environment
from kmod.modules.manifest import InputContract
from kmod.slimming.removal import cut_kernels
from kmod.slimming.removal import least_costs
from kmod.slimming.removal import macs_for_latency
from kmod.slimming.removal import remove_kernels
from kmod.slimming.removal import smallest_network

# Of the multiply-accumulates, where none is given.
USUAL_TARGET, TARGET_OF_FEW = 0.5, 0.25
FEW = 1 / 3  # Share of the classes.
EPOCHS = 20, 100  # Where none are given: least and most,
SHOWN = 100_000  # and as many as show so many images between them.
CUT_BY = 0.8  # What one removal leaves, about.
CLOSER = 0.99
BYTES = 4  # Of a float32 weight.
CUTTING = 0.5  # Share of the epochs in which kernels go, at most.


def slim(
    model: keras.Model,
    images: Any,
    *,
    macs_target: float | None = None,
    parameters_target: float | None = None,
    bytes_target: float | None = None,
    latency_target: float | None = None,
    only: Sequence[str] | None = None,
    class_names: Sequence[str] | None = None,
    output: str | None = None,
    validation: Any = None,
    epochs: int | None = None,
    batch_size: int = 64,
    learning_rate: float = 0.002,
    temperature: float = 2.0,
    augment: bool = False,
    seed: int = 0,
    run_directory: str | Path | None = None,
    resume: bool = False,
    callbacks: Sequence[keras.callbacks.Callback] = (),
    verbose: str | int = "auto",
) -> keras.Model:
    """Removes kernels of a whole classifier and trains the rest.

    The kernels that are worth least for what they cost go in several steps,
    with an epoch of training after each. All weights that are left learn what
    the classifier answered before, and the labels where images have them. The
    epoch is kept that does this best on images that are held out.

    Args:
        model: Trained Functional or Sequential classifier, or what
            `kmod.compose`, `kmod.patch` or `kmod.load` returned. It is not
            changed.
        images: Images such as the model will see, many and of all its classes:
            an array, `UnlabelledImages`, `(images, labels)`, `LabelledImages`,
            an `ImageData` or a batched data set. A list of such joins them.
            Labels are those of the classes of the same names, or else class
            indices of the model; of other classes they are left out. So are
            the images of other classes of an `ImageData` that names all those
            to keep. Give images alone to learn from none.
        macs_target: Multiply-accumulates to come down to, as a multiple of
            the model's, between 0 and 1. If no target is given, it is 0.5, or
            0.25 where `only` keeps a third of the classes or fewer.
        parameters_target: The same of its parameters.
        bytes_target: The same of the bytes of its `.keras` file.
        latency_target: The same of the time that one image takes, measured
            on this machine with networks that are cut for it.
        only: Names of two or more classes to keep, in the order of the new
            outputs. Give images of these. Defaults to all classes.
        class_names: Names of the model's classes. Defaults to its attribute
            `class_names`, to those that `images` have, and else to `"0"`,
            `"1"`, ... A composed model knows its own.
        output: Name of the model's output to take, of several.
        validation: Images to choose the epoch on. Defaults to a tenth of
            `images`, at most 5,000.
        epochs: Integer, number of epochs, those of the removal included.
            Defaults to 20, or to as many as show 100,000 images, up to 100.
        batch_size: Integer, images to a step.
        learning_rate: Highest learning rate of Adam; it falls along a cosine
            once all kernels are gone.
        temperature: What the scores of both are divided by before they are
            compared.
        augment: Whether to mirror and move images at random; the model then
            answers each anew, in every epoch. Do not mirror digits or letters.
        seed: Integer, seed of what is held out and drawn.
        run_directory: Directory of its own to keep every epoch in. Defaults
            to none, so that a run that was cut short starts anew.
        resume: Whether to go on with the run in `run_directory`, whose model,
            images and arguments must be these. It ends as if it had never
            been cut short, to the bit on a CPU. If no run is there, a new one
            begins.
        callbacks: Further Keras callbacks. What they know themselves is not
            kept for a run that goes on.
        verbose: Keras' progress bar: `"auto"`, 0, 1 or 2.

    Returns:
        The smaller classifier, a flat Functional model of built-in layers
        that answers in `class_names`, with probabilities where `model` does.
        `kmod.save` writes it as a composed model, whose manifest says what it
        was made from.

    Raises:
        ArtifactError: If images do not fit, answers are not numbers or, by
            the labels, no better than guesses, or the run to resume can not
            be read.
        UnsupportedModelError: If the model's graph can not be read, or nothing
            can be removed from it.
        UsageError: If a number is out of range, a target can not be reached,
            there are too few images, classes are not the model's, arguments
            are not those of the run to resume, or `run_directory` holds other
            files than a run's.

    Example:

    >>> model = keras.models.load_model("source.keras")
    >>> small = kmod.slim(model, x_train, macs_target=0.5)
    >>> small.save("small.keras")

    Reference:

    - [Hinton et al., 2015](https://arxiv.org/abs/1503.02531), for the
      training.
    """
    targets = _checked_targets(
        macs=macs_target,
        parameters=parameters_target,
        bytes=bytes_target,
        latency=latency_target,
    )
    training = Training(
        EPOCHS[0] if epochs is None else epochs,
        batch_size,
        learning_rate,
        temperature,
        augment,
        seed,
        callbacks,
        verbose,
        asks_anew=True,
    )
    check_resume(resume, run_directory)
    keras.utils.set_random_seed(seed)
    made_from = _known(model, images, class_names, output)
    manifest = made_from.manifest
    graph = channel_graph(model, output, manifest.input.shape)
    network = rebuild(graph, name=manifest.name)
    names = manifest.class_names
    is_composition = manifest.calibration and not manifest.student
    for layer in network.layers:  # What was frozen in it learns as well.
        layer.trainable = not (is_composition and is_fixed(layer.name))
    if only is not None:
        network = _restricted(network, manifest, only)
        manifest = _of_classes(manifest, only)
        made_from = Composition(manifest)  # Its spec is of other classes.
    if not targets:
        is_few = len(manifest.class_names) <= FEW * len(names)
        targets = {"macs": TARGET_OF_FEW if is_few else USUAL_TARGET}
    before = total_sizes([network])
    budgets = _budgets(network, targets, before)
    teacher = Teacher(network, "logits", "the model")
    reader = reader_of_manifest(manifest)
    images, labels = _taken_apart(images, names, reader)
    held_out = _taken_apart(validation, names, reader)
    transfer_set = prepare_transfer_set(
        *(manifest, images, held_out[0], teacher, seed),
        labels=labels,
        validation_labels=held_out[1],
    )
    if epochs is None:
        enough = math.ceil(SHOWN / len(transfer_set.images))
        number = min(max(enough, EPOCHS[0]), EPOCHS[1])
        training = dataclasses.replace(training, epochs=number)
    run = None
    if run_directory is not None:
        identity = _identity(network, manifest, transfer_set, training, targets)
        run = open_run(run_directory, identity, resume)
    checkpoints = SlimCheckpoints(run)
    try:
        if checkpoints.budgets is None and latency_target is not None:
            fast = macs_for_latency(
                network, latency_target, transfer_set.images, seed
            )
            budgets["macs"] = min(fast, budgets.get("macs", fast))
        # What was timed once is not timed again.
        checkpoints.budgets = checkpoints.budgets or budgets
        network = _trained(network, before, transfer_set, training, checkpoints)
    except KmodError:
        if run is not None and run.latest(STAGE) is None:
            discard_run(run_directory)  # The targets were refused.
        raise
    made = to_classifier(network, manifest)
    record = {
        "before": before,
        "data": transfer_set.name,
        "num_images": len(transfer_set.images),
        "epochs": training.epochs,
        "agreement": agreement(made, transfer_set),
        "num_held_out": len(transfer_set.held_out),
    }
    if transfer_set.labels is not None:
        record["num_labelled"] = int(transfer_set.labels.sum())
    made.class_names = manifest.class_names
    made.composition = dataclasses.replace(
        made_from, manifest=_manifest_of_slimmed(manifest, record)
    )
    return made


def _taken_apart(data, model_classes, reader):
    """Returns images, and the labels of those that have any.

    Args:
        data: As `slim` takes it, `None` of no images.
        model_classes: What labels without names are indices of.
        reader: `ImageReader` of the classes to keep.

    Returns:
        Images for `unlabelled_for`, and for each its label, -1 for none;
        `None` if not all parts of the data have labels.
    """
    if isinstance(data, list) and data:
        parts = [_taken_apart(x, model_classes, reader) for x in data]
        images, labels = zip(*parts)
        is_whole = all(each is not None for each in labels)
        return list(images), np.concatenate(labels) if is_whole else None
    if data is None or isinstance(data, UnlabelledImages):
        return data, None
    if isinstance(data, ImageData):
        names, labels = data.class_names, data.images_of("train").labels
    elif hasattr(data, "dtype") or hasattr(
        getattr(data, "element_spec", None), "shape"
    ):  # An array, or a data set, of images alone.
        return data, None
    else:
        names = class_names_of(data)
        data = LabelledImages(*to_arrays(data))
        labels = data.labels
    known = {name: i for i, name in enumerate(reader.class_names)}
    if names is None:
        names = model_classes
    else:
        known = reader.known_names(names)
    kept = [known.get(name, -1) for name in names]
    if max(kept, default=-1) < 0:
        return data, None
    if isinstance(data, ImageData) and {*known.values()} <= {*kept}:
        # What has another name is of another class.
        check_shown(labels, names, known, reader.class_names)
        rows = np.flatnonzero(np.array(kept)[labels] >= 0)
        part = data.images_of("train").take(rows)
        data, labels = dataclasses.replace(data, train=part), part.labels
    kept = np.array([*kept, -1])  # What is above all names counts as none.
    return data, kept[np.minimum(labels, len(names))]


def _checked_targets(**targets):
    targets = {name: x for name, x in targets.items() if x is not None}
    for name, ratio in targets.items():
        if not 0 < ratio < 1:
            raise UsageError(
                f"`{name}_target` must be above 0 and below 1, a multiple of "
                f"what the model has. Received: {name}_target={ratio}. Give "
                "0.5 for half of it."
            )
    return targets


def _known(model, images, class_names, output):
    """Returns what is known of a classifier, composed or not."""
    composed = getattr(model, "composition", getattr(model, "manifest", None))
    if isinstance(composed, (Composition, CompositionManifest)):
        made_from = composition_of(model)
        known = made_from.manifest.class_names
        if class_names is not None and tuple(class_names) != known:
            raise UsageError(
                "`class_names` are for a model that does not know its own; a "
                f"composed one does. Received: {list(class_names)} for a model "
                f"of {list(known)}. Leave them out; `only` keeps some of them."
            )
        return made_from
    first = images[0] if isinstance(images, list) and images else images
    names = class_names or getattr(model, "class_names", None)
    names = common_class_names(names, first)
    found = unlabelled_of(first)
    wanted = functional_of(model, output).inputs[0].shape[1:]
    shape = tuple(
        own or given for own, given in zip(wanted, found.images.shape[1:])
    )
    graph = channel_graph(model, output, shape)
    flat = rebuild(graph)
    contract = InputContract(shape, "float32", found.value_range)
    return Composition(
        manifest_of_model(
            model.name,
            checked_names(names, graph.num_classes),
            contract,
            content_digest(flat),
            total_sizes([flat]),
        )
    )


def _restricted(network, manifest, classes):
    """Returns the model of some classes: the others' logits are left out."""
    names = manifest.class_names
    is_right = len(set(classes)) == len(classes) >= 2
    is_right &= not isinstance(classes, str)
    if not is_right or not set(classes) <= set(names):
        raise UsageError(
            "`only` must name two or more different classes of the model, "
            f"whose classes are {list(names)}. Received: {list(classes)}. Look "
            "at their spelling, or give `class_names`."
        )
    select = np.zeros((len(names), len(classes)), "float32")
    select[[names.index(name) for name in classes], range(len(classes))] = 1
    chosen = keras.layers.Dense(
        len(classes), use_bias=False, name="chosen_classes", dtype="float32"
    )
    logits = chosen(network.output)
    chosen.set_weights([select])
    chosen.trainable = False
    return keras.Model(network.input, logits, name=network.name)


def _of_classes(manifest, classes):
    sources, has_weak = [], is_patched(manifest)
    for source in manifest.sources:
        if source["class"] in (*classes, ALL_CLASSES):
            sources.append(source)
        elif has_weak:  # Beside it, a module may count in all scores.
            sources.append({**source, "class": ALL_CLASSES, "auxiliary": True})
    # How frequent classes count as was said of all of them.
    calibration = {
        key: value
        for key, value in manifest.calibration.items()
        if key in ("kind", "routed")
    }
    return dataclasses.replace(
        manifest,
        class_names=tuple(classes),
        sources=tuple(sources),
        other=None,
        calibration=calibration,
    )


def _budgets(network, targets, before):
    """Returns what the network may cost, if removal can reach it."""
    budgets = {
        name: ratio * before[name]
        for name, ratio in targets.items()
        if name in before
    }
    for name, least in _least(network, budgets).items():
        if least > budgets[name]:
            raise _out_of_reach(name, least, budgets[name], before[name])
    if "bytes" in targets:
        fits = _fitting_parameters(network, targets["bytes"], before)
        budgets["parameters"] = min(budgets.get("parameters", fits), fits)
    return budgets


def _least(network, names):
    """Returns what the smallest network costs, both counted and estimated."""
    sizes = total_sizes([smallest_network(network)])
    estimates = least_costs(network, names)
    return {name: max(sizes[name], x) for name, x in estimates.items()}


def _fitting_parameters(network, ratio, before):
    """Returns how many parameters a file may hold; the rest of it stays."""
    whole = file_bytes(network)
    rest = whole - BYTES * before["parameters"]
    least = _least(network, ["parameters"])["parameters"]
    fits = (ratio * whole - rest) / BYTES
    if least > fits:
        raise _out_of_reach("bytes", rest + BYTES * least, ratio * whole, whole)
    return fits


def _out_of_reach(name, least, budget, before):
    least = least / before
    scale = 10 ** (1 - math.floor(math.log10(least)))
    least = math.ceil(scale * least) / scale  # Rounded, it is in reach.
    return UsageError(
        f"`{name}_target` must be what removal can reach, for this model "
        f"above {least:g}. Received: "
        f"{name}_target={budget / before:g}. Give a higher one; `kmod "
        "inspect` says what can not be removed."
    )


def _identity(network, manifest, transfer_set, training, targets):
    """Collects everything that decides how a run ends."""
    names = "epochs batch_size learning_rate temperature augment seed".split()
    return {
        "model": content_digest(network),
        "images": array_digest(transfer_set.images),
        "validation images": array_digest(transfer_set.held_out),
        "labels": array_digest(transfer_set.targets),
        "class names": list(manifest.class_names),
        "targets": targets,
        **{name: getattr(training, name) for name in names},
        **environment(),
    }


def _trained(network, before, transfer_set, training, checkpoints):
    """Removes kernels until the network fits in its budgets, and trains it."""
    budgets = checkpoints.budgets
    ratio = min(budgets[name] / before[name] for name in budgets)
    cuts = min(
        math.ceil(math.log(ratio) / math.log(CUT_BY)),
        max(math.floor(CUTTING * training.epochs), 1),
    )
    for cut in range(1, cuts + 1):
        if cut > 1:
            learn(
                *(network, transfer_set, training),
                first_epoch=cut - 2,
                last_epoch=cut - 1,
                checkpoints=checkpoints,
            )
        mask = checkpoints.mask_of(cut - 1)
        if mask is not None:
            network = cut_kernels(network, mask)
            checkpoints.removed(network, mask)
            continue
        rooms = {
            name: before[name] * (budget / before[name]) ** (cut / cuts)
            for name, budget in budgets.items()
        }
        later = None if cut == cuts else budgets
        network, mask = _cut(
            network, rooms, later, before, transfer_set, training.seed + cut
        )
        checkpoints.removed(network, mask)
    learn(
        *(network, transfer_set, training),
        first_epoch=cuts - 1,
        checkpoints=checkpoints,
    )
    return network


def _cut(network, rooms, later, before, transfer_set, seed):
    """Removes kernels until a network costs no more than there is room for."""
    targets, budgets = later or rooms, dict(rooms)
    least = least_costs(network, rooms)
    while True:
        smaller, mask = remove_kernels(
            network, budgets, transfer_set.images, seed, later
        )
        sizes = total_sizes([smaller])
        exceeded = [name for name, room in rooms.items() if sizes[name] > room]
        if not exceeded:
            return smaller, mask
        for name in exceeded:
            if budgets[name] < least[name]:
                raise _out_of_reach(
                    name, sizes[name], targets[name], before[name]
                )
        # What some layers cost does not go with what they read and make.
        for name, room in rooms.items():
            budgets[name] *= min(room / sizes[name], 1) * CLOSER
        if later is not None:
            later = {name: min(later[name], budgets[name]) for name in later}


def _manifest_of_slimmed(manifest, record):
    metrics = dict(manifest.metrics)
    metrics.pop("checks", None)  # The model passed them as it was before.
    return dataclasses.replace(
        manifest, slimmed=record, metrics=metrics, unshared=None, files={}
    )
