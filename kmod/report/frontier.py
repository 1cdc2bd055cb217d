"""The picture of accuracy against cost of what a choice was made among."""

from pathlib import Path

from kmod.report.drawings import draw_frontier
from kmod.report.page import write_drawing
from kmod.report.parts import Frontier
from kmod.report.parts import Point
from kmod.selection.module_choice import ModuleChoice

COST = "multiply-accumulates of one image"


def write_frontier(
    choice: ModuleChoice, path: str | Path, overwrite: bool = False
) -> None:
    """Writes the options and plain ways of a choice as an SVG file.

    Args:
        choice: A choice made on labelled images, of an expected accuracy.
        path: File to write.
        overwrite: Whether a drawing may be replaced that kmod wrote and nobody
            changed.

    Raises:
        UsageError: If something is there that may not be replaced.
    """
    title = "Accuracy against cost of " + ", ".join(choice.chosen)
    drawing = draw_frontier(Frontier(COST, points_of(choice)))
    write_drawing(drawing, title, path, overwrite)


def points_of(choice: ModuleChoice) -> list[Point]:
    """Lists the options and plain ways of a choice, as they are drawn."""
    best = choice.frontier
    models = [(option, option.expected) for option in choice.options]
    models += [(way, way.evaluation) for way in choice.plain]
    return [
        Point(
            _name(choice, model),
            model.sizes.macs,
            found.accuracy,
            found.accuracy_interval(),
            model in choice.plain,
            model is choice.taken,
            model in best,
        )
        for model, found in models
    ]


def _name(choice, model):
    count = 0 if model in choice.plain else len(model.auxiliary)
    name = choice.name_of(model)
    return f"{name}, {count} auxiliary" if count else name
