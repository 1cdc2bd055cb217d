"""How the classes of a store depend on each other."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from kmod.composition.labelled_images import ImageReader
from kmod.data.image_data import LabelledImages
from kmod.errors import UsageError
from kmod.graph.calls import run_trace
from kmod.graph.channel_graph import ChannelGraph
from kmod.graph.channel_graph import channel_graph
from kmod.graph.channels import PINNED
from kmod.metrics.evaluate import Evaluation
from kmod.metrics.evaluate import evaluate_answers
from kmod.metrics.exchange import ABSENT
from kmod.metrics.exchange import exchange_cost
from kmod.metrics.exchange import expected_exchange_cost
from kmod.metrics.exchange import worst_confused
from kmod.metrics.overlap import class_overlap
from kmod.metrics.overlap import kept_masks
from kmod.metrics.overlap import mean_overlap
from kmod.modules.module_store import ModuleStore
from kmod.patching.donors import module_answers
from kmod.spec.model import IN_MEMORY
from kmod.spec.model import DataRef

LIMIT = 0.002  # Of the accuracy that an exchange may cost.
MOST_IMAGES = 20  # Of each class, that responses are measured on.
LEAST_IMAGES = 2
BATCH_SIZE = 128
SAFE = "safe to replace alone"


@dataclasses.dataclass(frozen=True, eq=False)
class Dependence:
    """How the classes of a store depend on each other.

    With `K(c, l)` the kernels of layer `l` that the module of class `c` keeps
    and `J(A, B) = |A and B| / |A or B|` the Jaccard index, over the layers
    where not all modules keep the same kernels:

    - coupling of `c` and `d`: mean over `l` of `J(K(c, l), K(d, l))`;
    - cohesion of `c`: mean over `l`, and over all pairs of images `x`, `y` of
      `c`, of `J(A(x, l), A(y, l))`. `A(x, l)` are the kernels of the module
      that respond to `x` more than to images on average.

    A good division has a high cohesion and a low coupling. Losses are of
    accuracy or F1, 0 to 1, above 0 for a loss and below 0 for a gain.

    Attributes:
        class_names: Name of each class, in the order of the store.
        layers: Names of the layers with kernels.
        overlap_by_layer: Float array `(num_layers, num_classes,
            num_classes)`: `J(K(c, l), K(d, l))`.
        overlap: Float array `(num_classes, num_classes)`: the Jaccard index
            of all kernels of two modules.
        own_kernels: int64 array: how many kernels no other module keeps.
        cohesion: Float array, per class; not a number where there are fewer
            than two images of it.
        coupling: Float array `(num_classes, num_classes)`; 1 for modules that
            keep the same kernels.
        evaluation: What all modules together get right, with the calibration
            that they have.
        left_out: Float array, per class: what accuracy on the images of all
            other classes loses without its module.
        exchange_cost: Float array, per class: what accuracy on all images is
            expected to lose if its module is exchanged for one of another
            source that is as good; see `expected_exchange_cost`.
        exchange_others: The same of accuracy on the images of all others.
        exchange_f1: The same of the F1 of the class itself.
        exchange_broken: Float array, per class: share of all images that are
            answered right and then expected not to be.
        exchange_confused: Float array `(num_classes, num_classes)`: row `c`
            says how many more images of `c` and of each other class are then
            taken for the other of the two, in shares of all images.
        limit: What an exchange may cost to be safe.
        num_images: Number of labelled images that it was measured on.

    Reference:

    - [Qi et al., 2024](https://arxiv.org/abs/2306.09376), section 3:
      cohesion and coupling of modules as mean Jaccard indices of the kernels
      that images of a class, or of two classes, use.
    - [Pan and Rajan, 2020](https://doi.org/10.1145/3368089.3409668) and
      [2022](https://doi.org/10.1145/3510003.3510051): Jaccard indices of the
      modules of classes, and modules that are reused and replaced.
    """

    class_names: tuple[str, ...]
    layers: tuple[str, ...]
    overlap_by_layer: np.ndarray
    overlap: np.ndarray
    own_kernels: np.ndarray
    cohesion: np.ndarray
    coupling: np.ndarray
    evaluation: Evaluation
    left_out: np.ndarray
    exchange_cost: np.ndarray
    exchange_others: np.ndarray
    exchange_f1: np.ndarray
    exchange_broken: np.ndarray
    exchange_confused: np.ndarray
    limit: float
    num_images: int

    def __repr__(self):
        safe = sum(not self.partners(name) for name in self.class_names)
        return (
            f"<Dependence of {len(self.class_names)} classes, {safe} of them "
            f"{SAFE}>"
        )

    def coupling_of(self, class_name: str) -> float:
        """Returns the mean coupling of a class with all others."""
        index = self.class_names.index(class_name)
        return float(np.delete(self.coupling[index], index).mean())

    def partners(self, class_name: str) -> tuple[str, ...]:
        """Returns the classes whose modules ought to be replaced with one.

        They are the fewest classes that make half of the confusions which
        its exchange adds; none if it costs no more than `limit`.
        """
        index = self.class_names.index(class_name)
        if self.exchange_cost[index] <= self.limit:
            return ()
        chosen = worst_confused(self.exchange_confused[index], index)
        return tuple(self.class_names[each] for each in chosen)

    def recommendation(self, class_name: str) -> str:
        """Says whether a module can be replaced by itself, in words."""
        partners = self.partners(class_name)
        return f"move together with {', '.join(partners)}" if partners else SAFE

    def as_dict(self) -> dict[str, Any]:
        """Returns plain data for JSON, with figures by class name."""
        names = self.class_names
        return {
            "images": self.num_images,
            "accuracy": self.evaluation.accuracy,
            "limit": self.limit,
            "classes": {
                name: {
                    "cohesion": _number(self.cohesion[index]),
                    "coupling": self.coupling_of(name),
                    "own_kernels": int(self.own_kernels[index]),
                    "left_out": float(self.left_out[index]),
                    "exchange": {
                        "accuracy": float(self.exchange_cost[index]),
                        "others": float(self.exchange_others[index]),
                        "f1": float(self.exchange_f1[index]),
                        "broken": float(self.exchange_broken[index]),
                    },
                    "move_with": list(self.partners(name)),
                    "recommendation": self.recommendation(name),
                }
                for index, name in enumerate(names)
            },
            "confusion": self.evaluation.confusion.tolist(),
            "coupling": self.coupling.tolist(),
            "overlap": self.overlap.tolist(),
            "overlap_by_layer": {
                layer: own.tolist()
                for layer, own in zip(self.layers, self.overlap_by_layer)
            },
        }


def _number(value):
    return None if np.isnan(value) else float(value)


def dependence(
    store: ModuleStore,
    data: Any,
    *,
    split: str = "validation",
    limit: float = LIMIT,
    track: Callable[[Sequence[str]], Iterable[str]] = iter,
) -> Dependence:
    """Measures how the classes of a store depend on each other.

    Says how much modules overlap, what leaving one out does to the others,
    and what exchanging one for a module of another model is expected to cost,
    without such a module at hand: so also which modules had better be
    replaced together.

    Args:
        store: The store, of two classes or more.
        data: Labelled images that no module learned from: `(images, labels)`,
            `LabelledImages`, a batched data set, or an `ImageData`. Labels
            are indices of the store's classes, unless the data have class
            names.
        split: Which images of an `ImageData`. Defaults to `"validation"`.
        limit: Accuracy on all images that an exchange may cost to be safe, at
            least 0.
        track: Wraps the class names, such as in a progress bar.

    Returns:
        The `Dependence`.

    Raises:
        ArtifactError: If images do not fit the store.
        UsageError: If the store has a single class, there are no images of
            one, or `limit` is below 0.

    Example:

    >>> found = kmod.dependence(kmod.load_store("modules/x"), data)
    >>> found.recommendation("cat")
    'move together with dog'
    """
    names = check_store(store, limit)
    images = _labelled(store, data, split, names)
    scores = np.stack(
        [
            answers.log_odds
            for answers in module_answers(
                [store[name] for name in names], images.images
            )
        ],
        axis=1,
    )
    return _measured(store, names, images, scores, limit, track)


def check_store(store: ModuleStore, limit: float = LIMIT) -> tuple[str, ...]:
    """Returns the classes whose dependence can be measured.

    Args:
        store: The store.
        limit: What an exchange may cost.

    Raises:
        UsageError: If there is a single class, or `limit` is below 0.
    """
    names = tuple(store)
    if len(names) < 2:
        raise UsageError(
            "Classes depend on each other, so there must be two or more. "
            f"Received: '{store.path}' with modules of {list(names)}. Give a "
            "store of several classes."
        )
    if not limit >= 0:
        raise UsageError(f"`limit` must be at least 0. Received: limit={limit}")
    return names


def _labelled(store, data, split, names):
    ref = DataRef(IN_MEMORY.name, split)
    reader = ImageReader(
        store.manifest.input, "resize", names, given={ref: data}
    )
    images = reader.load(ref)
    counts = np.bincount(images.labels, minlength=len(names))
    missing = [name for name, count in zip(names, counts) if not count]
    if missing:
        raise UsageError(
            "`data` must show every class of the store. Received: no image "
            f"of {missing}. Give images of them, too."
        )
    return images


def _measured(store, names, images, scores, limit, track):
    infos = [store.info(name) for name in names]
    masks = kept_masks(
        [info.kept_kernels for info in infos], store.manifest.kernels
    )
    by_layer = np.array([class_overlap(mask) for mask in masks.values()])
    kept = np.concatenate(list(masks.values()), axis=1)
    differ = [
        index
        for index, mask in enumerate(masks.values())
        if np.any(mask != mask[0])
    ]
    coupling = np.ones((len(names), len(names)))
    if differ:
        coupling = by_layer[differ].mean(axis=0)
    labels = images.labels
    few = _some(images)
    cohesion, left_out, costs = [], [], []
    layers = tuple(masks)
    chosen = {layers[index] for index in differ} or set(layers)
    for index, name in enumerate(track(names)):
        cohesion.append(_cohesion(store[name].model, few, index, chosen))
        absent = np.full(len(labels), ABSENT)
        left_out.append(exchange_cost(scores, labels, index, absent).others)
        costs.append(expected_exchange_cost(scores, labels, index))
    return Dependence(
        names,
        layers,
        by_layer,
        class_overlap(kept),
        np.sum(kept * (kept.sum(axis=0) == 1), axis=1),
        np.array(cohesion),
        coupling,
        evaluate_answers(labels, scores.argmax(axis=1), names),
        np.array(left_out),
        *(
            np.array([getattr(cost, key) for cost in costs])
            for key in ("accuracy", "others", "f1", "broken", "confused")
        ),
        limit,
        len(images),
    )


def _some(images: LabelledImages) -> LabelledImages:
    """Takes the first images of every class, as many of each as there are."""
    counts = np.bincount(images.labels)
    count = min(int(counts[counts > 0].min()), MOST_IMAGES)
    count = max(count, LEAST_IMAGES)
    rows = [
        np.flatnonzero(images.labels == label)[:count]
        for label in np.unique(images.labels)
    ]
    return images.take(np.sort(np.concatenate(rows)))


def _cohesion(model, images, class_index, layers):
    responses = kernel_responses(model, np.asarray(images.images))
    own = images.labels == class_index
    found = [
        mean_overlap((each > each.mean(axis=0))[own])
        for layer, each in responses.items()
        if layer in layers
    ]
    return float(np.mean(found)) if found else float("nan")


def kernel_responses(
    model: keras.Model, images: np.ndarray
) -> dict[str, np.ndarray]:
    """Measures how strongly kernels respond to images.

    Args:
        model: A module, or another classifier that can be taken apart.
        images: Array `(n, ...)` as it takes them.

    Returns:
        For every layer that has kernels which can be removed a float32 array
        `(n, num_kernels)`: the mean over all places of a kernel's channel
        where the next kernels read it, behind normalisation and activation.
        Of kernels that a residual join ties, those of the first layer are
        measured, behind the join.
    """
    graph = channel_graph(model)
    tensors = _last_tensors(graph)
    found = {layer: [] for layer in tensors}
    for start in range(0, len(images), BATCH_SIZE):
        batch = ops.convert_to_tensor(
            images[start : start + BATCH_SIZE], "float32"
        )
        values = run_trace(graph.trace, batch)
        for layer, index in tensors.items():
            axis = graph.maps[index].axis
            value = values[index]
            places = [
                each for each in range(1, len(value.shape)) if each != axis
            ]
            mean = ops.mean(value, axis=places) if places else value
            found[layer].append(ops.convert_to_numpy(mean))
    return {layer: np.concatenate(parts) for layer, parts in found.items()}


def _last_tensors(graph: ChannelGraph) -> dict[str, int]:
    """Finds for every layer the last tensor of its kernels alone."""
    table = graph.kernels
    owners = np.repeat(np.arange(len(table.layers)), table.counts)
    found = {}
    for call in graph.trace.calls:
        for ref in call.outputs:
            channels = graph.map_of(ref)
            if channels is None or np.any(channels.ids == PINNED):
                continue
            layers = np.unique(owners[channels.ids])
            is_whole = len(np.unique(channels.ids)) == len(channels.ids)
            if len(layers) == 1 and is_whole:
                found[table.layers[layers[0]]] = ref.index
    return found
