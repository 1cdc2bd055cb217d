"""Chooses, class by class, the modules of a new model among several stores."""

import collections
import dataclasses
import functools
import itertools
import math
from collections.abc import Callable
from collections.abc import Hashable
from collections.abc import Iterable
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any
from typing import TypeVar

import keras
import numpy as np

from kmod.composition.plain_ways import PlainWay
from kmod.composition.routing import Evidence
from kmod.composition.routing import evidence_of
from kmod.composition.routing import group_worlds
from kmod.composition.routing import routed_scores
from kmod.composition.scoring import join
from kmod.composition.scoring import line_of
from kmod.data.image_data import LabelledImages
from kmod.errors import ArtifactError
from kmod.errors import CheckError
from kmod.errors import UsageError
from kmod.files import short_names
from kmod.graph.sharing import merge_models
from kmod.graph.sizes import Sizes
from kmod.graph.sizes import model_sizes
from kmod.metrics.calibration import PENALTY
from kmod.metrics.calibration import PENALTY_OF_CHANGE
from kmod.metrics.calibration import best_likelihood
from kmod.metrics.calibration import fit_scores
from kmod.metrics.calibration import folds
from kmod.metrics.comparison import is_as_good
from kmod.metrics.evaluate import Evaluation
from kmod.metrics.evaluate import evaluate_answers
from kmod.metrics.evaluate import roc_auc
from kmod.modules.adaptation import adapt_images
from kmod.modules.cut import log_odds_model
from kmod.modules.manifest import InputContract
from kmod.modules.module_store import ModuleStore
from kmod.patching.donors import Donor
from kmod.patching.donors import adapted_part
from kmod.patching.donors import module_answers
from kmod.selection.plain_ways import most_modules
from kmod.selection.plain_ways import plain_ways

MAX_ROUNDS = 5
FINALISTS = 3
# Auxiliary modules of the largest weights, where all are above a budget.
FEW = (1, 4, 16)

Key = TypeVar("Key", bound=Hashable)


@dataclasses.dataclass(frozen=True, eq=False)
class ChoiceOption:
    """A model that modules of the classes make with some auxiliary ones.

    Attributes:
        chosen: For every class the index of its module's store.
        auxiliary: The auxiliary modules, as the index of a store and a class.
        familiarity: Whether familiarity tells apart which source an image is
            of.
        sizes: Parameters, multiply-accumulates and kernels of all modules,
            what they share counted once.
        expected: What the model gets right of images like these: each was
            answered by modules and a layer that were chosen and fitted
            without it. `None` where a class has a single image.
    """

    chosen: Mapping[str, int]
    auxiliary: tuple[tuple[int, str], ...]
    familiarity: bool
    sizes: Sizes
    expected: Evaluation | None

    def as_dict(self) -> dict[str, Any]:
        """Returns plain data for JSON."""
        found = {
            "auxiliary": len(self.auxiliary),
            "familiarity": self.familiarity,
            "parameters": self.sizes.parameters,
            "macs": self.sizes.macs,
        }
        if self.expected is not None:
            found["accuracy"] = self.expected.accuracy
            interval = self.expected.accuracy_interval()
            found["accuracy_interval"] = list(interval)
        return found


