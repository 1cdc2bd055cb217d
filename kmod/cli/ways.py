"""The rows that set a model beside what needs no composition and no patch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING
from typing import Any

if TYPE_CHECKING:
    import keras

# No time, which is another each run.
_RECORDED = "name f1 accuracy parameters macs num_labelled".split()


def measured_way(
    name: str, model: keras.Model, num_labelled: int, **figures: Any
) -> dict[str, Any]:
    """Returns a row as JSON data: what a model costs beside its figures.

    Args:
        name: What it is called in the table.
        model: The model.
        num_labelled: How many labelled images it takes.
        **figures: How well it answers.
    """
    from kmod.graph.sizes import model_sizes
    from kmod.metrics.latency import measure_latency

    sizes = model_sizes(model)
    return {
        "name": name,
        **figures,
        "parameters": sizes.parameters,
        "macs": sizes.macs,
        "milliseconds": 1000 * measure_latency(model),
        "num_labelled": num_labelled,
    }


def recorded_way(way: Mapping[str, Any]) -> dict[str, Any]:
    """Returns what the manifest holds of a row."""
    return {name: way[name] for name in _RECORDED if name in way}
