"""What a user would do in place of a choice, measured on the same images."""

import dataclasses
from collections.abc import Mapping
from collections.abc import Sequence

import keras

from kmod.composition.composition_manifest import CompositionManifest
from kmod.composition.plain_ways import PlainWay
from kmod.composition.plain_ways import PlannedWay
from kmod.composition.plain_ways import as_it_is
from kmod.composition.plain_ways import fit_ways
from kmod.composition.plain_ways import taken_model
from kmod.composition.plan import ALL_CLASSES
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


def plain_ways(
    stores: Sequence[ModuleStore],
    chosen: Mapping[str, int],
    alone: Evaluation,
    is_compared: bool,
    images: LabelledImages,
    *,
    contract: InputContract | None = None,
    most: int,
) -> list[PlainWay]:
    """Tries what needs no composition, on the images of a choice.

    - `side by side`: the modules chosen, the highest of their scores wins.
    - `best source with a new last layer`: a multinomial logistic regression
      on what the last layers of a store's modules take, of the store that
      does best.
    - `regression on all features`: the same, of all stores together.

    Args:
        stores: The stores.
        chosen: For every class of the new model the index of its module's
            store.
        alone: What modules get right side by side, each image answered by
            those that were chosen without it.
        is_compared: Whether labels told which modules are best, of several.
        images: Labelled images, labels in the order of `chosen`.
        contract: The images, if the stores take others.
        most: How many modules of a store may be in its features; of a store
            of more it is those of the new model's classes.

    Returns:
        The ways that there are, in this order; see `fit_ways`.
    """
    own = keras.Input(images.images.shape[1:], dtype="float32")

    def part(build, index, name):
        return adapted_part(stores[index], name, build, contract, own)

    shown = [
        (index, name)
        for index, store in enumerate(stores)
        for name in (store if len(store) <= most else chosen)
        if name in store
    ]
    answering = [(index, name) for name, index in chosen.items()]
    parts = [
        *(
            (f"module{n}", part(log_odds_model, *m))
            for n, m in enumerate(answering)
        ),
        *(
            (f"features{n}", part(features_model, *m))
            for n, m in enumerate(shown)
        ),
    ]
    image, outputs = merge_models(parts)
    scores = [outputs[f"module{number}"] for number in range(len(answering))]
    features = {m: outputs[f"features{n}"] for n, m in enumerate(shown)}
    sources = sorted({index for index, _ in shown})
    planned = {
        SIDE_BY_SIDE: [
            PlannedWay(
                join(scores, "own_scores"),
                as_it_is,
                [(name, stores[index], name) for index, name in answering],
                alone,
                takes_labels=is_compared,
            )
        ],
        NEW_LAYER: [
            _regression(stores, [m for m in shown if m[0] == index], features)
            for index in sources
        ],
    }
    if len(sources) > 1:
        planned[ALL_FEATURES] = [_regression(stores, shown, features)]
    names = tuple(chosen)
    return fit_ways(image, planned, images.images, images.labels, names)


def take_way(way: PlainWay, name: str, contract: InputContract) -> keras.Model:
    """Returns the model of a way as `kmod.save` takes it.

    Args:
        way: The way.
        name: Name of the new model.
        contract: What images it takes.
    """
    dtype = str(way.model.input.dtype)
    manifest = CompositionManifest(
        f"{name}-{way.key}",
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