@dataclasses.dataclass(frozen=True, eq=False)
class ModuleChoice:
    """Which modules answer for each class, and what else there was.

    Attributes:
        stores: The stores, as they were given.
        chosen: For every class the index of its module's store.
        roc_auc: For every class, by the indices of stores that have it, the
            area under the ROC curve of their module, 0 to 1: the chance that
            it scores an image of the class higher than another.
        num_images: How many labelled images the choice was made on.
        familiarity: Whether familiarity tells apart which source an image is
            of, where there are several that hold one.
        f1: What `roc_auc` has, of a choice without images: F1 of each module
            on its source's own held-out images, as its store says.
        auxiliary: Further modules that help to tell the classes apart, as the
            index of a store and a class of it.
        options: What was compared, the smallest model first; none of a choice
            without images.
        plain: What else a user could do, without a composition; none where
            no accuracy can be expected.
        contract: The images that it was made on; `None` without images.
    """

    stores: tuple[ModuleStore, ...]
    chosen: Mapping[str, int]
    roc_auc: Mapping[str, Mapping[int, float]]
    num_images: int
    auxiliary: tuple[tuple[int, str], ...] = ()
    familiarity: bool = True
    f1: Mapping[str, Mapping[int, float]] = dataclasses.field(
        default_factory=dict
    )
    options: tuple[ChoiceOption, ...] = ()
    plain: tuple[PlainWay, ...] = ()
    contract: InputContract | None = None

    @property
    def taken(self) -> ChoiceOption | None:
        """The option that was chosen; `None` of a choice without images."""
        return next(filter(self.is_taken, self.options), None)

    @property
    def expected(self) -> Evaluation | None:
        """What the new model gets right, as its `ChoiceOption` says."""
        return self.taken and self.taken.expected

    @property
    def frontier(self) -> tuple[ChoiceOption | PlainWay, ...]:
        """Options and plain ways that none beats which costs no more."""
        if self.expected is None:
            return ()
        models = [*self.options, *self.plain]
        right = [option.expected.accuracy for option in self.options]
        right += [way.evaluation.accuracy for way in self.plain]
        best = frontier([model.sizes.macs for model in models], right)
        return tuple(models[index] for index in best)

    def name_of(self, model: ChoiceOption | PlainWay) -> str:
        """Returns what an option or a plain way is called in a table.

        Args:
            model: One of `options` or of `plain`.
        """
        paths = [store.place for store in self.stores]
        names = short_names(paths)
        if isinstance(model, ChoiceOption):
            own = dict.fromkeys(model.chosen.values())
            listed = ", ".join(names[paths[index]] for index in own)
            return listed if model.familiarity else f"{listed}, no familiarity"
        own = [names[store.place] for store in model.stores]
        is_all = len(own) == len(paths)
        return model.name if is_all else f"{model.name} ({', '.join(own)})"

    def build(self, option: ChoiceOption) -> keras.Model:
        """Returns the modules of an option as one model, to measure it.

        Args:
            option: One of `options`.

        Returns:
            Functional model, images to the modules' log-odds.
        """
        modules = [*_modules_of(option.chosen), *option.auxiliary]
        contract = self.contract
        return modules_model(self.stores, modules, contract, contract.shape)

    def is_better(self, way: PlainWay) -> bool:
        """Tells whether a plain way is as good as the choice, and smaller.

        Args:
            way: One of `plain`; see `kmod.metrics.comparison.is_as_good`.
        """
        return way.sizes.macs < self.taken.sizes.macs and is_as_good(
            way.evaluation, self.expected.answers
        )

    @property
    def cheaper(self) -> ChoiceOption | None:
        """The cheapest option that is as good as the one that was chosen.

        That is within a standard error, see
        `kmod.metrics.comparison.is_as_good`; `None` if there is none.
        """
        if self.expected is None:
            return None
        as_good = (
            option
            for option in self.options
            if option.sizes.macs < self.taken.sizes.macs
            and is_as_good(option.expected, self.expected.answers)
        )
        return min(as_good, key=lambda each: each.sizes.macs, default=None)

    def is_taken(self, option: ChoiceOption) -> bool:
        """Tells whether an option is what was chosen."""
        taken = self.chosen, self.auxiliary, self.familiarity
        return (option.chosen, option.auxiliary, option.familiarity) == taken

    def as_dict(self) -> dict[str, Any]:
        """Returns plain data for JSON."""
        paths = [store.place for store in self.stores]
        name_of_figure = "roc_auc" if self.roc_auc else "f1"
        figures = self.roc_auc or self.f1
        best = self.frontier
        return {
            "images": self.num_images,
            "familiarity": self.familiarity,
            "classes": {
                name: {
                    "store": paths[index],
                    name_of_figure: figures[name][index],
                    f"{name_of_figure}_by_store": {
                        paths[other]: value
                        for other, value in figures[name].items()
                    },
                }
                for name, index in self.chosen.items()
            },
            "auxiliary": [
                {"store": paths[index], "class": name}
                for index, name in self.auxiliary
            ],
            "expected": self.expected and self.expected.as_dict(),
            "options": [
                {
                    "stores": [paths[i] for i in _stores_of(option.chosen)],
                    **option.as_dict(),
                    "is_taken": self.is_taken(option),
                    "is_on_frontier": option in best,
                }
                for option in self.options
            ],
            "plain": [
                {
                    **way.as_dict(),
                    "is_better": self.is_better(way),
                    "is_on_frontier": way in best,
                }
                for way in self.plain
            ],
        }


