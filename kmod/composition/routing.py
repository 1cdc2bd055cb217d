"""Tells by familiarity which source an image belongs to.

What every source's images are like is known in the same statistics, so the
sources can be told apart as classes are: by a linear discriminant. Sources of
the same classes and the same kind of images are one world, whose modules are
compared as those of one source.
"""

import dataclasses
import itertools
import re
from collections.abc import Mapping
from collections.abc import Sequence

import keras
import numpy as np
from keras import layers

from kmod.data.streaming import predict
from kmod.modules.familiarity import Familiarity
from kmod.modules.image_statistics import is_known
from kmod.modules.image_statistics import statistics_model
from kmod.modules.manifest import InputContract

# How much counts of what a normal distribution says: statistics are not
# normal, and surer of themselves than they are right (benchmarks/trials.md).
TEMPERATURE = 0.7
# How much of a module's log-odds counts beyond what is a probability of 1
# already. A little of it helps, since sure modules of other sources are not
# as sure.
LEAK = 0.1
# Share of the evidence for a module that is for its own class. Statistics err
# in other images than modules do, so a little of it helps within a world, too.
CLASS_SHARE = 0.2
NO_COLUMN = -1e9  # A score that adds nothing to a sum of exponentials.
# Between the means of a class in two sources of the same images: what is due
# to 20 images of each class. MNIST and Fashion-MNIST are 11 apart.
SAME_WORLD = 5.0


def group_worlds(familiarities: Sequence[Familiarity]) -> list[int]:
    """Finds which sources know the same classes from the same kind of images.

    That is so if they share half of the classes of one of them, by name, and
    the means of these are near each other. All sources of a world are so in
    pairs: one that knows some classes of two others does not join these.

    Args:
        familiarities: Those of the sources.

    Returns:
        The index of each source's world.
    """
    worlds = {index: {index} for index in range(len(familiarities))}
    pairs = itertools.combinations(worlds, 2)
    same = {
        frozenset(pair)
        for pair in pairs
        if _is_same(*map(familiarities.__getitem__, pair))
    }
    for first, second in map(sorted, sorted(same, key=sorted)):
        own, other = worlds[first], worlds[second]
        between = itertools.product(own, other)
        if own is not other and all(frozenset(p) in same for p in between):
            joined = own | other
            worlds |= dict.fromkeys(joined, joined)
    order = list(dict.fromkeys(map(frozenset, worlds.values())))
    return [order.index(frozenset(world)) for world in worlds.values()]


def _is_same(first, second):
    shared = [name for name in first.class_names if name in second.class_names]
    fewest = min(len(first.class_names), len(second.class_names))
    if 2 * len(shared) < fewest:
        return False
    apart = np.subtract(
        *(
            each.means[[each.class_names.index(name) for name in shared]]
            for each in (first, second)
        )
    ).astype("float64")
    common = (first.covariance + second.covariance).astype("float64") / 2
    squared = np.sum(apart * np.linalg.solve(common, apart.T).T, axis=1)
    return bool(np.sqrt(np.median(squared)) < SAME_WORLD)


FIXED = re.compile(
    r"(.+_)?image_+statistics_.*|familiar_classes|"
    r"(.+_)?(whitened|to_means|rows)|log_odds|class_scores"
)


@dataclasses.dataclass(frozen=True, eq=False)
class Evidence:
    """How likely images are among those of every class of the sources.

    Attributes:
        of_classes: Tensor or array `(n, num_columns)`: for each class 0.7 of
            the log-likelihood, without what is the same for all.
        worlds: Index of each source's world.
        columns: For each source the columns of its classes, by name.
    """

    of_classes: keras.KerasTensor | np.ndarray
    worlds: Sequence[int]
    columns: Sequence[Mapping[str, int]]

    def columns_of(self, world: int) -> list[int]:
        """Lists the columns of all classes of a world."""
        return [
            column
            for own, columns in zip(self.worlds, self.columns)
            if own == world
            for column in columns.values()
        ]

    @property
    def of_worlds(self) -> np.ndarray:
        """How likely images are among those of every world, of arrays."""
        each = [
            np.logaddexp.reduce(self.of_classes[:, self.columns_of(w)], axis=1)
            for w in range(max(self.worlds) + 1)
        ]
        return np.stack(each, axis=1)


