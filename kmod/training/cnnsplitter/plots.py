"""Figures of what a search measured and how it went."""

from pathlib import Path

import numpy as np

from kmod.errors import UsageError
from kmod.training.cnnsplitter.encoding import gene_layers
from kmod.training.cnnsplitter.preparation import Preparation


def check_matplotlib() -> None:
    """Refuses figures where matplotlib is not installed.

    Raises:
        UsageError: With the command that installs it.
    """
    _figure_class()


def save_figures(
    directory: Path, prepared: Preparation, history: list[dict]
) -> None:
    """Draws `sensitivity.png`, `importance.png` and `search.png`.

    Args:
        directory: Directory for the files; made if it is not there.
        prepared: What was measured.
        history: What each generation reached; without any there is no
            `search.png`.
    """
    directory.mkdir(parents=True, exist_ok=True)
    _draw_sensitivity(prepared).savefig(directory / "sensitivity.png")
    _draw_importance(prepared).savefig(directory / "importance.png")
    if history:
        _draw_history(history).savefig(directory / "search.png")


def _draw_sensitivity(prepared):
    figure, axes = _axes()
    sensitivity = prepared.sensitivity
    for row, curve in zip(prepared.layer_table(), sensitivity.accuracy):
        axes.plot(
            sensitivity.fractions,
            curve,
            "-" if row["sensitive"] else ":",
            label=f"{row['layer']}, keeps {row['keep_ratio']:.2f}",
        )
    axes.set_xlabel("share of the layer's kernels kept")
    axes.set_ylabel("accuracy of all modules")
    axes.set_title("solid: sensitive layers")
    axes.legend()
    return figure


def _draw_importance(prepared):
    """Draws each layer's kernels in order, averaged over classes."""
    figure, axes = _axes()
    layers = gene_layers(prepared.genes.placement)
    for name, groups in zip(prepared.sensitivity.layers, layers):
        ranked = -np.sort(-prepared.genes.importance[:, groups], axis=1)
        share = ranked / np.maximum(ranked.sum(axis=1, keepdims=True), 1e-12)
        places = np.arange(1, len(groups) + 1) / len(groups)
        axes.plot(places, np.cumsum(share.mean(axis=0)), label=name)
    axes.set_xlabel("share of the layer's kernels, most important first")
    axes.set_ylabel("share of the layer's importance")
    axes.legend()
    return figure


def _draw_history(history):
    figure, axes = _axes()
    for key in ("fitness", "accuracy", "retention"):
        axes.plot([row[key] for row in history], label=key)
    axes.set_xlabel("generation")
    axes.legend()
    return figure


def _axes():
    figure = _figure_class()(layout="constrained")
    return figure, figure.subplots()


def _figure_class():
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise UsageError(
            f"Figures need matplotlib. Received: {error}. Install it with "
            "`pip install kmod[viz]`, or leave the figures out."
        ) from error
    return Figure