def _stores_of(chosen):
    """Returns the indices of the stores that are in, in their order."""
    return sorted(set(chosen.values()))


def choose_modules(
    class_names: Sequence[str],
    stores: Sequence[ModuleStore],
    images: LabelledImages,
    *,
    contract: InputContract | None = None,
    auxiliary: bool = True,
    macs_budget: float | None = None,
    track: Callable[[Sequence[ModuleStore]], Iterable[ModuleStore]] = iter,
) -> ModuleChoice:
    """Chooses the best module for every class of a new model.

    Every module runs once over a few labelled images; see `best_modules` for
    how they are compared. Then other modules may join as auxiliary ones, if
    that makes the truth likelier: those of the model's own classes, or all of
    the stores that are in. `compose` calibrates all of them to each other,
    with `calibration: joint`.

    Args:
        class_names: The classes of the new model, named as in the stores.
        stores: Stores that may have modules of them.
        images: Labelled images, labels in the order of `class_names`; some
            tens of each class do.
        contract: The images, if the stores take others.
        auxiliary: Whether other modules than the classes' own may join.
            Without them the model is smaller.
        macs_budget: Multiply-accumulates for one image that the modules may
            have together. Defaults to no limit.
        track: Wraps the stores, such as in a progress bar.

    Returns:
        The `ModuleChoice`.

    Raises:
        ArtifactError: If no store has a class, or it can not take the images.
        CheckError: If the classes' modules alone are above the budget.
        UsageError: If there are no images of a class, if there is a single
            class or one is named twice, or if the budget is no number above 0.
    """
    check_classes(class_names, stores)
    check_budget(macs_budget)
    _check_shown(class_names, images)
    log_odds = [
        _log_odds(
            store, [c for c in class_names if c in store], images, contract
        )
        for store in track(stores)
    ]
    known = _Worlds(stores, images.images, contract)
    compared = {}
    for worlds in known.with_and_without():
        for own in _selections(stores, class_names):
            scores = worlds.scores(class_names, log_odds, sorted(own))
            candidates = _Candidates.of(
                stores, images, contract, log_odds, scores, worlds
            )
            key = candidates.familiarity, *candidates.chosen.items()
            compared.setdefault(key, candidates)
    options, best = [], []
    for candidates in compared.values():
        groups, few = [()], []
        if auxiliary:
            groups = candidates.groups()
            few = candidates.few(max(groups, key=len))
        own = candidates.options(dict.fromkeys([*groups, *few]))
        options += own
        if macs_budget is not None:
            groups = [
                option.auxiliary
                for option in own
                if option.sizes.macs <= macs_budget
            ]
        if groups:
            further = candidates.likeliest(groups)
            worth = candidates.likelihood(further)
            best.append((worth, candidates, further))
    options.sort(key=lambda each: each.sizes.macs)
    if not best:
        raise CheckError(
            "The modules of the classes alone must be within `macs_budget`. "
            f"Received: {options[0].sizes.macs:,} multiply-accumulates, where "
            f"{macs_budget:,.0f} may be. Raise the budget, or modularize with "
            "a lower `retention_target`."
        )
    candidates, further = _taken(best, options)
    scores = candidates.known.scores(class_names, log_odds, range(len(stores)))
    return ModuleChoice(
        tuple(stores),
        candidates.chosen,
        {
            name: {
                index: roc_auc(own, images.labels == label)
                for index, own in of_class.items()
            }
            for label, (name, of_class) in enumerate(scores.items())
        },
        len(images),
        further,
        familiarity=candidates.familiarity,
        options=tuple(options),
        plain=tuple(candidates.plain()),
        contract=contract or stores[0].manifest.input,
    )


