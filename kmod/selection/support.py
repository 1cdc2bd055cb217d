"""Whether further modules help to tell classes apart."""

from collections.abc import Callable
from collections.abc import Hashable
from collections.abc import Iterable
from collections.abc import Mapping
from typing import TypeVar

import numpy as np

from kmod.metrics.calibration import likelihood

# Some tens of images can not tell what more scores than that are worth; many
# can, if there are ten for each score.
MOST_SUPPORT = 40
IMAGES_PER_SCORE = 10

Key = TypeVar("Key", bound=Hashable)


def support_options(
    modules: Iterable[Key],
    elsewhere: Iterable[Key],
    is_known: Callable[[Key], bool],
    num_images: int,
) -> list[tuple[Key, ...]]:
    """Lists what may support a choice.

    That is nothing, known classes of the stores that are in, all modules of
    these stores, and known classes of all stores.

    Args:
        modules: All other modules of the stores that are in.
        elsewhere: Modules of known classes in the other stores.
        is_known: Whether a module's class is one of the new model's.
        num_images: How many labelled images tell what is best.

    Returns:
        Different groups of modules, nothing first, none of more than
        `MOST_SUPPORT` modules, or of a tenth of the images if that is more.
    """
    most = max(MOST_SUPPORT, num_images // IMAGES_PER_SCORE)
    every = tuple(modules)
    known = tuple(filter(is_known, every))
    groups = dict.fromkeys(((), known, every, (*known, *elsewhere)))
    return [group for group in groups if len(group) <= most]


def best_support(
    scores: np.ndarray, options: Mapping[Key, np.ndarray], labels: np.ndarray
) -> Key:
    """Chooses the further scores with which the truth is likeliest.

    Each option is weighed together with the classes' own scores by the layer
    of `calibration: joint`, fitted on other images than it is judged on.

    Args:
        scores: Log-odds `(n, num_classes)` of the classes' own modules.
        options: Log-odds `(n, k)` of further modules, by key; `k` may be 0.
            Of equally good ones the first counts.
        labels: int64 array `(n,)` of class indices. Where a class has a single
            image, nothing can be compared, and the first option counts.

    Returns:
        The key of the best option.
    """
    if np.bincount(labels).min() < 2:
        return next(iter(options))
    return max(
        options,
        key=lambda key: likelihood(
            np.concatenate([scores, options[key]], axis=1), labels
        ),
    )
