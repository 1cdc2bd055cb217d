"""Which layers need their kernels most, and how many each may keep."""

import dataclasses

import numpy as np

from kmod.errors import UsageError
from kmod.modular.cnnsplitter.encoding import Encoding
from kmod.modular.cnnsplitter.encoding import gene_layers
from kmod.modular.cnnsplitter.judges import Judges
from kmod.modular.placement import Placement

FRACTIONS = (0.1, 0.25, 0.5, 0.75)
LEAST_SHARE = 0.25


@dataclasses.dataclass(frozen=True, eq=False)
class Sensitivity:
    """What removing kernels of one layer at a time does to accuracy.

    Attributes:
        layers: Name of each layer with kernels that may go.
        fractions: Shares of a layer's kernels that were kept, rising; the
            last is 1.
        accuracy: Array `(num_layers, num_fractions)`: accuracy of all
            modules together, 0 to 1.
    """

    layers: tuple[str, ...]
    fractions: tuple[float, ...]
    accuracy: np.ndarray

    def loss(self, layer: int, fraction: float) -> float:
        """Returns the accuracy lost if a layer keeps that share."""
        curve = np.maximum.accumulate(self.accuracy[layer])
        fractions = (0.0, *self.fractions)
        return float(curve[-1] - np.interp(fraction, fractions, [0.0, *curve]))

    def as_dict(self) -> dict:
        """Returns the curves as plain JSON data."""
        return {
            "layers": list(self.layers),
            "fractions": list(self.fractions),
            "accuracy": self.accuracy.tolist(),
        }


def measure_sensitivity(
    judges: Judges,
    importance: np.ndarray,
    placement: Placement,
    layer_names: tuple[str, ...],
) -> Sensitivity:
    """Measures accuracy as one layer keeps its top kernels only.

    Args:
        judges: Validation images.
        importance: Array `(num_classes, num_groups)`.
        placement: What masks may remove.
        layer_names: Names of the layers with kernels, in order.

    Reference:

    - [Qi et al., 2022](https://arxiv.org/abs/2209.06116), section 3.2.1
    """
    layers = gene_layers(placement)
    parts = [(g, f) for g in layers for f in FRACTIONS]
    masks = [top_groups(importance, *part) for part in parts]
    masks.append(np.ones_like(masks[0]))
    scores = judges.score(
        np.concatenate(masks), np.tile(np.arange(len(importance)), len(masks))
    )
    teams = scores.reshape(len(masks), len(importance), -1)
    accuracy = np.mean(teams.argmax(axis=1) == judges.labels, axis=1)
    curves = accuracy[:-1].reshape(len(layers), len(FRACTIONS))
    whole = np.full((len(layers), 1), accuracy[-1])
    return Sensitivity(
        tuple(layer_names[placement.home[groups[0]]] for groups in layers),
        (*FRACTIONS, 1.0),
        np.concatenate([curves, whole], axis=1),
    )


def top_groups(
    importance: np.ndarray, groups: np.ndarray, fraction: float
) -> np.ndarray:
    """Returns masks that keep a layer's most important groups.

    Args:
        importance: Array `(num_classes, num_groups)`.
        groups: The layer's groups; all others are kept.
        fraction: Share of the groups to keep, at least one.

    Returns:
        float32 array `(num_classes, num_groups)` of 0 and 1.
    """
    masks = np.ones(importance.shape, "float32")
    order = np.argsort(-importance[:, groups], axis=1, kind="stable")
    removed = groups[order[:, max(1, round(fraction * len(groups))) :]]
    np.put_along_axis(masks, removed, 0, axis=1)
    return masks


def genes_to_keep(
    sensitivity: Sensitivity, encoding: Encoding, retention_target: float
) -> np.ndarray:
    """Shares the kernels that a module may keep out among the layers.

    Starts with all genes and takes one gene after another from the layer
    where that costs least measured accuracy for each kernel it frees, until
    no more than the target is kept. Losses of several layers are worse than
    their sum, so no layer falls below a quarter of the common share while
    another is above that. Layers that end above the common share are the
    *sensitive* ones.

    Args:
        sensitivity: What removing kernels costs.
        encoding: The genes.
        retention_target: Share of all kernels to keep.

    Returns:
        int64 array `(num_layers,)`: genes that each layer keeps, at least 1.

    Raises:
        UsageError: If so few can not be reached.
    """
    totals = encoding.genes_by_layer
    keep = totals.copy()
    removable = encoding.sizes[0].sum()
    room = retention_target * (removable + encoding.num_fixed)
    least = LEAST_SHARE * (room - encoding.num_fixed) / removable
    while _retention(encoding, keep) > retention_target:
        costs = [
            _step_cost(sensitivity, encoding, layer, keep)
            for layer in range(len(keep))
        ]
        spared = keep - 1 < least * totals
        if not spared.all():
            costs = np.where(spared, np.inf, costs)
        if min(costs) == np.inf:
            raise UsageError(
                "`retention_target` must leave a gene in every layer, "
                f"{_retention(encoding, keep):.3f} of the kernels. Received: "
                f"retention_target={retention_target}. Raise it, or mask "
                "from an earlier layer on."
            )
        keep[int(np.argmin(costs))] -= 1
    return keep


def _step_cost(sensitivity, encoding, layer, keep):
    """Returns the accuracy that the layer's next gene costs per kernel."""
    if keep[layer] == 1:
        return np.inf
    total = encoding.genes_by_layer[layer]
    before = sensitivity.loss(layer, keep[layer] / total)
    after = sensitivity.loss(layer, (keep[layer] - 1) / total)
    is_layer = encoding.layers == layer
    freed = encoding.sizes[:, is_layer].mean(axis=0)[keep[layer] - 1]
    # Where nothing is lost yet, the layer with most kernels left goes first.
    return (after - before + 1e-6 / keep[layer]) / freed


def _retention(encoding, keep):
    chromosome = encoding.top(keep)[None]
    return np.mean(
        [encoding.retention(c, chromosome) for c in range(len(encoding.sizes))]
    )