def _taken(best, options):
    """Returns the candidates with which the truth is likeliest.

    Familiarity stays in if that is as good within a standard error: it is
    an answer without labels, so labels tell less of it by chance.
    """

    def expected(found):
        _, candidates, further = found
        wanted = candidates.chosen, further, candidates.familiarity
        return next(
            each.expected
            for each in options
            if (each.chosen, each.auxiliary, each.familiarity) == wanted
        )

    def worth(found):
        return found[0]

    first = max(best, key=worth)
    familiar = [each for each in best if each[1].familiarity]
    if familiar and not first[1].familiarity:
        with_it = max(familiar, key=worth)
        simple, other = expected(with_it), expected(first)
        if simple is not None and is_as_good(simple, other.answers):
            first = with_it
    return first[1:]


def _selections(stores, class_names):
    """Lists from which stores modules are chosen, all of them first.

    Where a source has several stores, such as one of all its kernels and one
    of fewer, its largest ones and its smallest ones are compared as well.
    """
    by_source = {}
    for index, store in enumerate(stores):
        kept = np.mean([store.sizes(name).retention_rate for name in store])
        source = store.manifest.source.digest
        by_source.setdefault(source, []).append((kept, -index))
    selections = [set(range(len(stores)))]
    for pick in (max, min):
        own = {-pick(each)[1] for each in by_source.values()}
        if all(any(c in stores[i] for i in own) for c in class_names):
            selections.append(own)
    return selections


def _log_odds(store, class_names, images, contract):
    adaptation = Donor(store).adaptation(contract)
    modules = [store[name] for name in class_names]
    answers = module_answers(modules, images.images, adaptation)
    return {name: each.log_odds for name, each in zip(class_names, answers)}


def choose_by_figures(
    class_names: Sequence[str], stores: Sequence[ModuleStore]
) -> ModuleChoice:
    """Chooses modules without any image, by what their stores say of them.

    Args:
        class_names: The classes of the new model, named as in the stores.
        stores: Stores that may have modules of them.

    Returns:
        The `ModuleChoice`: for each class the module of the highest F1 on
        the held-out images of its source.

    Raises:
        ArtifactError: If no store has a class.
        UsageError: If there is a single class, or one is named twice.
    """
    check_classes(class_names, stores)
    figures = {
        name: {
            index: store.info(name).metrics.get("f1", 0.0)
            for index, store in enumerate(stores)
            if name in store
        }
        for name in class_names
    }
    chosen = {name: max(own, key=own.get) for name, own in figures.items()}
    return ModuleChoice(tuple(stores), chosen, {}, 0, f1=figures)


