"""What a report says of a subject on labelled images."""

import dataclasses
from collections.abc import Iterator

import numpy as np
from keras import ops

from kmod.composition.composer import measured_images
from kmod.data.image_data import LabelledImages
from kmod.data.streaming import predict
from kmod.graph.channel_graph import score_threshold
from kmod.graph.sources import functional_of
from kmod.metrics.evaluate import Evaluation
from kmod.metrics.evaluate import answers
from kmod.metrics.evaluate import evaluate_answers
from kmod.metrics.evaluate import worst_confusion
from kmod.metrics.latency import measure_latency
from kmod.metrics.reliability import measure_reliability
from kmod.modules.adaptation import adapt_images
from kmod.report.parts import Cell
from kmod.report.parts import HeatMap
from kmod.report.parts import Histogram
from kmod.report.parts import Part
from kmod.report.parts import Picture
from kmod.report.parts import Pictures
from kmod.report.parts import Reliability
from kmod.report.parts import Section
from kmod.report.parts import Table
from kmod.report.parts import Text
from kmod.report.parts import Tile
from kmod.report.parts import Tiles
from kmod.report.parts import figure
from kmod.report.parts import number
from kmod.report.parts import percent
from kmod.report.pictures import picture_source
from kmod.report.subject import Subject

BATCH_SIZE = 256
MOST_PICTURES = 24
NUM_BINS = 30


@dataclasses.dataclass(frozen=True, eq=False)
class Measured:
    """A subject's answers for labelled images.

    Attributes:
        images: The images, as the subject takes them.
        name: What the images are called.
        probabilities: Float array `(n, num_classes)`.
        evaluation: Its figures.
        latency: Seconds for one image on this machine; `None` if it takes
            images of any size.
    """

    images: LabelledImages
    name: str
    probabilities: np.ndarray
    evaluation: Evaluation
    latency: float | None

    @property
    def predictions(self) -> np.ndarray:
        """int64 array `(n,)`: the class of every answer."""
        return self.probabilities.argmax(axis=1)

    @property
    def confidence(self) -> np.ndarray:
        """Float array `(n,)`: the probability of every answer."""
        return self.probabilities.max(axis=1)

    @property
    def is_right(self) -> np.ndarray:
        """Boolean array `(n,)`: which answers are right."""
        return self.predictions == self.images.labels


def measure(subject: Subject, images: LabelledImages, name: str) -> Measured:
    """Runs a subject's model over images.

    Args:
        subject: The subject.
        images: Images as it takes them, labelled in its classes.
        name: What they are called.
    """
    model = subject.model
    scores = np.asarray(predict(model, images.images, BATCH_SIZE), "float64")
    probabilities = _probabilities(subject, model, scores)
    evaluation = evaluate_answers(
        images.labels,
        probabilities.argmax(axis=1),
        subject.manifest.class_names,
    )
    latency = None
    if None not in model.input_shape[1:]:
        latency = measure_latency(model)
    return Measured(images, name, probabilities, evaluation, latency)


def _probabilities(subject, model, scores):
    if scores.shape[1] == 1:  # The second of two classes.
        if score_threshold(model) == 0.0:
            scores = 1 / (1 + np.exp(-scores))
        return np.concatenate([1 - scores, scores], axis=1)
    if subject.manifest.output == "logits":
        return ops.convert_to_numpy(ops.softmax(scores))
    return np.clip(scores, 0.0, 1.0)


def measured_tiles(measured: Measured) -> list[Tile]:
    """Returns the figures that answers are known by."""
    evaluation = measured.evaluation
    low, high = evaluation.accuracy_interval()
    note = f"{percent(low)} to {percent(high)} (95 %)"
    tiles = [
        Tile(percent(evaluation.accuracy), f"accuracy on {measured.name}", note)
    ]
    if measured.latency is not None:
        milliseconds = 1000 * measured.latency
        label = "for one image on the machine that wrote this"
        tiles.append(Tile(f"{milliseconds:.3g} ms", label))
    return tiles


