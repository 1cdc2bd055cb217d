import dataclasses
import re

import keras
import numpy as np
import pytest

from kmod.data.subsets import class_subset
from kmod.graph import channel_graph
from kmod.graph import rebuild
from kmod.graph.sizes import model_sizes
from kmod.metrics.evaluate import evaluate
from kmod.metrics.evaluate import evaluate_answers
from kmod.modular.modular_model import ModularModel
from kmod.modules.decompose import decompose
from kmod.modules.from_model import modules_from_model
from kmod.selection.module_choice import choose_modules
from kmod.selection.module_choice import frontier
from kmod.selection.plain_ways import ALL_FEATURES
from kmod.selection.plain_ways import NEW_LAYER
from kmod.selection.plain_ways import SIDE_BY_SIDE
from kmod.selection.plain_ways import plain_ways

CLASSES = ("9", "3")


def by_name(choice):
    return {way.name: way for way in choice.plain}


@pytest.fixture(scope="module")
def few(digits):
    return class_subset(digits.validation, [2, 0])


@pytest.fixture(scope="module")
def test(digits):
    return class_subset(digits.test, [2, 0])


@pytest.fixture(scope="module")
def choice(poor, donor, few):
    return choose_modules(CLASSES, [poor, donor], few)


@pytest.fixture(scope="module")
def imported(strong, digits, tmp_path_factory):
    """The strong model as it is."""
    path = tmp_path_factory.mktemp("imported") / "store"
    data = digits.validation.images, digits.validation.labels
    names = digits.class_names
    return modules_from_model(strong, path, data=data, class_names=names)


def test_models_do_on_test_images_what_was_measured(choice, test):
    ways = by_name(choice)
    assert list(ways) == [SIDE_BY_SIDE, NEW_LAYER, ALL_FEATURES]
    for way in ways.values():
        found = evaluate(way.model, test, CLASSES)
        assert found.accuracy == pytest.approx(
            way.evaluation.accuracy, abs=0.08
        )
        laid_out = evaluate(way.laid_out, test, CLASSES)
        np.testing.assert_array_equal(laid_out.confusion, found.confusion)


def test_the_source_that_does_best_gets_the_new_layer(choice, donor):
    way = by_name(choice)[NEW_LAYER]
    assert way.stores == (donor,)
    (name,) = re.findall(r" \((.*)\)$", choice.name_of(way))
    assert str(donor.path).endswith(name)
    assert way.evaluation.accuracy > 0.9


def test_highest_score_wins_side_by_side(choice, donor, test):
    way = by_name(choice)[SIDE_BY_SIDE]
    scores = np.column_stack(
        [
            donor[name].model.predict(test.images, verbose=0)[:, 0]
            for name in CLASSES
        ]
    )
    answers = way.model.predict(test.images, verbose=0).argmax(axis=1)
    assert np.mean(answers == scores.argmax(axis=1)) > 0.98
    assert [(each, name) for each, _, name in way.modules] == [
        (name, name) for name in CLASSES
    ]


def test_any_of_the_modules_of_a_class_may_recognise_it(donor, few):
    """Class 0 is both 9 and 3, which are 0 and 1 of the images."""
    images = type(few)(few.images, np.zeros_like(few.labels))
    answering = {"9 or 3": [(0, "9"), (0, "3")], "8": [(0, "8")]}
    (way,) = plain_ways([donor], answering, images, is_fitted=False)
    assert (way.name, way.num_labelled) == (SIDE_BY_SIDE, 0)
    assert [name for _, _, name in way.modules] == ["9", "3", "8"]
    assert way.evaluation.accuracy > 0.9
    apart = {"9": [(0, "9")], "8": [(0, "8")]}
    (way,) = plain_ways([donor], apart, images, is_fitted=False)
    assert way.evaluation.accuracy < 0.9


def test_large_stores_have_features_of_the_new_classes_alone(
    poor, donor, few, monkeypatch
):
    """Those of stores that answer for no class included."""
    monkeypatch.setattr("kmod.selection.plain_ways.MOST_MODULES", 2)
    monkeypatch.setattr("kmod.selection.plain_ways.IMAGES_PER_SCORE", 1000)
    answering = {name: [(1, name)] for name in CLASSES}
    *_, way = plain_ways([poor, donor], answering, few)
    assert way.name == ALL_FEATURES
    assert set(way.stores) == {poor, donor}
    assert {name for _, _, name in way.modules} <= {*CLASSES}