@dataclasses.dataclass(frozen=True, eq=False)
class _Worlds:
    """What familiarity says of the images, as `compose` would use it.

    That depends on which stores answer for classes: it counts if these are of
    several sources that all hold one, and of several worlds.

    Attributes:
        stores: The stores.
        images: Array of the images.
        contract: The images, if the stores take others.
        familiarity: Whether it counts if it can.
        found: What is worked out already, by the stores that answer.
    """

    stores: Sequence[ModuleStore]
    images: np.ndarray
    contract: InputContract | None
    familiarity: bool = True
    found: dict[tuple[int, ...], Evidence | None] = dataclasses.field(
        default_factory=dict
    )

    def with_and_without(self):
        """Lists what to compare: familiarity as it is, and left out."""
        own = [
            index
            for index, store in enumerate(self.stores)
            if store.manifest.familiarity is not None
        ]
        if not self.tells_apart(own):
            return [self]
        return [self, dataclasses.replace(self, familiarity=False)]

    def tells_apart(self, indices):
        """Returns whether familiarity could count if these stores answer."""
        return self._evidence(self._sources(indices)) is not None

    def scores(self, class_names, log_odds, indices):
        """Returns what modules of stores say, by class and store."""
        posteriors = self._log_posteriors(indices)
        return {
            name: {
                index: log_odds[index][name] + posteriors[index]
                for index in indices
                if name in log_odds[index]
            }
            for name in class_names
        }

    def start(self, log_odds, modules):
        """Returns the answer that modules give together, if they are routed.

        Args:
            log_odds: Array `(n, num_modules)`.
            modules: Of each the index of its store, and its class.
        """
        sources = self._sources(index for index, _ in modules)
        evidence = self._evidence(sources)
        if evidence is None or not self.familiarity:
            return None
        order = list(sources)
        own = [(order.index(self._digest(i)), name) for i, name in modules]
        return routed_scores(log_odds, evidence, own)

    def _log_posteriors(self, indices):
        """Returns how sure it is that images are of the world of each store."""
        sources = self._sources(indices)
        evidence = self._evidence(sources)
        if evidence is None or not self.familiarity:
            return dict.fromkeys(indices, 0.0)
        of_worlds = evidence.of_worlds
        of_worlds = of_worlds - np.logaddexp.reduce(
            of_worlds, axis=1, keepdims=True
        )
        worlds = dict(zip(sources, evidence.worlds))
        return {i: of_worlds[:, worlds[self._digest(i)]] for i in indices}

    def _digest(self, index):
        return self.stores[index].manifest.source.digest

    def _sources(self, indices):
        """Returns the index of a store of each source, by its digest."""
        found = {}
        for index in indices:
            found.setdefault(self._digest(index), index)
        return found

    def _evidence(self, sources):
        key = tuple(sources.values())
        if key not in self.found:
            self.found[key] = self._measured([self.stores[i] for i in key])
        return self.found[key]

    def _measured(self, stores):
        """Measures the images, as `compose` does for such stores."""
        familiarities = [store.familiarity for store in stores]
        if not stores or None in familiarities:
            return None
        worlds = group_worlds(familiarities)
        if max(worlds) == 0:
            return None
        images, contracts = self.images, {s.manifest.input for s in stores}
        contract = self.contract or stores[0].manifest.input
        if len(contracts) == 1:
            (contract,) = contracts
            adaptation = Donor(stores[0]).adaptation(self.contract)
            images = adapt_images(images, adaptation)
        return evidence_of(images, contract, familiarities, worlds)


