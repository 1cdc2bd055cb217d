"""What a report says of modules by themselves: dependence and explanation."""

from collections.abc import Iterator

import numpy as np

from kmod.analysis.dependence import Dependence
from kmod.analysis.dependence import dependence
from kmod.analysis.explanation import Explanation
from kmod.analysis.explanation import explain
from kmod.errors import UnsupportedModelError
from kmod.metrics.overlap import class_overlap
from kmod.modules.class_module import ModuleInfo
from kmod.modules.module_store import ModuleStore
from kmod.patching.donors import module_answers
from kmod.report.made_from import module_masks
from kmod.report.measured import Measured
from kmod.report.parts import Cell
from kmod.report.parts import Gallery
from kmod.report.parts import GalleryRow
from kmod.report.parts import HeatMap
from kmod.report.parts import MappedPicture
from kmod.report.parts import Part
from kmod.report.parts import Picture
from kmod.report.parts import Section
from kmod.report.parts import Table
from kmod.report.parts import Text
from kmod.report.parts import figure
from kmod.report.parts import number
from kmod.report.parts import percent
from kmod.report.pictures import map_source
from kmod.report.pictures import picture_source
from kmod.report.subject import Subject

MOST_CANDIDATES = 2000  # Images that a gallery is chosen from.
MOST_SHOWN = 3  # Images of each kind.
MANY_CLASSES = 24
FEW_SHOWN, FEW_PIXELS, MOST_PIXELS = 1, 32, 64


def understanding_sections(
    subject: Subject, measured: Measured
) -> Iterator[Section]:
    """Yields the sections on what modules do by themselves.

    Args:
        subject: What the report is of.
        measured: Its answers for images.
    """
    store = subject.store
    if store is not None and len(store) > 1:
        counts = np.bincount(measured.images.labels, minlength=len(store))
        if counts.all():
            yield _dependence(dependence(store, measured.images))
    if rows := list(_gallery_rows(subject, measured)):
        yield _explanation(rows)


def _dependence(found: Dependence):
    rows = []
    for name, own in found.as_dict()["classes"].items():
        exchange = own["exchange"]
        losses = own["left_out"], exchange["accuracy"], exchange["f1"]
        rows.append(
            [
                name,
                ", ".join(own["move_with"]) or "alone",
                figure(own["cohesion"]),
                figure(own["coupling"]),
                number(own["own_kernels"]),
                *(_gain(-loss) for loss in losses),
                Cell(percent(exchange["broken"]), exchange["broken"]),
            ]
        )
    columns = ["class", "replace with", "cohesion", "coupling", "own kernels"]
    columns += ["without it", "exchanged", "its F1", "broken"]
    intro = Text(
        "Modules of one source lean on each other. Cohesion: how much the "
        "kernels overlap that respond to two images of the class. Coupling: "
        "how much its kernels overlap with those of other modules, mean over "
        "layers. Then gains in points, below 0 for a loss: of the others' "
        "accuracy if the module is left out, and, if it is exchanged for one "
        "of another model that is as good, what is expected of the accuracy "
        "on all images and of the F1 of its class. Broken are right answers "
        "that then become wrong, in share of all images. Where all images are "
        f"expected to lose more than {100 * found.limit:.2g} points, modules "
        "are named that had better be replaced together with it."
    )
    parts: list[Part] = [
        intro,
        Table("Every module, on these images.", columns, rows),
    ]
    if found.overlap.min() < 1:
        parts.append(_layers(found))
    return Section("dependence", "How classes depend on each other", parts)


def _gain(value):
    text = f"{round(100 * value, 2) + 0.0:+.2f}"
    return Cell(text if float(text) else "0.00", value)


def _layers(found):
    """Shows how much a module overlaps with all others, layer by layer."""
    count = len(found.class_names)
    others = (found.overlap_by_layer.sum(axis=2) - 1) / (count - 1)
    return HeatMap(
        "Overlap of each module's kernels with those of the others (mean "
        "Jaccard index), by layer, in percent.",
        found.class_names,
        found.layers,
        "class",
        "layer",
        np.clip(others.T, 0, 1),
    )


