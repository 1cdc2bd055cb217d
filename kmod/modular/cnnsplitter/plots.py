"""Figures of what a search measured and how it went."""

import io
from pathlib import Path

import numpy as np

from kmod.errors import UsageError
from kmod.files import atomic_write
from kmod.modular.cnnsplitter.encoding import gene_layers
from kmod.modular.cnnsplitter.genetic_search import GeneticSearch

FIGURES = ("sensitivity.png", "importance.png", "search.png")


def check_figures(directory: Path, digest: str) -> None:
    """Refuses figures that could not be drawn or would replace other files.

    Args:
        directory: Directory for the figures.
        digest: Digest of what decides how they look; figures with the same one
            may be replaced.

    Raises:
        UsageError: If matplotlib is not installed, or a file of another
            origin is where a figure would be.
    """
    _figure_class()
    if directory.exists() and not directory.is_dir():
        raise UsageError(
            "`figures` must be a directory. Received: the file "
            f"'{directory}'. Choose another name."
        )
    for path in (directory / name for name in FIGURES):
        if path.exists() and digest.encode() not in path.read_bytes():
            raise UsageError(
                "`figures` must be a directory without figures of another "
                f"origin. Received: '{directory}', which holds "
                f"'{path.name}'. Move it away, or choose another directory."
            )


def save_figures(
    directory: Path, search: GeneticSearch, history: list[dict], digest: str
) -> None:
    """Draws `sensitivity.png`, `importance.png` and `search.png`.

    Args:
        directory: Directory for the files; made if it is not there.
        search: The search, which holds what was measured before.
        history: What each generation reached.
        digest: As `check_figures` takes it; every figure holds it.
    """
    figures = (
        _draw_sensitivity(search),
        _draw_importance(search),
        _draw_history(history),
    )
    for name, figure in zip(FIGURES, figures, strict=True):
        image = io.BytesIO()
        figure.savefig(image, format="png", metadata={"Source": digest})
        atomic_write(directory / name, image.getvalue())


def _draw_sensitivity(search):
    figure, axes = _axes()
    sensitivity = search.sensitivity
    for row, curve in zip(search.layer_table(), sensitivity.accuracy):
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


def _draw_importance(search):
    """Draws each layer's kernels in order, averaged over classes."""
    figure, axes = _axes()
    layers = gene_layers(search.encoding.placement)
    for name, groups in zip(search.sensitivity.layers, layers):
        ranked = -np.sort(-search.encoding.importance[:, groups], axis=1)
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
            "`pip install 'kmod[viz]'`, or leave the figures out."
        ) from error
    return Figure