def add_evidence(
    statistics: keras.KerasTensor,
    familiarities: Sequence[Familiarity],
    worlds: Sequence[int],
    shape: tuple[int, ...],
) -> Evidence:
    """Adds how likely an image is among those of every class.

    Each class of each source is a normal distribution of image statistics
    around its mean, with one covariance: the mean of the sources'.

    Args:
        statistics: Tensor `(batch, size)`, what `statistics_model` answers.
        familiarities: Those of the sources.
        worlds: Index of each source's world.
        shape: Height, width and channels of the images. Of grey ones only
            what grey images have is compared.

    Returns:
        The `Evidence`, of tensors.

    Reference:

    - Fisher, 1936, "The use of multiple measurements in taxonomic problems".
    """
    weights, bias = _discriminant(familiarities, is_known(shape))
    of_class = np.repeat(worlds, [len(each.means) for each in familiarities])
    # Each of a world's sources has an equal share in it.
    bias -= np.log(np.bincount(worlds))[of_class]
    classes = _fixed_dense(statistics, weights, bias, "familiar_classes")
    places = itertools.count()
    columns = [
        {name: next(places) for name in each.class_names}
        for each in familiarities
    ]
    return Evidence(classes, worlds, columns)


def add_unfamiliarity(
    statistics: keras.KerasTensor,
    familiarities: Sequence[Familiarity],
    shape: tuple[int, ...],
    rejected: float,
) -> keras.KerasTensor:
    """Adds how much less familiar an image is than a source's own.

    Args:
        statistics: As for `add_evidence`.
        familiarities: Those of the sources.
        shape: As for `add_evidence`.
        rejected: Share of a source's own images that may count as unfamiliar.

    Returns:
        Tensor `(batch, 1)`, above 0 if the image is further from every source
        than all but that share of its own images; in standard deviations of
        their distances.
    """
    known = is_known(shape)
    each = [
        _excess(statistics, familiarity, known, rejected, number)
        for number, familiarity in enumerate(familiarities)
    ]
    if len(each) == 1:
        return each[0]
    return layers.Minimum(name="unfamiliarity", dtype="float32")(each)


def route(
    log_odds: keras.KerasTensor,
    name: str,
    *,
    evidence: Evidence,
    modules: Sequence[tuple[int, str]],
) -> keras.KerasTensor:
    """Makes the scores of modules comparable across worlds.

    A module's log-odds say how likely its class is among the images of its
    world, so they become the logarithm of that probability, where no class
    of the world that is not composed counts as one more. To this the evidence
    for the world and the class is added.

    Args:
        log_odds: Tensor `(batch, num_modules)`.
        name: Name of the last layer.
        evidence: The evidence, of tensors.
        modules: Of each module the index of its source, and its class.

    Returns:
        Tensor `(batch, num_modules)`.
    """
    worlds = [evidence.worlds[source] for source, _ in modules]
    num_worlds, count = max(evidence.worlds) + 1, len(modules)
    scores = layers.Concatenate(name=f"{name}_scores", dtype="float32")(
        [log_odds, evidence.of_classes]
    )
    # What is added up, as odds: 1 and those of each world's modules, and
    # those of each world's classes.
    claims = [
        [None, *(n for n, own in enumerate(worlds) if own == world)]
        for world in range(num_worlds)
    ]
    likely = [
        [count + column for column in evidence.columns_of(world)]
        for world in range(num_worlds)
    ]
    shares, firsts = _log_shares(scores, [*claims, *likely], name)
    terms = layers.Concatenate(name=f"{name}_terms", dtype="float32")(
        [scores, shares]
    )
    # A sum is its first term, less the logarithm of that term's share.
    weights = np.zeros((terms.shape[-1], count))
    shares_from = scores.shape[-1]
    for number, (world, (source, class_name)) in enumerate(
        zip(worlds, modules)
    ):
        own = evidence.columns[source].get(class_name)
        of_class = 0.0 if own is None else CLASS_SHARE
        weights[number, number] = 1
        weights[shares_from + firsts[world], number] = 1 - LEAK
        weights[likely[world][0], number] += 1 - of_class
        last = shares_from + firsts[num_worlds + world]
        weights[last, number] = of_class - 1
        if own is not None:
            weights[count + own, number] += of_class
    return _fixed_dense(terms, weights, np.zeros(count), name)


def _log_shares(scores, rows, name):
    """Takes the log-softmax of each row of scores.

    Args:
        scores: Tensor `(batch, num_scores)`.
        rows: Columns of the scores in each row, `None` for a score of 0.
        name: Prefix of the layers' names.

    Returns:
        The logarithms, rows behind each other and shorter ones filled up, and
        where each row begins.
    """
    longest = max(map(len, rows))
    weights = np.zeros((scores.shape[-1], len(rows), longest))
    bias = np.full((len(rows), longest), NO_COLUMN)
    for number, row in enumerate(rows):
        bias[number, : len(row)] = 0
        for place, column in enumerate(row):
            if column is not None:
                weights[column, number, place] = 1
    picked = _fixed_dense(
        scores,
        weights.reshape(scores.shape[-1], -1),
        bias.ravel(),
        f"{name}_rows",
    )
    shares = keras.ops.log_softmax(keras.ops.reshape(picked, (-1, *bias.shape)))
    firsts = [number * longest for number in range(len(rows))]
    return keras.ops.reshape(shares, (-1, bias.size)), firsts