@dataclasses.dataclass(frozen=True, eq=False)
class _Candidates:
    """What modules say of labelled images, and what they make together."""

    stores: Sequence[ModuleStore]
    images: LabelledImages
    contract: InputContract | None
    log_odds: list[dict[str, np.ndarray]]
    scores: Mapping[str, Mapping[int, np.ndarray]]
    known: _Worlds
    chosen: Mapping[str, int]

    @classmethod
    def of(cls, stores, images, contract, log_odds, scores, known):
        """Chooses modules by the scores given."""
        best = best_modules(list(scores.values()), images.labels)
        chosen = dict(zip(scores, best))
        return cls(stores, images, contract, log_odds, scores, known, chosen)

    @functools.cached_property
    def familiarity(self):
        """Whether the spec leaves it to familiarity, which may not count."""
        is_left = self.known.familiarity
        return is_left or not self.known.tells_apart(self.chosen.values())

    def groups(self):
        """Lists the groups of auxiliary modules to compare, none first."""
        chosen = self.chosen
        used = _stores_of(chosen)
        whole = auxiliary_options(
            (
                (index, name)
                for index in used
                for name in self.stores[index].class_names
                if chosen.get(name) != index
            ),
            (
                (index, name)
                for index, store in enumerate(self.stores)
                for name in chosen
                if index not in used and name in store
            ),
            lambda module: module[1] in chosen,
            len(self.images),
        )
        wanted = dict.fromkeys(itertools.chain(*whole))
        for index, own in enumerate(self.log_odds):
            names = [n for i, n in wanted if i == index and n not in own]
            store = self.stores[index]
            own |= _log_odds(store, names, self.images, self.contract)
        return whole

    def few(self, modules):
        """Lists the auxiliary modules of the largest weights, a few at most."""
        if not modules:
            return []
        own, more, start = self._inputs(_modules_of(self.chosen), modules)
        layer = self._layer(np.concatenate([own, more], axis=1), start)
        weights = layer[0][len(self.chosen) :] * more.std(axis=0)[:, None]
        order = np.argsort(-np.linalg.norm(weights, axis=1), kind="stable")
        return [
            tuple(modules[index] for index in order[:count])
            for count in FEW
            if count < len(modules)
        ]

    def options(self, groups):
        """Measures what groups of auxiliary modules cost and are worth."""
        groups, modules = list(groups), _modules_of(self.chosen)
        return [
            ChoiceOption(
                self.chosen,
                group,
                self.familiarity,
                self._sizes([*modules, *group]),
                expected,
            )
            for group, expected in zip(
                groups, self._expected(groups), strict=True
            )
        ]

    def likeliest(self, groups):
        """Returns the auxiliary modules with which the truth is likeliest."""
        own, _, start = self._inputs(_modules_of(self.chosen), ())
        return best_auxiliary(
            own,
            {group: self._columns(group) for group in groups},
            self.images.labels,
            start,
        )

    def likelihood(self, group):
        """Returns how likely the truth is, 0 where nothing can be compared."""
        if np.bincount(self.images.labels).min() < 2:
            return 0.0
        own, more, start = self._inputs(_modules_of(self.chosen), group)
        weighed = np.concatenate([own, more], axis=1)
        return best_likelihood(weighed, self.images.labels, start)

    def _columns(self, modules):
        """Returns the log-odds of modules, `(n, num_modules)`."""
        columns = [self.log_odds[index][name] for index, name in modules]
        return np.reshape(columns, (len(columns), len(self.images))).T

    def _inputs(self, modules, auxiliary):
        own = self._columns(modules)
        return own, self._columns(auxiliary), self.known.start(own, modules)

    def _layer(self, weighed, start, rows=slice(None)):
        """Fits the layer of `calibration: joint`, as small as usual."""
        return fit_scores(
            weighed[rows],
            self.images.labels[rows],
            None if start is None else start[rows],
            PENALTY if start is None else PENALTY_OF_CHANGE,
        )

    @functools.cached_property
    def _modules_by_fold(self):
        """Lists folds with the modules chosen on all other images."""
        labels, found = self.images.labels, []
        for fold in folds(labels):
            best = best_modules(
                [
                    {index: values[~fold] for index, values in own.items()}
                    for own in self.scores.values()
                ],
                labels[~fold],
            )
            found.append((fold, list(zip(best, self.scores))))
        return found

    def side_by_side(self):
        """Measures modules as they are, on images they were chosen without."""
        answers = np.empty(len(self.images), "int64")
        for fold, modules in self._modules_by_fold:
            answers[fold] = self._columns(modules)[fold].argmax(axis=1)
        return evaluate_answers(self.images.labels, answers, tuple(self.scores))

    def plain(self):
        """Measures what needs no composition of the modules chosen."""
        if np.bincount(self.images.labels).min() < 2:
            return []
        return plain_ways(
            self.stores,
            {name: [(index, name)] for name, index in self.chosen.items()},
            self.images,
            alone=self.side_by_side(),
            is_compared=any(len(own) > 1 for own in self.scores.values()),
            contract=self.contract,
        )

    def _expected(self, groups):
        """Measures choice and layer on images that they were made without.

        The auxiliary modules stay those of the choice on all images.
        """
        labels, names = self.images.labels, tuple(self.scores)
        if np.bincount(labels).min() < 2:
            return [None] * len(groups)
        answers = np.empty((len(groups), len(labels)), "int64")
        for fold, modules in self._modules_by_fold:
            for number, group in enumerate(groups):
                own, more, start = self._inputs(modules, group)
                weighed = np.concatenate([own, more], axis=1)
                weights, bias = self._layer(weighed, start, ~fold)
                found = weighed[fold] @ weights + bias
                if start is not None:
                    found = found + start[fold]
                answers[number, fold] = found.argmax(axis=1)
        return [evaluate_answers(labels, each, names) for each in answers]

    def _sizes(self, modules):
        """Measures modules together, what they share counted once."""
        shape = self.images.images.shape[1:]
        return model_sizes(
            modules_model(self.stores, modules, self.contract, shape)
        )


