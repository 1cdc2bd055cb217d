"""Chooses the kernels of every class by one of the methods."""

import functools

import numpy as np

from kmod.modular.cnnsplitter.encoding import gene_layers
from kmod.modular.cnnsplitter.genetic_search import GeneticSearch
from kmod.modular.cnnsplitter.importance import kernel_importance
from kmod.modular.cnnsplitter.options import SearchOptions
from kmod.modular.cnnsplitter.preparation import Preparation
from kmod.modular.cnnsplitter.preparation import prepare
from kmod.modular.kernel_masks import to_groups
from kmod.modular.modular_model import ModularModel
from kmod.modular.placement import Placement
from kmod.modular.run_directory import RunDirectory


class KernelChoice:
    """Chooses kernel masks for a modular model, which it leaves as it is.

    Args:
        modular: Modular model of the source; its seed is the choice's.
        images: Validation images `(n, ...)`.
        labels: Integer class indices `(n,)`.
        options: How to search.
        run: Run that keeps what was reached. Defaults to none.

    Attributes:
        history: What each generation of a search reached, plain JSON data.
    """

    def __init__(
        self,
        modular: ModularModel,
        images: np.ndarray,
        labels: np.ndarray,
        options: SearchOptions,
        run: RunDirectory | None = None,
    ):
        self.modular = modular
        self.images, self.labels = images, labels
        self.options = options
        self.run = run
        self.history = []

    @functools.cached_property
    def prepared(self) -> Preparation:
        """What was measured before the search."""
        return prepare(
            self.modular,
            self.images,
            self.labels,
            self.options,
            self.run,
        )

    def by_search(self, verbose: int = 1) -> np.ndarray:
        """Returns the masks of the best team that a genetic search finds.

        Args:
            verbose: 1 for a progress bar, 2 for its last line, 0 for none.

        Returns:
            int64 array `(num_classes, num_kernels)` of 0 and 1.
        """
        search = self._search
        state = search.run(verbose)
        self.history = state.history
        return self._to_kernels(search.masks(state.chosen))

    def by_importance(self, like: np.ndarray | None = None) -> np.ndarray:
        """Returns masks of each class's most important kernels.

        Args:
            like: Kernel masks whose number of kernels in each layer and class
                to keep. Defaults to what a search begins with.
        """
        if like is None:
            importance = self.prepared.genes.importance
        else:
            importance = kernel_importance(
                self.modular, self.images, self.labels, self.options.confidence
            )
        return self._of_top(importance, like)

    def by_chance(self, like: np.ndarray | None = None) -> np.ndarray:
        """Returns masks of random kernels.

        Args:
            like: As in `by_importance`.
        """
        rng = np.random.default_rng([self.modular.seed, 4])
        shape = (self.modular.num_classes, self.modular.kernels.num_groups)
        return self._of_top(rng.random(shape), like)

    @property
    def _search(self):
        return GeneticSearch(
            self.prepared.genes,
            self.prepared.fitness,
            self.prepared.choice,
            self.options,
            self.modular.seed,
            self.run,
        )

    def _of_top(self, order, like):
        modular, placement = self.modular, self.modular.placement
        if like is None:
            genes = self.prepared.genes
            top = genes.encoding.top(genes.keep)
            groups = self._search.masks(np.tile(top, (len(order), 1)))
        else:
            groups = to_groups(
                like, modular.kernels, placement, modular.num_classes
            )
        counts = kept_counts(groups, placement)
        return self._to_kernels(masks_of_top(order, counts, placement))

    def _to_kernels(self, groups):
        return groups[:, self.modular.kernels.groups].astype("int64")


def kept_counts(masks: np.ndarray, placement: Placement) -> np.ndarray:
    """Counts the kernel groups that each class keeps in each layer.

    Args:
        masks: Array `(num_classes, num_groups)` of 0 and 1.
        placement: What masks may remove.

    Returns:
        int64 array `(num_classes, num_layers)`.
    """
    layers = gene_layers(placement)
    return np.stack(
        [np.count_nonzero(masks[:, groups], axis=1) for groups in layers],
        axis=1,
    )


def masks_of_top(
    order: np.ndarray, counts: np.ndarray, placement: Placement
) -> np.ndarray:
    """Keeps in each layer the groups that come first.

    Args:
        order: Array `(num_classes, num_groups)`, higher comes first: kernel
            importance, or random numbers.
        counts: What `kept_counts` returns; at least one is kept.
        placement: What masks may remove.

    Returns:
        float32 array `(num_classes, num_groups)` of 0 and 1.
    """
    masks = np.ones(order.shape, "float32")
    for layer, groups in enumerate(gene_layers(placement)):
        for index, row in enumerate(order[:, groups]):
            first = np.argsort(-row, kind="stable")
            count = max(1, counts[index, layer])
            masks[index, groups[first[count:]]] = 0
    return masks