def image_sections(subject: Subject, measured: Measured) -> Iterator[Section]:
    """Yields the sections on images."""
    yield _classes(measured)
    yield _calibration(subject, measured)
    if histograms := list(_familiarity(subject, measured)):
        intro = Text(
            "What every source knows of its own images, without labels. The "
            "further to the right, the less familiar an image is to it."
        )
        yield Section("familiarity", "Familiarity", [intro, *histograms])
    if subject.load_weak is not None:
        yield _changes(subject, measured)


def _classes(measured):
    evaluation = measured.evaluation
    rows = []
    for index, name in enumerate(evaluation.class_names):
        is_known = bool(evaluation.support[index])
        figures, intervals = (
            found(index)
            for found in (evaluation.figures_of, evaluation.intervals_of)
        )
        rows.append(
            [
                name,
                *(
                    figure(figures[key] if is_known else None, intervals[key])
                    for key in ("precision", "recall")
                ),
                figure(figures["f1"] if is_known else None),
                number(evaluation.support[index]),
                worst_confusion(evaluation, name) or "–",
            ]
        )
    columns = ["class", "precision", "recall", "F1", "images"]
    table = Table(
        f"Every class on {len(measured.images):,} images of {measured.name}, "
        "with intervals of 95 % (Wilson).",
        [*columns, "confused most"],
        rows,
    )
    return Section("classes", "Class by class", [table, _confusion(evaluation)])


def _confusion(evaluation):
    counts, names = evaluation.confusion, evaluation.class_names
    shares = counts / np.maximum(evaluation.support, 1)[:, None]
    notes = [
        [
            f"{n:,} of {total:,} images, {percent(part)}" if n else ""
            for n, part in zip(row, parts)
        ]
        for row, parts, total in zip(counts, shares, evaluation.support)
    ]
    texts = [[f"{n}" if n else "·" for n in row] for row in counts]
    empty = [[note or "none" for note in row] for row in notes]
    return HeatMap(
        "Confusion matrix: how many images of each class were given to which, "
        "coloured by their share of the class.",
        names,
        names,
        "true class",
        "answer",
        np.where(counts, shares, np.nan),
        texts,
        notes if len(names) > MOST_PICTURES else empty,
    )


def _calibration(subject, measured):
    curve = measure_reliability(measured.confidence, measured.is_right)
    parts: list[Part] = [
        Tiles(
            [
                Tile(
                    f"{100 * curve.calibration_error:.1f} points",
                    "expected calibration error (ECE)",
                    "confidence to accuracy, mean distance",
                ),
                Tile(
                    percent(float(measured.confidence.mean())),
                    "mean confidence",
                ),
            ]
        ),
        Reliability(
            "Reliability diagram: accuracy of the answers of each confidence. "
            "Bars that end on the dashed line are calibrated.",
            curve.edges,
            curve.accuracy,
            curve.counts,
        ),
        _bins(curve),
    ]
    wrong = np.flatnonzero(~measured.is_right)
    if len(wrong):
        order = np.argsort(-measured.confidence[wrong], kind="stable")
        worst = wrong[order[:MOST_PICTURES]]
        parts.append(
            Pictures(
                f"The worst of {len(wrong):,} wrong answers: those of the "
                "highest confidence.",
                [_wrong(subject, measured, index) for index in worst],
            )
        )
    return Section("calibration", "Calibration", parts)


def _bins(curve):
    bins = zip(curve.edges, curve.edges[1:], curve.confidence, curve.accuracy)
    rows = [
        [
            f"{100 * low:.0f} to {100 * high:.0f} %",
            number(count),
            figure(confidence),
            figure(accuracy),
        ]
        for (low, high, confidence, accuracy), count in zip(bins, curve.counts)
        if count
    ]
    columns = ["confidence", "answers", "mean", "accuracy"]
    return Table("The same in figures.", columns, rows)


def _wrong(subject, measured, index):
    names = subject.manifest.class_names
    answer = names[measured.predictions[index]]
    return Picture(
        _source(subject, measured, index),
        names[measured.images.labels[index]],
        f"answer {answer}, {percent(measured.confidence[index])}",
    )


def _source(subject, measured, index):
    image = np.asarray(measured.images.images[index])
    return picture_source(image, subject.manifest.input.range)