def modules_model(
    stores: Sequence[ModuleStore],
    modules: Sequence[tuple[int, str]],
    contract: InputContract | None,
    shape: tuple[int, ...],
) -> keras.Model:
    """Builds modules as one model, what they share once.

    Args:
        stores: The stores.
        modules: Of each module the index of its store, and its class.
        contract: The images, if the stores take others.
        shape: Height, width and channels of the images.

    Returns:
        Functional model, images to the log-odds `(batch, num_modules)`.
    """
    own = keras.Input(shape, dtype="float32")
    image, outputs = merge_models(
        (
            f"module{number}",
            adapted_part(stores[index], name, log_odds_model, contract, own),
        )
        for number, (index, name) in enumerate(modules)
    )
    return keras.Model(image, join(list(outputs.values()), "modules"))


def frontier(macs: Sequence[float], figures: Sequence[float]) -> list[int]:
    """Finds what nothing beats that costs no more.

    Args:
        macs: What each model costs.
        figures: How good it is.

    Returns:
        Their indices, the cheapest first, each better than those before.
    """
    order = sorted(range(len(macs)), key=lambda i: (macs[i], -figures[i]))
    found, best = [], -math.inf
    for index in order:
        if figures[index] > best:
            found.append(index)
            best = figures[index]
    return found


def _modules_of(chosen):
    return [(index, name) for name, index in chosen.items()]


def best_modules(
    scores: Sequence[Mapping[Key, np.ndarray]], labels: np.ndarray
) -> list[Key]:
    """Chooses one module for each class by what the modules say of images.

    Each class first takes the module of the highest ROC AUC. Then classes
    take others of their `FINALISTS` best ones, one at a time, as long as the
    truth becomes likelier by the softmax of all, where every module is
    calibrated on other images, which takes two of each class.

    Args:
        scores: For every class the scores `(n,)` of its modules, by key.
        labels: int64 array `(n,)` of class indices.

    Returns:
        The key chosen for each class.
    """
    best_first = [
        sorted(own, key=lambda key: -roc_auc(own[key], labels == label))
        for label, own in enumerate(scores)
    ]
    chosen = [keys[0] for keys in best_first]
    if np.bincount(labels).min() < 2:  # Nothing could be calibrated on others.
        return chosen
    fitted = [
        {
            key: _cross_fitted(scores[label][key], labels == label)
            for key in keys[:FINALISTS]
        }
        for label, keys in enumerate(best_first)
    ]
    best = _softmax_likelihood(fitted, chosen, labels)
    for _ in range(MAX_ROUNDS):
        before = list(chosen)
        for label, own in enumerate(fitted):
            for key in own:
                tried = [*chosen[:label], key, *chosen[label + 1 :]]
                value = _softmax_likelihood(fitted, tried, labels)
                if value > best:
                    chosen, best = tried, value
        if chosen == before:
            break
    return chosen


def _cross_fitted(scores, is_class):
    """Returns log-odds, each by a line that was fitted without its image."""
    log_odds = np.empty(len(scores))
    for fold in folds(is_class.astype("int64")):
        scale, shift = line_of(scores[~fold], is_class[~fold])
        log_odds[fold] = scale * scores[fold] + shift
    return log_odds


