"""What a search for kernels can be told."""

import dataclasses

from kmod.errors import UsageError


@dataclasses.dataclass(frozen=True)
class SearchOptions:
    """Everything that says how kernels are searched for.

    Attributes:
        retention_target: Share of all kernels that a module may keep, above 0
            and at most 1.
        images: Validation images that fitness is measured on; as many others
            choose the generation, if there are so many.
        confidence: Probability from which the source model counts as sure of
            an image; importance is measured on those.
        population: Candidates for each class, at least 4.
        generations: Generations at most.
        patience: Generations without a better choice before the search stops.
        parents: Share of a population that has offspring.
        elites: Share of a population that goes on as it is.
        mutation: Share of an offspring's genes that are drawn anew.
        accuracy_weight: Weight of accuracy in the fitness; the rest weighs
            the distance between modules.
        accuracy_margin: Accuracy below the source model's at which a team of
            a few classes is given up.
        teams: Teams kept at most at each level of team building.
        spare_teams: Teams kept at least, however bad.

    Reference:

    - [Qi et al., 2022](https://arxiv.org/abs/2209.06116), section 3.3
    """

    retention_target: float = 0.55
    images: int = 1000
    confidence: float = 0.9
    population: int = 40
    generations: int = 50
    patience: int = 20
    parents: float = 0.5
    elites: float = 0.2
    mutation: float = 0.05
    accuracy_weight: float = 0.9
    accuracy_margin: float = 0.1
    teams: int = 200
    spare_teams: int = 50

    def __post_init__(self):
        for name in ("population", "generations", "patience", "images"):
            least = 4 if name == "population" else 1
            if getattr(self, name) < least:
                raise UsageError(
                    f"`{name}` must be at least {least}. Received: "
                    f"{name}={getattr(self, name)}"
                )
        for name in ("retention_target", "parents", "accuracy_weight"):
            _check_share(name, getattr(self, name), 0 < getattr(self, name))
        for name in ("elites", "mutation", "confidence", "accuracy_margin"):
            _check_share(name, getattr(self, name), 0 <= getattr(self, name))
        if not 1 <= self.spare_teams <= self.teams:
            raise UsageError(
                "`spare_teams` must be at least 1 and at most `teams`. "
                f"Received: spare_teams={self.spare_teams}, "
                f"teams={self.teams}"
            )

    @property
    def num_parents(self) -> int:
        return max(2, round(self.population * self.parents))

    @property
    def num_elites(self) -> int:
        return max(1, round(self.population * self.elites))

    def as_dict(self) -> dict:
        """Returns the options as plain JSON data."""
        return dataclasses.asdict(self)


def _check_share(name, value, is_above):
    if not (is_above and value <= 1):
        raise UsageError(
            f"`{name}` is a share and must be at most 1. Received: "
            f"{name}={value}"
        )
