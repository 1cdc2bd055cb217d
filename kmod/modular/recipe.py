"""Recipes: how masks, heads, scales, shifts and gains are trained."""

import dataclasses

from kmod.errors import UsageError


@dataclasses.dataclass(frozen=True)
class Phase:
    """A run of epochs that trains the same weights.

    Attributes:
        trains_masks: Whether masks train; heads always do.
        epochs: Number of epochs.
        learning_rate: Learning rate of a new optimiser state.
    """

    trains_masks: bool
    epochs: int
    learning_rate: float


@dataclasses.dataclass(frozen=True)
class Recipe:
    """Everything that says how a modular model is trained.

    Attributes:
        name: Name, for manifests and reports.
        hidden_units: Hidden units of each head, 0 for linear heads.
        scale_and_shift: Whether each class scales and shifts the channels that
            layers make, and scales those that they read.
        rows_per_image: Modules that see an image in a training step: its own
            class's and others drawn at random. 0 for all of them.
        retention_target: Retention rate to come down to, 0 to 1, or `None` to
            leave it to `penalty`.
        macs_target: Multiply-accumulates that a composition of all modules
            may cost, as a multiple of the source model's, beside the retention
            target. `None` for no limit.
        warm_up: Fraction of the training before the first kernel goes.
        removal_end: Fraction of the training after which no more kernels go.
        penalty: Weight of the mean of all masks in the loss.
        published_loss: Whether the loss is the published one on sigmoids.
        distillation: Weight of learning from the source model's own answers.
        temperature: What scores are divided by in that.
        importance_steps: Training steps, the last ones, whose mask gradients
            tell kernel importances (where `retention_target` is given).
        own_importance: Share, 0 to 1, of what a kernel's gradients alone say
            in its importance; the rest comes from how they go together with
            those of other kernels.
        head_rate: Learning rate of heads.
        adapt_rate: Learning rate of scales, shifts and gains, where at most
            15 layers have them; lower where more have.
        mask_rate: Learning rate of mask scores, where they are trained by
            gradient (`retention_target` is `None`).
        final_rate: Factor that all rates come down to at the end.
        phases: The published schedule, phase after phase; empty for a single
            phase of any length.
    """

    name: str
    hidden_units: int = 0
    scale_and_shift: bool = True
    rows_per_image: int = 3
    retention_target: float | None = 0.4
    macs_target: float | None = None
    warm_up: float = 0.1
    removal_end: float = 0.6
    penalty: float = 0.0
    published_loss: bool = False
    distillation: float = 3.0
    temperature: float = 1.0
    importance_steps: int = 256
    own_importance: float = 0.1
    head_rate: float = 0.01
    adapt_rate: float = 0.03
    mask_rate: float = 0.001
    final_rate: float = 0.05
    phases: tuple[Phase, ...] = ()

    def __post_init__(self):
        target = self.retention_target
        if target is not None and not 0 < target <= 1:
            raise UsageError(
                "`retention_target` must be above 0 and at most 1. Received: "
                f"retention_target={target}"
            )
        if self.macs_target is not None and target is None:
            raise UsageError(
                "`macs_target` needs a `retention_target` beside it. Received: "
                f"macs_target={self.macs_target}, retention_target=None. Give "
                "`retention_target=1` for no other limit."
            )
        if not 0 <= self.warm_up < self.removal_end <= 1:
            raise UsageError(
                "`warm_up` must lie below `removal_end`, both from 0 to 1. "
                f"Received: warm_up={self.warm_up}, "
                f"removal_end={self.removal_end}"
            )
        if self.importance_steps < 1 or not 0 < self.own_importance <= 1:
            raise UsageError(
                "`importance_steps` must be at least 1, and `own_importance` "
                "above 0 and at most 1. Received: "
                f"importance_steps={self.importance_steps}, "
                f"own_importance={self.own_importance}"
            )
        if self.rows_per_image == 1 or self.rows_per_image < 0:
            raise UsageError(
                "`rows_per_image` must be 0 (all modules) or at least 2, so "
                "that a module also sees images of other classes. Received: "
                f"rows_per_image={self.rows_per_image}"
            )

    @property
    def epochs(self) -> int:
        """Number of epochs of the phases, 0 without phases."""
        return sum(phase.epochs for phase in self.phases)

    def as_dict(self) -> dict:
        """Returns the recipe as plain JSON data."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: dict) -> "Recipe":
        """Returns the recipe that `as_dict` wrote down."""
        phases = tuple(Phase(**phase) for phase in values["phases"])
        return cls(**{**values, "phases": phases})


# Of trainings without phases of their own.
DEFAULT_EPOCHS = 10
# Accuracy that modules may lose before they are refined, by what they are for.
BUDGETS = {"together": 0.2, "alone": 0.01}

DEFAULT = Recipe("default")

PAPER = Recipe(
    "paper",
    hidden_units=10,
    scale_and_shift=False,
    rows_per_image=0,
    retention_target=None,
    penalty=0.1,
    published_loss=True,
    distillation=0.0,
    head_rate=0.001,
    mask_rate=0.001,
    final_rate=1.0,
    phases=(Phase(False, 5, 0.01),)
    + 20 * (Phase(True, 5, 0.001), Phase(False, 2, 0.001)),
)

RECIPES = {recipe.name: recipe for recipe in (DEFAULT, PAPER)}


def recipe_of(recipe: str | Recipe) -> Recipe:
    """Returns the recipe of that name, or the recipe given.

    Raises:
        UsageError: If there is no recipe of that name.
    """
    if isinstance(recipe, Recipe):
        return recipe
    if recipe not in RECIPES:
        raise UsageError(
            f"`recipe` must be one of {sorted(RECIPES)} or a `Recipe`. "
            f"Received: recipe={recipe!r}"
        )
    return RECIPES[recipe]


def with_targets(
    recipe: Recipe, retention_target: float | None, macs_target: float | None
) -> Recipe:
    """Returns a recipe with other targets, where they are given.

    Raises:
        UsageError: If the recipe has no retention target, or one given is
            out of range.
    """
    given = {"retention_target": retention_target, "macs_target": macs_target}
    targets = {name: x for name, x in given.items() if x is not None}
    if targets and recipe.retention_target is None:
        name, value = next(iter(targets.items()))
        raise UsageError(
            f"`{name}` belongs to recipes with a retention target, such as "
            f"'default'. Received: {name}={value}, recipe={recipe.name!r}. "
            "Leave one of them out."
        )
    return dataclasses.replace(recipe, **targets)
