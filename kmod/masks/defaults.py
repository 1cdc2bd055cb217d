"""The optimiser and loss that a recipe trains with."""

import keras

from kmod.masks.losses import ModuleLoss
from kmod.masks.losses import SigmoidCrossEntropy
from kmod.masks.optimizer import ModularAdam
from kmod.masks.recipe import Recipe


def optimizer_of(recipe: Recipe) -> ModularAdam:
    """Returns a recipe's optimiser, with its rate for each kind of weight."""
    adapt = recipe.adapt_rate / recipe.head_rate
    by_importance = recipe.retention_target is not None
    return ModularAdam(
        recipe.head_rate,
        factors={
            "scale": adapt,
            "shift": adapt,
            "gain": adapt,
            "mask_scores": recipe.mask_rate / recipe.head_rate,
        },
        importance_steps=recipe.importance_steps if by_importance else None,
        final_rate=recipe.final_rate,
        epsilon=1e-8,
    )


def loss_of(
    recipe: Recipe, num_classes: int, num_rows: int
) -> keras.losses.Loss:
    """Returns a recipe's loss on raw scores.

    Args:
        recipe: The recipe.
        num_classes: Integer, number of modules.
        num_rows: Integer, modules that see an image; those that do not own
            it stand for all others.
    """
    if recipe.published_loss:
        return SigmoidCrossEntropy()
    return ModuleLoss(negative_weight=(num_classes - 1) / (num_rows - 1))