def _familiarity(subject, measured):
    """Yields a histogram for every source that knows its own images."""
    planned = subject.plan
    if planned is None or planned.spec.base is not None:
        return
    contract, adaptation = measured_images(planned)
    images = measured.images.images
    if adaptation.is_needed:
        images = adapt_images(np.asarray(images), adaptation)
    for digest, name in planned.sources.items():
        familiarity = planned.stores[name].familiarity
        if familiarity is None:
            continue
        distances = familiarity.distance_of(images, contract)
        own = _of_source(subject, measured.images.labels, digest)
        yield _distances(planned.stores[name], familiarity, distances, own)


def _of_source(subject, labels, digest):
    """Tells which images are of classes of a source."""
    names = subject.manifest.class_names
    own = {
        names.index(source["class"])
        for source in subject.manifest.sources
        if source["source"] == digest and source["class"] in names
    }
    return np.isin(labels, list(own))


def _distances(store, familiarity, distances, own):
    threshold = familiarity.threshold(0.05)
    # What lies far out is counted in the last bin.
    farthest = max(1.05 * threshold, float(np.quantile(distances, 0.995)))
    edges = np.linspace(float(distances.min()), farthest, NUM_BINS + 1)
    clipped = np.minimum(distances, farthest)
    series = {
        name: np.histogram(clipped[chosen], edges)[0] / chosen.sum()
        for name, chosen in (
            ("images of its classes", own),
            ("other images", ~own),
        )
        if chosen.any()
    }
    return Histogram(
        f"How far images are from those of {store.manifest.source.name}, in "
        "share of the images of each kind.",
        "distance to the nearest class's images",
        edges,
        series,
        threshold,
        "beyond it at most 5 % of its own images",
    )


def _changes(subject, measured):
    """Shows the images that a patch changed, and how many."""
    weak, output = subject.load_weak()
    images, labels = measured.images, measured.images.labels
    _, before, _ = answers(functional_of(weak, output), images, BATCH_SIZE)
    after = measured.predictions
    if subject.load_patched != subject.load:
        _, after, _ = answers(subject.load_patched(), images, BATCH_SIZE)
    was, now = before == labels, after == labels
    groups = {
        "Wrong to right": ~was & now,
        "Right to wrong": was & ~now,
        "Wrong to another wrong": ~was & ~now & (before != after),
    }
    accuracy = [f"{100 * right.mean():.1f}" for right in (was, now)]
    figures = f"{' → '.join(accuracy)} %"
    tiles = [Tile(figures, "accuracy, before and after the patch")]
    tiles += [
        Tile(f"{chosen.sum():,}", f"images, {name.lower()}")
        for name, chosen in groups.items()
    ]
    parts: list[Part] = [Tiles(tiles)]
    names = subject.manifest.class_names
    for name, chosen in groups.items():
        found = np.flatnonzero(chosen)
        if not len(found):
            continue
        more = ""
        if len(found) > MOST_PICTURES:
            more = f", {MOST_PICTURES} of {len(found):,}"
        pictures = [
            Picture(
                _source(subject, measured, index),
                names[labels[index]],
                f"{names[before[index]]} → {names[after[index]]}",
            )
            for index in found[:MOST_PICTURES]
        ]
        parts.append(Pictures(f"{name}{more}.", pictures))
    classes = evaluate_answers(labels, before, names)
    parts.insert(
        1, _before_and_after(classes, evaluate_answers(labels, after, names))
    )
    return Section("changes", "What the patch changed", parts)


def _before_and_after(before, after):
    rows = []
    for index, name in enumerate(before.class_names):
        old, new = (each.figures_of(index) for each in (before, after))
        gain = new["f1"] - old["f1"]
        rows.append(
            [
                name,
                *(change(old[key], new[key]) for key in old),
                Cell(f"{gain:+.3f}", gain),
            ]
        )
    columns = ["class", "precision", "recall", "F1", "gain in F1"]
    return Table("Every class, before and after the patch.", columns, rows)


def change(before: float | None, after: float | None) -> Cell:
    """Returns a cell with a figure before and after, sorted by the latter."""
    old, new = figure(before), figure(after)
    return Cell(f"{old.text} → {new.text}", new.value)
