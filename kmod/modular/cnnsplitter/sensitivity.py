"""Which kernels and layers matter most, and how many each layer may keep."""

import dataclasses

import keras
import numpy as np
from keras import ops

from kmod.data.streaming import predict
from kmod.errors import UsageError
from kmod.graph.calls import run_trace
from kmod.modular.cnnsplitter.encoding import Encoding
from kmod.modular.cnnsplitter.encoding import gene_layers
from kmod.modular.cnnsplitter.evaluator import Evaluator
from kmod.modular.modular_model import ModularModel
from kmod.modular.placement import Placement

FRACTIONS = (0.1, 0.25, 0.5, 0.75, 1.0)
LEAST_SHARE = 0.25


class ActivationNorms(keras.Model):
    """Measures how strongly each kernel group answers an image.

    That is the L1 norm of the group's channels in all tensors that the masks
    of a modular model multiply, `(batch, num_groups)`, 0 where there is none.
    """

    def __init__(self, modular: ModularModel):
        super().__init__()
        self.traced = modular.graph.trace
        self.wrapped = modular.network.wrapped
        self.num_groups = len(modular.placement.sizes)

    def call(self, images):
        values = run_trace(self.traced, images)
        read = {call.inputs[0].index: layer for call, layer in self.wrapped}
        norms = 0
        for index, layer in read.items():
            value = values[index]
            axes = [i for i in range(1, len(value.shape)) if i != layer.axis]
            of_channels = ops.sum(ops.abs(value), axis=axes)
            columns = layer.kernels[:, None] == np.arange(self.num_groups)
            norms += ops.matmul(of_channels, columns.astype("float32"))
        return norms


def activation_norms(
    modular: ModularModel,
    images: np.ndarray,
    labels: np.ndarray,
    confidence: float = 0.9,
) -> np.ndarray:
    """Measures how strongly each kernel group answers each class.

    It is the mean L1 norm of the group's feature maps over the images of the
    class that the source model is sure of, measured behind normalisation,
    activation and pooling, on the very tensors that masks multiply. Kernels
    that a residual connection ties are one group and have one norm.

    Args:
        modular: Modular model of the source.
        images: Images `(n, ...)`.
        labels: Integer class indices `(n,)`.
        confidence: Probability of its class from which an image counts. A
            class without any such image counts the surest of its images.

    Returns:
        float64 array `(num_classes, num_groups)`, comparable within a layer:
        the importance of the group to the class.

    Reference:

    - [Qi et al., 2022](https://arxiv.org/abs/2209.06116), section 3.2.1
    """
    logits = predict(modular.flat_source, images)
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    probabilities = powers / powers.sum(axis=1, keepdims=True)
    own = probabilities[np.arange(len(labels)), labels]
    norms = predict(ActivationNorms(modular), images)
    means = np.zeros((modular.num_classes, norms.shape[1]))
    for index in np.unique(labels):
        of_class = labels == index
        sure = min(confidence, own[of_class].max())
        means[index] = norms[of_class & (own >= sure)].mean(axis=0)
    return means


@dataclasses.dataclass(frozen=True, eq=False)
class Sensitivity:
    """What removing kernels of one layer at a time does to accuracy.

    Attributes:
        layers: Name of each layer with kernels that may go.
        accuracy: Array `(num_layers, num_fractions)`: accuracy of all
            modules together, 0 to 1, as the layer keeps each of `fractions`.
        fractions: Shares of a layer's kernels, rising; the last is 1.
    """

    layers: tuple[str, ...]
    accuracy: np.ndarray
    fractions: tuple[float, ...] = FRACTIONS

    def loss(self, layer: int, fraction: float) -> float:
        """Returns the accuracy lost if a layer keeps that share."""
        curve = np.maximum.accumulate(self.accuracy[layer])
        fractions = (0.0, *self.fractions)
        return float(curve[-1] - np.interp(fraction, fractions, [0.0, *curve]))


def measure_sensitivity(
    evaluator: Evaluator, importance: np.ndarray, placement: Placement
) -> np.ndarray:
    """Measures accuracy as one layer keeps its top kernels only.

    Args:
        evaluator: Validation images.
        importance: Array `(num_classes, num_groups)`.
        placement: What masks may remove.

    Returns:
        `Sensitivity.accuracy`.

    Reference:

    - [Qi et al., 2022](https://arxiv.org/abs/2209.06116), section 3.2.1
    """
    layers = gene_layers(placement)
    fractions = FRACTIONS[:-1]
    masks = [top_groups(importance, g, f) for g in layers for f in fractions]
    masks.append(np.ones_like(masks[0]))
    scores = evaluator.scores(
        np.concatenate(masks), np.tile(np.arange(len(importance)), len(masks))
    )
    answers = scores.reshape(len(masks), len(importance), -1).argmax(axis=1)
    accuracy = np.mean(answers == evaluator.labels, axis=1)
    curves = accuracy[:-1].reshape(len(layers), len(fractions))
    whole = np.full((len(layers), 1), accuracy[-1])
    return np.concatenate([curves, whole], axis=1)


def top_groups(importance, groups, fraction):
    """Returns masks of all groups but the least important of a layer's."""
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