def _softmax_likelihood(fitted, chosen, labels):
    """Returns the mean log-probability of the true classes."""
    scores = np.stack([own[key] for own, key in zip(fitted, chosen)], axis=1)
    own = scores[np.arange(len(labels)), labels]
    return float(np.mean(own - np.logaddexp.reduce(scores, axis=1)))


def auxiliary_options(
    modules: Iterable[Key],
    elsewhere: Iterable[Key],
    is_known: Callable[[Key], bool],
    num_images: int,
) -> list[tuple[Key, ...]]:
    """Lists the groups of auxiliary modules that a choice may have.

    That is none, known classes of the stores that are in, all modules of
    these stores, and known classes of all stores.

    Args:
        modules: All other modules of the stores that are in.
        elsewhere: Modules of known classes in the other stores.
        is_known: Whether a module's class is one of the new model's.
        num_images: How many labelled images tell what is best.

    Returns:
        Different groups of modules, none first, none of more than
        `most_modules`.
    """
    most = most_modules(num_images)
    every = tuple(modules)
    known = tuple(filter(is_known, every))
    groups = dict.fromkeys(((), known, every, (*known, *elsewhere)))
    return [group for group in groups if len(group) <= most]


def best_auxiliary(
    scores: np.ndarray,
    options: Mapping[Key, np.ndarray],
    labels: np.ndarray,
    start: np.ndarray | None = None,
) -> Key:
    """Chooses the auxiliary scores with which the truth is likeliest.

    Each option is weighed together with the classes' own scores by the layer
    of `calibration: joint`, fitted on other images than it is judged on.

    Args:
        scores: Log-odds `(n, num_classes)` of the classes' own modules.
        options: Log-odds `(n, k)` of auxiliary modules, by key; `k` may be 0.
            Of equally good ones the first counts.
        labels: int64 array `(n,)` of class indices. Where a class has a single
            image, nothing can be compared, and the first option counts.
        start: Scores `(n, num_classes)` that the layer goes on from, where
            familiarity gives an answer without labels. Defaults to none.

    Returns:
        The key of the best option.
    """
    if np.bincount(labels).min() < 2:
        return next(iter(options))
    return max(
        options,
        key=lambda key: best_likelihood(
            np.concatenate([scores, options[key]], axis=1), labels, start
        ),
    )


def check_classes(
    class_names: Sequence[str], stores: Sequence[ModuleStore]
) -> None:
    """Refuses classes that stores have no modules of, and no new model has.

    Raises:
        ArtifactError: If no store has a class.
        UsageError: If there is a single class, or one is named twice.
    """
    counts = collections.Counter(class_names)
    repeated = [name for name in counts if counts[name] > 1]
    if repeated:
        raise UsageError(
            "The classes of a new model must be different. Received: "
            f"{repeated} more than once. Name each class once."
        )
    missing = [
        name
        for name in class_names
        if not any(name in store for store in stores)
    ]
    if missing:
        raise ArtifactError(
            "Every class must be one of a store's, of the same name. "
            f"Received: {missing}, which none of "
            f"{[store.place for store in stores]} has. They have "
            f"{sorted({name for store in stores for name in store})}."
        )
    if len(class_names) < 2:
        raise UsageError(
            "A new model has at least two classes. Received: "
            f"{list(class_names)}. Name another one."
        )


def check_budget(macs_budget: float | None) -> None:
    """Refuses a budget that no model can be held against.

    Raises:
        UsageError: If it is no number above 0.
    """
    if macs_budget is not None and not macs_budget > 0:
        raise UsageError(
            "`macs_budget` must be above 0, in multiply-accumulates of one "
            f"image. Received: macs_budget={macs_budget}. Leave it out to "
            "have no limit."
        )


def _check_shown(class_names, images):
    without = set(range(len(class_names))) - set(images.labels.tolist())
    if without:
        raise UsageError(
            "Modules are chosen on labelled images of every class. Received: "
            f"none of {[class_names[index] for index in sorted(without)]}. "
            "Give data sets that show them."
        )
