"""Chromosomes: which kernels an individual keeps, a bit for a few of them."""

import dataclasses

import keras
import numpy as np

from kmod.modular.mask_schedule import keep_best
from kmod.modular.placement import Placement

WIDE_LAYER = 256
GENES_OF_NARROW, GENES_OF_WIDE = 10, 100


@dataclasses.dataclass(frozen=True, eq=False)
class Encoding:
    """How chromosomes and kernel masks translate into each other.

    A *gene* stands for a few kernel groups of one layer that are about as
    important to a class; it is 1 if the module keeps them. The genes of a
    layer are in order of importance, so equal chromosomes mean other kernels
    in another class. Tied kernels are one group and so in one gene; their
    layer is the first of those they stand in.

    Attributes:
        placement: What masks may remove.
        importance: Array `(num_classes, num_groups)`.
        gene_of: int64 array `(num_classes, num_groups)`, each group's gene,
            -1 for groups that always stay.
        layers: int64 array `(num_genes,)`, the layer of each gene, counted
            among the layers that have genes.
        ranks: int64 array `(num_genes,)`, place within the layer, 0 for the
            most important kernels.
        sizes: Float array `(num_classes, num_genes)`, kernels of each gene.
    """

    placement: Placement
    importance: np.ndarray
    gene_of: np.ndarray
    layers: np.ndarray
    ranks: np.ndarray
    sizes: np.ndarray

    @property
    def num_genes(self) -> int:
        return len(self.layers)

    @property
    def num_fixed(self) -> float:
        """Number of kernels that always stay."""
        return float(self.placement.sizes[~self.placement.may_go].sum())

    @property
    def genes_by_layer(self) -> np.ndarray:
        """Number of genes of each layer."""
        return np.bincount(self.layers)

    def masks(self, class_index: int, chromosomes: np.ndarray) -> np.ndarray:
        """Returns float32 masks `(rows, num_groups)`, no layer of them empty.

        Args:
            class_index: Integer, the class the chromosomes are of.
            chromosomes: Array `(rows, num_genes)` of 0 and 1.
        """
        stays = np.ones((len(chromosomes), 1), chromosomes.dtype)
        bits = np.concatenate([chromosomes, stays], axis=1)
        masks = bits[:, self.gene_of[class_index]].astype("float32")
        scores = np.tile(self.importance[class_index], (len(masks), 1))
        kept = keep_best(masks, scores, self.placement.families)
        return keras.ops.convert_to_numpy(kept)

    def retention(self, class_index: int, chromosomes: np.ndarray):
        """Returns the share of kernels that each chromosome keeps."""
        sizes = self.sizes[class_index]
        kept = chromosomes @ sizes + self.num_fixed
        return kept / (sizes.sum() + self.num_fixed)

    def top(self, keep: np.ndarray) -> np.ndarray:
        """Returns the chromosome of each layer's most important genes.

        Args:
            keep: Integer array `(num_layers,)`, genes to keep in each.
        """
        return (self.ranks < keep[self.layers]).astype("uint8")


def gene_layers(placement: Placement) -> list[np.ndarray]:
    """Lists, layer by layer, the kernel groups that may go.

    Returns:
        Sorted integer arrays of groups; a group of tied kernels is in the
        first of their layers only.
    """
    homes = np.where(placement.may_go, placement.home, -1)
    return [
        np.flatnonzero(homes == home) for home in np.unique(homes[homes >= 0])
    ]


def encode(importance: np.ndarray, placement: Placement) -> Encoding:
    """Sorts every class's kernels into genes.

    A layer of fewer than 256 groups has 10 genes, a wider one 100, and none
    has more genes than groups.

    Args:
        importance: Array `(num_classes, num_groups)`.
        placement: What masks may remove.

    Returns:
        The `Encoding`.

    Reference:

    - [Qi et al., 2022](https://arxiv.org/abs/2209.06116), section 3.2.2
    """
    gene_of = np.full(importance.shape, -1)
    layers, ranks, sizes = [], [], []
    for index, groups in enumerate(gene_layers(placement)):
        order = groups[np.argsort(-importance[:, groups], kind="stable")]
        is_wide = len(groups) >= WIDE_LAYER
        count = min(len(groups), GENES_OF_WIDE if is_wide else GENES_OF_NARROW)
        for rank, members in enumerate(np.array_split(order, count, axis=1)):
            np.put_along_axis(gene_of, members, len(layers), axis=1)
            layers.append(index)
            ranks.append(rank)
            sizes.append(placement.sizes[members].sum(axis=1))
    return Encoding(
        placement,
        importance,
        gene_of,
        np.array(layers),
        np.array(ranks),
        np.transpose(sizes).reshape(len(importance), -1),
    )
