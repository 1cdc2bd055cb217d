"""What a genetic search for kernels can be told."""

import dataclasses

from kmod.errors import UsageError

HEAD_EPOCHS = 2  # That train heads after the search.


@dataclasses.dataclass(frozen=True)
class SearchOptions:
    """Settings of a genetic search for kernels.

    Attributes:
        retention_target: Share of all kernels that a module may keep, above 0
            and at most 1.
        images: Validation images that fitness is measured on; as many others
            choose the generation, if there are so many.
        confidence: Probability from which the source model counts as sure of
            an image; activation norms are measured on those.
        population: Individuals of each class, at least 4.
        generations: Generations at most.
        patience: Generations without a better choice before the search stops.
        parent_rate: Share of a population that has offspring.
        elite_rate: Share of a population that goes on as it is.
        mutation_rate: Share of an offspring's genes that are drawn anew.
        accuracy_weight: Weight of accuracy in the fitness; the rest weighs
            the distance between modules.
        accuracy_margin: Accuracy below the source model's at which a
            collaboration for a few classes is given up.
        max_collaborations: Collaborations kept at most at each level.
        min_collaborations: Collaborations kept at least, however bad.

    Reference:

    - [Qi et al., 2022](https://arxiv.org/abs/2209.06116), section 3.3
    """

    retention_target: float = 0.55
    images: int = 1000
    confidence: float = 0.9
    population: int = 40
    generations: int = 50
    patience: int = 20
    parent_rate: float = 0.5
    elite_rate: float = 0.2
    mutation_rate: float = 0.05
    accuracy_weight: float = 0.9
    accuracy_margin: float = 0.1
    max_collaborations: int = 200
    min_collaborations: int = 50

    def __post_init__(self):
        for name in ("population", "generations", "patience", "images"):
            least = 4 if name == "population" else 1
            if getattr(self, name) < least:
                raise UsageError(
                    f"`{name}` must be at least {least}. Received: "
                    f"{name}={getattr(self, name)}"
                )
        above_zero = "retention_target", "parent_rate", "accuracy_weight"
        from_zero = "elite_rate", "mutation_rate", "confidence"
        for name in (*above_zero, *from_zero, "accuracy_margin"):
            value = getattr(self, name)
            bound = "above 0" if name in above_zero else "at least 0"
            if not 0 <= value <= 1 or (value == 0 and name in above_zero):
                raise UsageError(
                    f"`{name}` is a share and must be {bound} and at most 1. "
                    f"Received: {name}={value}"
                )
        if not 1 <= self.min_collaborations <= self.max_collaborations:
            raise UsageError(
                "`min_collaborations` must be at least 1 and at most "
                "`max_collaborations`. Received: "
                f"min_collaborations={self.min_collaborations}, "
                f"max_collaborations={self.max_collaborations}"
            )

    @property
    def num_parents(self) -> int:
        return max(2, round(self.population * self.parent_rate))

    @property
    def num_elites(self) -> int:
        return max(1, round(self.population * self.elite_rate))

    def as_dict(self) -> dict:
        """Returns the options as plain JSON data."""
        return dataclasses.asdict(self)
