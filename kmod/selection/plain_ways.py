"""What a user would do in place of a composition, measured beside it."""

import dataclasses
from collections.abc import Mapping
from collections.abc import Sequence

import keras

from kmod.composition.composition_manifest import CompositionManifest
from kmod.composition.composition_manifest import fitting_name
from kmod.composition.plain_ways import PlainWay
from kmod.composition.plain_ways import PlannedWay
from kmod.composition.plain_ways import as_it_is
from kmod.composition.plain_ways import evaluate_ways
from kmod.composition.plain_ways import fit_ways
from kmod.composition.plain_ways import taken_model
from kmod.composition.plan import ALL_CLASSES
from kmod.composition.plan import CompositionPlan
from kmod.composition.scoring import join
from kmod.data.image_data import LabelledImages
from kmod.files import slug
from kmod.graph.sharing import merge_models
from kmod.metrics.evaluate import Evaluation
from kmod.modules.cut import features_model
from kmod.modules.cut import log_odds_model
from kmod.modules.manifest import InputContract
from kmod.modules.module_store import ModuleStore
from kmod.patching.donors import adapted_part

SIDE_BY_SIDE = "side by side"
NEW_LAYER = "best source with a new last layer"
ALL_FEATURES = "regression on all features"
WAYS = tuple(map(slug, (SIDE_BY_SIDE, NEW_LAYER, ALL_FEATURES)))
# Some tens of images can not tell what more scores than that are worth; many
# can, if there are ten for each score.
MOST_MODULES = 40
IMAGES_PER_SCORE = 10


def most_modules(num_images: int) -> int:
    """Returns of how many modules images can tell what they are worth."""
    return max(MOST_MODULES, num_images // IMAGES_PER_SCORE)


def plain_ways(
    stores: Sequence[ModuleStore],
    answering: Mapping[str, Sequence[tuple[int, str]]],
    images: LabelledImages,
    *,
    alone: Evaluation | None = None,
    is_compared: bool = False,
    is_fitted: bool = True,
    contract: InputContract | None = None,
) -> list[PlainWay]:
    """Tries what needs no composition, on labelled images.

    - `side by side`: the modules as they are, the highest of their scores
      wins.
    - `best source with a new last layer`: a multinomial logistic regression
      on what the last layers of a store's modules take, of the store that
      does best.
    - `regression on all features`: the same, of all stores together.

    Features are those of all modules of a store, or of the new model's classes
    where it has more than `most_modules`.

    Args:
        stores: The stores.
        answering: For every class of the new model its modules, of which any
            may recognise it: the index of the store, and the class there.
        images: Labelled images, labels in the order of `answering`.
        alone: What modules get right side by side, each image answered by
            those that were chosen without it. Defaults to what these do.
        is_compared: Whether labels told which modules are best, of several.
        is_fitted: Whether labels may be fitted on; otherwise there is `side
            by side` alone.
        contract: The images, if the stores take others.

    Returns:
        The ways that there are, in this order; see `fit_ways`.
    """
    own = keras.Input(images.images.shape[1:], dtype="float32")
    most = most_modules(len(images))

    def part(build, index, name):
        return adapted_part(stores[index], name, build, contract, own)

    modules = list(dict.fromkeys(m for own in answering.values() for m in own))
    wanted = {name for _, name in modules}
    shown = [
        (index, name)
        for index, store in enumerate(stores)
        for name in store
        if len(store) <= most or name in wanted
    ]
    parts = [
        *(
            (f"module{n}", part(log_odds_model, *m))
            for n, m in enumerate(modules)
        ),
        *(
            (f"features{n}", part(features_model, *m))
            for n, m in enumerate(shown)
        ),
    ]
    image, outputs = merge_models(parts)
    features = {m: outputs[f"features{n}"] for n, m in enumerate(shown)}
    sources = sorted({index for index, _ in shown})

    def score_of(own):
        found = [outputs[f"module{modules.index(m)}"] for m in own]
        return keras.layers.Maximum()(found) if found[1:] else found[0]

    planned = {
        SIDE_BY_SIDE: [
            PlannedWay(
                join(list(map(score_of, answering.values())), "own_scores"),
                as_it_is,
                [
                    (name, stores[index], module)
                    for name, own in answering.items()
                    for index, module in own
                ],
                alone,
                takes_labels=is_compared,
            )
        ],
    }
    if is_fitted:
        planned[NEW_LAYER] = [
            _regression(stores, [m for m in shown if m[0] == index], features)
            for index in sources
        ]
    if is_fitted and len(sources) > 1:
        planned[ALL_FEATURES] = [_regression(stores, shown, features)]
    names = tuple(answering)
    return fit_ways(image, planned, images.images, images.labels, names)


def ways_beside(
    planned: CompositionPlan,
    images: LabelledImages | None,
    test: LabelledImages,
) -> list[tuple[PlainWay, Evaluation]]:
    """Measures what a user could do in place of a composition.

    Args:
        planned: The plan of a spec of `classes`.
        images: Labelled images that ways are fitted on, as the composition
            is; `None` if that takes none. Then there is `side by side` alone.
        test: Images that none is fitted on; labels of both are in the order
            of the classes.

    Returns:
        The ways, and what they get right of the test images.
    """
    ids = list(planned.stores)
    ways = plain_ways(
        list(planned.stores.values()),
        {
            each.name: [
                (ids.index(m.ref.store), m.ref.class_name) for m in each.modules
            ]
            for each in planned.classes
        },
        test if images is None else images,
        is_fitted=images is not None,
        contract=planned.input,
    )
    return list(zip(ways, evaluate_ways(ways, test.images, test.labels)))


def take_way(way: PlainWay, name: str, contract: InputContract) -> keras.Model:
    """Returns the model of a way as `kmod.save` takes it.

    Args:
        way: The way.
        name: Name of the new model.
        contract: What images it takes.
    """
    dtype = str(way.model.input.dtype)
    manifest = CompositionManifest(
        fitting_name(name, f"-{way.key}"),
        way.evaluation.class_names,
        dataclasses.replace(contract, dtype=dtype),
        None,
        (),
    )
    return taken_model(way, manifest)


def _regression(stores, modules, features):
    """Plans a regression on the features of modules, each tensor once."""
    distinct = {id(features[m]): m for m in reversed(modules)}
    modules = sorted(distinct.values(), key=modules.index)
    tensors = [features[m] for m in modules]
    name = "_".join(map(str, sorted({index for index, _ in modules})))
    return PlannedWay(
        join(tensors, f"features_of_{name}") if tensors[1:] else tensors[0],
        modules=[(ALL_CLASSES, stores[index], name) for index, name in modules],
    )
