"""What a search must know before it starts: importance, sensitivity, genes."""

import dataclasses
import json
from pathlib import Path

import numpy as np

from kmod.files import atomic_write
from kmod.masks.modular_model import ModularModel
from kmod.training.cnnsplitter.checkpoint import load_arrays
from kmod.training.cnnsplitter.checkpoint import save_arrays
from kmod.training.cnnsplitter.encoding import encode
from kmod.training.cnnsplitter.genetic_search import Genes
from kmod.training.cnnsplitter.importance import kernel_importance
from kmod.training.cnnsplitter.judges import Judges
from kmod.training.cnnsplitter.options import SearchOptions
from kmod.training.cnnsplitter.sensitivity import Sensitivity
from kmod.training.cnnsplitter.sensitivity import genes_to_keep
from kmod.training.cnnsplitter.sensitivity import measure_sensitivity

FILE = "preparation.npz"
SENSITIVITY_FILE = "sensitivity.json"


@dataclasses.dataclass(frozen=True, eq=False)
class Preparation:
    """What was measured, and what follows from it.

    Attributes:
        genes: What chromosomes mean.
        sensitivity: What removing kernels of each layer costs.
        fitness: Images that measure fitness.
        choice: Images that choose among the generations.
    """

    genes: Genes
    sensitivity: Sensitivity
    fitness: Judges
    choice: Judges

    def layer_table(self) -> list[dict]:
        """Lists what each layer keeps to begin with, plain JSON data.

        A layer is sensitive if it keeps more than its share of the genes.
        """
        keep = self.genes.keep
        totals = self.genes.encoding.genes_by_layer
        common = keep.sum() / totals.sum()
        return [
            {
                "layer": name,
                "keep_ratio": float(count / total),
                "sensitive": bool(count / total > common),
            }
            for name, count, total in zip(
                self.sensitivity.layers, keep, totals, strict=True
            )
        ]


def prepare(
    modular: ModularModel,
    images: np.ndarray,
    labels: np.ndarray,
    options: SearchOptions,
    directory: Path | None = None,
) -> Preparation:
    """Measures importance and sensitivity, or reads what a run measured.

    Args:
        modular: Modular model of the source; its seed draws the images.
        images: Validation images; some measure fitness, as many others
            choose.
        labels: Integer class indices of the images.
        options: How to search.
        directory: Directory of the run. Defaults to none.
    """
    order = np.random.default_rng([modular.seed, 3]).permutation(len(labels))
    half = min(options.images, (len(labels) + 1) // 2)
    fitness, choice = (
        Judges(modular, images[some], labels[some], num_rows)
        for some, num_rows in (
            (order[:half], 64),
            (order[half : 2 * half], modular.num_classes),
        )
    )
    arrays = None
    if directory is not None and (directory / FILE).exists():
        arrays = load_arrays(directory / FILE)
    if arrays is None:
        arrays = _measure(modular, images, labels, options, fitness)
        if directory is not None:
            save_arrays(directory / FILE, arrays)
    sensitivity = Sensitivity(
        tuple(arrays["layers"].tolist()),
        tuple(arrays["fractions"].tolist()),
        arrays["accuracy"],
    )
    encoding = encode(arrays["importance"], modular.placement)
    keep = genes_to_keep(sensitivity, encoding, options.retention_target)
    genes = Genes(encoding, arrays["importance"], modular.placement, keep)
    prepared = Preparation(genes, sensitivity, fitness, choice)
    if directory is not None:
        facts = {**sensitivity.as_dict(), "keep": prepared.layer_table()}
        atomic_write(directory / SENSITIVITY_FILE, json.dumps(facts, indent=1))
    return prepared


def _measure(modular, images, labels, options, fitness):
    importance = kernel_importance(modular, images, labels, options.confidence)
    sensitivity = measure_sensitivity(
        fitness,
        importance,
        modular.placement,
        modular.kernels.layers,
    )
    return {
        "importance": importance,
        "layers": np.array(sensitivity.layers),
        "fractions": np.array(sensitivity.fractions),
        "accuracy": sensitivity.accuracy,
    }
