"""What the page of a demo tells besides: its steps and what they changed."""

from collections.abc import Iterator
from collections.abc import Mapping
from typing import Any

from kmod.report.measured import change
from kmod.report.parts import Cell
from kmod.report.parts import Section
from kmod.report.parts import Table
from kmod.report.parts import Text
from kmod.report.parts import Tile
from kmod.report.parts import figure
from kmod.report.parts import in_bytes
from kmod.report.parts import large_cell
from kmod.report.parts import number
from kmod.report.parts import percent

FIGURES = ("precision", "recall", "f1")


def demo_lead(results: Mapping[str, Any]) -> str:
    """Says in a sentence what a demo was."""
    return (
        "A classifier taken apart and composed again, and a weak one patched. "
        "Accuracies are of test images, which no choice of this run has seen. "
        f"Seed {results['seed']}."
    )


def demo_tiles(results: Mapping[str, Any]) -> list[Tile]:
    """Returns the figures that a demo is known by."""
    patch = results["patch"]
    return [
        *_accuracies(results),
        Tile(percent(results["retention_rate"]), "of the kernels in a module"),
        Tile(
            f"{results['composed_macs_ratio']:.2f}x",
            "the source's MACs, all modules composed",
        ),
        Tile(
            f"{patch['before']['f1']:.2f} → {patch['after']['f1']:.2f}",
            f"F1 of the patched class “{patch['target_class']}”",
        ),
    ]


def demo_sections(results: Mapping[str, Any]) -> Iterator[Section]:
    """Yields the sections that only a demo has."""
    yield Section("sizes", "Sizes before and after", [_sizes(results)])
    yield Section(
        "source", "Source model and composed model", [_classes(results)]
    )
    patch = results["patch"]
    text = (
        f"A smaller model trained on {results['settings']['weak_images']:,} "
        f"images was weakest in class “{patch['target_class']}”; a module "
        "answers for it now."
    )
    yield Section("patch", "A weak model, patched", [Text(text), _patch(patch)])
    rows = [
        [step, Cell(f"{seconds:,.1f}", seconds)]
        for step, seconds in results["seconds"].items()
    ]
    caption = "Seconds that every step took."
    table = Table(caption, ["step", "seconds"], rows)
    yield Section("time", "Time", [table])


def _accuracies(results):
    return [
        Tile(percent(results["source_accuracy"]), "source model's accuracy"),
        Tile(
            percent(results["composed_accuracy"]),
            "accuracy of all modules composed",
        ),
    ]


def _sizes(results):
    rows = []
    for key, label in (
        ("source", "source model"),
        ("module", "one module (mean)"),
        ("composed", "all modules composed"),
    ):
        sizes = results["sizes"][key]
        latency = sizes["latency_ms"]
        rows.append(
            [
                label,
                number(sizes.get("kernels")),
                large_cell(sizes["parameters"]),
                large_cell(sizes["macs"]),
                Cell(in_bytes(sizes["bytes"]), sizes["bytes"]),
                Cell(f"{latency:.2f}", latency),
            ]
        )
    columns = ["model", "kernels", "parameters", "MACs", "on disk"]
    columns += ["ms for one image"]
    return Table("What each takes.", columns, rows)


def _classes(results):
    before, after = (results[key]["classes"] for key in ("source", "composed"))
    rows = [
        [name, *(change(before[name][k], after[name][k]) for k in FIGURES)]
        for name in results["class_names"]
    ]
    return Table(
        "Every class on test images: source model → all modules composed.",
        ["class", "precision", "recall", "F1"],
        rows,
    )


def _patch(patch):
    rows = [
        [
            when,
            *(figure(patch[when][key]) for key in FIGURES),
            figure(patch["other_classes_accuracy"][when]),
        ]
        for when in ("before", "after")
    ]
    columns = ["when", "precision", "recall", "F1", "accuracy on other classes"]
    caption = f"The class “{patch['target_class']}” on test images."
    return Table(caption, columns, rows)
