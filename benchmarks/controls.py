"""Kernels chosen without a search, as controls of `methods.py`.

They keep as many kernels of each layer and class as other masks do: the most
important ones, or random ones.
"""

import keras
import numpy as np

from kmod.data.value_range import value_range_of
from kmod.modular.cnnsplitter.encoding import gene_layers
from kmod.modular.cnnsplitter.evaluator import align_heads
from kmod.modular.cnnsplitter.modularize import RECIPE
from kmod.modular.cnnsplitter.sensitivity import activation_norms
from kmod.modular.modular_model import ModularModel

CONTROLS = ("importance", "random")


def modularize_like(
    masks: np.ndarray,
    source: keras.Model,
    validation: tuple[np.ndarray, np.ndarray],
    *,
    method: str,
    confidence: float,
    class_names=None,
    mask_from: str | None = None,
    seed: int = 0,
) -> ModularModel:
    """Returns a calibrated modular model of a control.

    Args:
        masks: Kernel masks `(num_classes, num_kernels)` to be like.
        source: Source model.
        validation: Images and labels.
        method: `"importance"` or `"random"`.
        confidence: As in `SearchOptions`.
        class_names: Names of the classes.
        mask_from: First layer whose kernels may go.
        seed: Seed of what is drawn.
    """
    keras.utils.set_random_seed(seed)
    images, labels = validation
    modular = ModularModel(
        source,
        class_names,
        recipe=RECIPE,
        mask_from=mask_from,
        seed=seed,
        value_range=value_range_of(images, None),
    )
    if method == "importance":
        order = activation_norms(modular, images, labels, confidence)
    else:
        shape = modular.num_classes, modular.kernels.num_groups
        order = np.random.default_rng([seed, 4]).random(shape)
    modular.kernel_masks = masks_of_top(modular, order, masks)
    align_heads(modular, images)
    modular.compile()
    modular.calibrate(images, labels)
    return modular


def masks_of_top(modular, order, masks):
    """Keeps what comes first in `order`, as much of each layer as `masks`."""
    found = np.ones_like(masks)
    groups_of = modular.kernels.groups
    for groups in gene_layers(modular.placement):
        _, kernels = np.unique(groups_of, return_index=True)
        counts = np.count_nonzero(masks[:, kernels[groups]], axis=1)
        first = np.argsort(-order[:, groups], axis=1, kind="stable")
        for index, count in enumerate(counts):
            removed = groups[first[index, max(1, count) :]]
            found[index, np.isin(groups_of, removed)] = 0
    return found
