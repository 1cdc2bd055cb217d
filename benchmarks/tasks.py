"""The tasks of `new_task.py`."""

import dataclasses
import itertools

import numpy as np
import reuse_sources

NUM_PAIRS = 25
NUM_WITHIN = {"cifar10": 12, "fashion_mnist": 12, "mnist": 6}


@dataclasses.dataclass(frozen=True)
class Task:
    """Classes of a new model: data set and class index of each."""

    classes: tuple[tuple[str, int], ...]

    @property
    def name(self) -> str:
        return "+".join(f"{data}.{index}" for data, index in self.classes)

    @property
    def data(self) -> list[str]:
        return list(dict.fromkeys(data for data, _ in self.classes))


def tasks() -> list[Task]:
    """All tasks, always the same, in an order that mixes their kinds."""
    random = np.random.default_rng(0)
    found = []
    for first, second in itertools.combinations(reuse_sources.POOLS, 2):
        for number in random.permutation(100)[:NUM_PAIRS]:
            pair = (first, int(number) // 10), (second, int(number) % 10)
            found.append(Task(pair))
    for data, count in NUM_WITHIN.items():
        for index in range(count):
            classes = random.permutation(10)[: 3 + index % 3]
            found.append(Task(tuple((data, int(c)) for c in sorted(classes))))
    return [found[index] for index in random.permutation(len(found))]