def test_labels_count_where_they_are_used(choice, donor, few):
    """Of several stores, labels tell which module is best."""
    counts = [way.num_labelled for way in choice.plain]
    assert counts == [len(few)] * 3
    alone = by_name(choose_modules(CLASSES, [donor], few))
    assert alone[SIDE_BY_SIDE].num_labelled == 0
    assert alone[NEW_LAYER].num_labelled == len(few)
    assert ALL_FEATURES not in alone


def test_labels_that_say_nothing_promise_nothing(donor, few):
    labels = np.random.default_rng(0).permutation(few.labels)
    guessed = type(few)(few.images, labels)
    for way in choose_modules(CLASSES, [donor], guessed).plain:
        assert way.evaluation.accuracy < 0.75


def test_what_modules_share_counts_once(imported, strong, few):
    choice = choose_modules(CLASSES, [imported], few)
    way = by_name(choice)[NEW_LAYER]
    source = model_sizes(rebuild(channel_graph(strong))).macs
    pooled = strong.get_layer("pool").output.shape[-1]
    assert way.sizes.macs == source - 3 * pooled + 2 * pooled
    assert len(way.modules) == 1  # All of them have these features.


@pytest.mark.long
def test_sources_may_take_other_images(strong, donor, poor, few, tmp_path):
    image = keras.Input((8, 8, 1))
    model = keras.Model(image, strong(keras.layers.Rescaling(255.0)(image)))
    modular = ModularModel(model, donor.class_names)
    other = decompose(modular, tmp_path / "other", value_range=(0.0, 1.0))
    contract = poor.manifest.input
    given = CLASSES, [poor, other], few
    choice = choose_modules(*given, contract=contract)
    way = by_name(choice)[NEW_LAYER]
    assert way.stores == (other,)
    assert evaluate(way.model, few, CLASSES).accuracy > 0.9
    built = choice.build(choice.taken)
    first = built.predict(few.images, verbose=0)[:, :2].argmax(axis=1)
    assert np.mean(first == few.labels) > 0.9


def test_a_single_image_compares_nothing(donor, few):
    rows = [int(np.argmax(few.labels == label)) for label in (0, 1)]
    choice = choose_modules(CLASSES, [donor], few.take(np.array(rows)))
    assert choice.plain == choice.frontier == ()


@pytest.mark.parametrize(
    ("right", "is_smaller", "expected"),
    [(1.0, True, True), (0.5, True, False), (1.0, False, False)],
    ids=["better-and-smaller", "worse", "larger"],
)
def test_advice_is_what_is_as_good_and_smaller(
    choice, few, right, is_smaller, expected
):
    answers = np.where(
        np.arange(len(few)) < right * len(few), few.labels, 1 - few.labels
    )
    found = evaluate_answers(few.labels, answers, CLASSES)
    way = dataclasses.replace(choice.plain[0], evaluation=found)
    macs = way.sizes.macs + (1 if is_smaller else 0)
    sizes = dataclasses.replace(choice.taken.sizes, macs=macs)
    taken = dataclasses.replace(choice.taken, sizes=sizes)
    given = dataclasses.replace(choice, options=(taken,), plain=(way,))
    assert given.is_better(way) is expected
    (row,) = given.as_dict()["plain"]
    assert row["is_better"] is expected


@pytest.mark.parametrize(
    ("macs", "figures", "expected"),
    [
        ([3, 1, 2], [0.9, 0.5, 0.7], [1, 2, 0]),
        ([1, 2, 3], [0.9, 0.9, 0.8], [0]),
        ([2, 2, 1], [0.6, 0.7, 0.5], [2, 1]),
        ([], [], []),
    ],
    ids=["rising", "dearer-is-no-better", "same-cost", "nothing"],
)
def test_frontier_is_what_nothing_beats(macs, figures, expected):
    assert frontier(macs, figures) == expected