def _explanation(rows):
    exact = [is_exact for _, is_exact in rows]
    says = {
        (True,): "The maps are exact: their mean and a constant are the "
        "score of the module.",
        (False,): "A hidden layer follows the maps, so they do not add up: a "
        "place shows what the score loses without it alone.",
    }.get(
        tuple(set(exact)),
        "Where a hidden layer follows the maps, they do not add up to the "
        "score.",
    )
    intro = Text(
        "Class activation maps: what each place of a module's last feature "
        f"maps adds to its score. {says} All maps of a module have one scale. "
        "Point at an image to see it without its map."
    )
    caption = (
        "Images of the most and the least confident answers, with the "
        "true class and the module's score."
    )
    parts: list[Part] = [intro, Gallery(caption, [row for row, _ in rows])]
    return Section("explanation", "What a module looks at", parts)


def _gallery_rows(subject, measured) -> Iterator[tuple[GalleryRow, bool]]:
    notes = {
        (store.digest, info.class_name): note
        for key, store in subject.stores.items()
        for info, note in _shared(store, subject.module_infos[key])
    }
    step = -(-len(measured.images) // MOST_CANDIDATES)
    images = measured.images.take(np.arange(0, len(measured.images), step))
    for store, used in _modules_of(subject).items():
        modules = [store[module] for _, module in used]
        found = module_answers(modules, np.asarray(images.images))
        for (name, module), answers in zip(used, found):
            chosen = _chosen(subject, answers.log_odds)
            shown = images.take(np.concatenate(list(chosen.values())))
            try:
                explanation = explain(store[module], shown)
            except UnsupportedModelError:
                continue
            note = notes.get((store.digest, module), "")
            title = name if module == name else f"{name}: {module}"
            groups = _groups(subject, chosen, shown, explanation)
            yield GalleryRow(title, note, groups), explanation.is_exact


def _modules_of(subject) -> dict[ModuleStore, list[tuple[str, str]]]:
    """Lists classes and modules, by store, that take images as they are."""
    stores = {store.digest: store for store in subject.stores.values()}
    found = {}
    for source in subject.manifest.sources:
        store = stores.get(source["store"])
        if store is None or source.get("auxiliary"):
            continue
        if store.manifest.input == subject.manifest.input:
            used = found.setdefault(store, [])
            used.append((source["class"], source["module"]))
    return found


def _chosen(subject, log_odds) -> dict[str, np.ndarray]:
    """Returns where the images are of the most and least confident answers."""
    many = len(subject.manifest.class_names) > MANY_CLASSES
    count = FEW_SHOWN if many else MOST_SHOWN
    least = np.argsort(np.abs(log_odds), kind="stable")[:count]
    highest = np.argsort(-log_odds, kind="stable")
    highest = highest[~np.isin(highest, least)][:count]
    return {"most confident": highest, "least confident": least}


def _groups(subject, chosen, shown, explanation: Explanation):
    many = len(subject.manifest.class_names) > MANY_CLASSES
    pixels = FEW_PIXELS if many else MOST_PIXELS
    largest = max(float(np.abs(explanation.maps).max()), 1e-9)
    odds = np.exp(-explanation.scores.astype("float64"))
    pictures = [
        MappedPicture(
            Picture(
                picture_source(
                    np.asarray(image), subject.manifest.input.range, pixels
                ),
                subject.manifest.class_names[label],
                percent(1 / (1 + own)),
            ),
            map_source(values, largest),
        )
        for image, label, own, values in zip(
            shown.images, shown.labels, odds, explanation.maps
        )
    ]
    count = len(chosen["most confident"])
    return dict(zip(chosen, (pictures[:count], pictures[count:])))


def _shared(
    store: ModuleStore, infos: list[ModuleInfo]
) -> Iterator[tuple[ModuleInfo, str]]:
    """Says of every module which kernels it shares with others."""
    counts = store.manifest.kernels
    if not counts or len(infos) < 2:
        return
    masks = module_masks(infos, counts)
    overlap = class_overlap(masks)
    np.fill_diagonal(overlap, -1)
    alone = masks * (masks.sum(axis=0) == 1)
    for row, info in enumerate(infos):
        if masks[row].all():
            yield info, "all kernels of its source"
            continue
        nearest = overlap[row].argmax()
        shared = int(np.sum(masks[row] & masks[nearest]))
        yield info, (
            f"{masks[row].sum():,} kernels, {alone[row].sum():,} its own; most "
            f"in common with {infos[nearest].class_name}: {shared:,}"
        )