def evidence_of(
    images: np.ndarray,
    contract: InputContract,
    familiarities: Sequence[Familiarity],
    worlds: Sequence[int],
) -> Evidence:
    """Measures how likely images are among those of every world and class.

    Args:
        images: Array `(n, height, width, channels)`.
        contract: What they are.
        familiarities: Those of the sources.
        worlds: Index of each source's world.

    Returns:
        The `Evidence`, of float32 arrays.
    """
    measured = statistics_model(contract)
    evidence = add_evidence(
        measured.output, familiarities, worlds, contract.shape
    )
    model = keras.Model(measured.input, evidence.of_classes)
    return dataclasses.replace(evidence, of_classes=predict(model, images))


def routed_scores(
    log_odds: np.ndarray,
    evidence: Evidence,
    modules: Sequence[tuple[int, str]],
) -> np.ndarray:
    """Does what `route` does, on arrays."""
    arrays = [log_odds, evidence.of_classes]
    inputs = [keras.Input(values.shape[1:]) for values in arrays]
    given = dataclasses.replace(evidence, of_classes=inputs[1])
    scores = route(inputs[0], "routed", evidence=given, modules=modules)
    return keras.ops.convert_to_numpy(keras.Model(inputs, scores)(arrays))


def _discriminant(familiarities, known):
    means = np.concatenate([each.means for each in familiarities])
    means = means.astype("float64")[:, known]
    common = np.mean([each.covariance for each in familiarities], axis=0)
    common = common[np.ix_(known, known)].astype("float64")
    # Around their middle, numbers are small and float32 loses least.
    middle = means.mean(axis=0)
    centred = means - middle
    slopes = TEMPERATURE * np.linalg.solve(common, centred.T)
    bias = -0.5 * np.sum(slopes * centred.T, axis=0) - middle @ slopes
    weights = np.zeros((len(known), len(means)))
    weights[known] = slopes
    return weights, bias


def _excess(statistics, familiarity, known, rejected, number):
    """Builds a source's distance to the nearest class, from its threshold."""
    covariance = familiarity.covariance[np.ix_(known, known)]
    root = np.linalg.cholesky(np.linalg.inv(covariance.astype("float64")))
    means = familiarity.means[:, known].astype("float64")
    middle = means.mean(axis=0)
    weights = np.zeros((len(known), known.sum()))
    weights[known] = root
    name = f"source{number}"
    whitened = _fixed_dense(
        statistics, weights, -middle @ root, f"{name}_whitened"
    )
    centres = (means - middle) @ root
    to_means = _fixed_dense(
        whitened,
        -2 * centres.T,
        np.sum(centres**2, axis=1),
        f"{name}_to_means",
    )
    nearest = keras.ops.min(to_means, axis=-1, keepdims=True)
    length = keras.ops.sum(keras.ops.square(whitened), axis=-1, keepdims=True)
    distance = keras.ops.sqrt(keras.ops.relu(length + nearest))
    threshold, spread = familiarity.threshold(rejected), familiarity.spread
    return layers.Rescaling(
        1 / spread, -threshold / spread, name=f"{name}_excess", dtype="float32"
    )(distance)


def is_fixed(name: str) -> bool:
    """Tells by its name whether a composition's layer must stay as it is.

    Those are what measures images and what tells sources apart by it; a store
    keeps no other mark of them.

    Args:
        name: Name of the layer, as `rebuild` gives it.
    """
    return FIXED.fullmatch(name) is not None


def routing_layers(model: keras.Model) -> list[str]:
    """Names the layers that tell sources apart, none if nothing does.

    Their scores reach further than eight bits tell apart.

    Args:
        model: A composed model.
    """
    found = [layer.name for layer in model.layers if is_fixed(layer.name)]
    return found if {*found} - {"log_odds", "class_scores"} else []


def _fixed_dense(x, weights, bias, name):
    """Applies a linear layer that no training changes."""
    dense = layers.Dense(
        weights.shape[1],
        name=name,
        trainable=False,
        dtype="float32",
    )
    result = dense(x)
    dense.set_weights([weights, bias])
    return result
