"""What a search must know before it starts: importance, sensitivity, genes."""

import dataclasses
import json

import numpy as np

from kmod.files import atomic_write
from kmod.modular.cnnsplitter.encoding import encode
from kmod.modular.cnnsplitter.genetic_search import Genes
from kmod.modular.cnnsplitter.importance import kernel_importance
from kmod.modular.cnnsplitter.judges import Judges
from kmod.modular.cnnsplitter.options import SearchOptions
from kmod.modular.cnnsplitter.sensitivity import Sensitivity
from kmod.modular.cnnsplitter.sensitivity import genes_to_keep
from kmod.modular.cnnsplitter.sensitivity import measure_sensitivity
from kmod.modular.modular_model import ModularModel
from kmod.modular.run_directory import SENSITIVITY_FILE
from kmod.modular.run_directory import RunDirectory

STAGE = "preparation"


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
    run: RunDirectory | None = None,
) -> Preparation:
    """Measures importance and sensitivity, or reads what a run measured.

    Args:
        modular: Modular model of the source; its seed draws the images.
        images: Validation images; some measure fitness, as many others
            choose.
        labels: Integer class indices of the images.
        options: How to search.
        run: Run that keeps what was measured. Defaults to none.
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
    kept = run and run.latest(STAGE)
    if kept:
        arrays = kept.arrays
    else:
        arrays = _measure(modular, images, labels, options, fitness)
        if run:
            run.save(STAGE, 0, {}, arrays)
    sensitivity = Sensitivity(
        tuple(arrays["layers"].tolist()),
        tuple(arrays["fractions"].tolist()),
        arrays["accuracy"],
    )
    encoding = encode(arrays["importance"], modular.placement)
    keep = genes_to_keep(sensitivity, encoding, options.retention_target)
    genes = Genes(encoding, arrays["importance"], modular.placement, keep)
    prepared = Preparation(genes, sensitivity, fitness, choice)
    if run:
        facts = {**sensitivity.as_dict(), "keep": prepared.layer_table()}
        text = json.dumps(facts, indent=1)
        atomic_write(run.path / SENSITIVITY_FILE, text)
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
