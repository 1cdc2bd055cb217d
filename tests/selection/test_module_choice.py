import dataclasses
import shutil
import types
from types import SimpleNamespace

import keras
import numpy as np
import pytest

from kmod.data.image_data import LabelledImages
from kmod.data.subsets import class_subset
from kmod.errors import ArtifactError
from kmod.errors import CheckError
from kmod.errors import UsageError
from kmod.files import bytes_digest
from kmod.graph.sharing import merge_models
from kmod.graph.sizes import model_sizes
from kmod.metrics.evaluate import evaluate_answers
from kmod.metrics.evaluate import roc_auc
from kmod.modular.modular_model import ModularModel
from kmod.modules.cut import log_odds_model
from kmod.modules.decompose import decompose
from kmod.modules.manifest import FAMILIARITY_FILE
from kmod.modules.manifest import write_store_manifest
from kmod.modules.module_store import add_familiarity
from kmod.modules.module_store import load_store
from kmod.patching.donors import module_answers
from kmod.selection import module_choice
from kmod.selection.composition_choice import choice_text
from kmod.selection.module_choice import auxiliary_options
from kmod.selection.module_choice import best_auxiliary
from kmod.selection.module_choice import best_modules
from kmod.selection.module_choice import choose_by_figures
from kmod.selection.module_choice import choose_modules
from kmod.selection.plain_ways import IMAGES_PER_SCORE
from kmod.selection.plain_ways import MOST_MODULES
from kmod.spec.model import Scores
from kmod.spec.spec_file import parse_spec

CLASSES = ("9", "3")
LABELS = np.repeat([0, 1, 2], 40)


@pytest.fixture(scope="module")
def few(digits):
    return class_subset(digits.validation, [2, 0])


@pytest.fixture
def apart(donor, digits, tmp_path):
    """A store of one class, and one of another whose familiarity is wrong.

    It was measured on other pictures than those of the new task.
    """
    stores = []
    for name, images in (
        ("9", digits.train.images),
        ("3", 255 - digits.train.images),
    ):
        path = shutil.copytree(donor.path, tmp_path / name)
        kept = ()
        for record in donor.manifest.modules:
            if record.class_name == name:
                kept = (record,)
            else:
                shutil.rmtree(path / record.directory)
        (path / FAMILIARITY_FILE).unlink(missing_ok=True)
        source = dataclasses.replace(
            donor.manifest.source, digest=bytes_digest(name.encode())
        )
        manifest = dataclasses.replace(
            donor.manifest,
            source=source,
            modules=kept,
            familiarity=None,
            contract=None,
        )
        write_store_manifest(path, manifest)
        store = load_store(path)
        stores.append(add_familiarity(store, (images, digits.train.labels)))
    return stores


def test_familiarity_that_misleads_is_left_out(apart, few, tmp_path):
    choice = choose_modules(CLASSES, apart, few, auxiliary=False)
    with_it, without = sorted(
        choice.options, key=lambda each: each.familiarity
    )[::-1]
    assert with_it.familiarity and not without.familiarity
    assert with_it.expected.accuracy < 0.8 < without.expected.accuracy
    assert not choice.familiarity and choice.taken is without
    assert choice.name_of(without).endswith(", no familiarity")
    text = choice_text(choice, tmp_path / "t.yaml", (), 50)
    assert "# Without familiarity the truth was likelier." in text
    assert parse_spec(text.encode(), tmp_path / "t.yaml").scores == Scores(
        familiarity=False
    )


@pytest.mark.long
def test_store_without_familiarity_changes_nothing_if_it_is_not_in(
    apart, poor, few
):
    """The option is judged as the model that its spec makes."""
    assert poor.manifest.familiarity is None
    alone = choose_modules(CLASSES, apart, few, auxiliary=False)
    choice = choose_modules(CLASSES, [*apart, poor], few, auxiliary=False)
    assert choice.chosen == alone.chosen == {"9": 0, "3": 1}
    assert not choice.familiarity
    found, expected = (
        {each.familiarity: each.expected.accuracy for each in options}
        for options in (choice.options, alone.options)
    )
    assert found == pytest.approx(expected, abs=0.05)


def test_option_of_one_source_has_no_familiarity_to_leave_out(
    apart, donor, few
):
    choice = choose_modules(CLASSES, [donor, *apart], few, auxiliary=False)
    for option in choice.options:
        assert option.familiarity or set(option.chosen.values()) == {1, 2}


def test_familiarity_that_is_right_stays(apart, digits, few):
    """The second class's images are now of the second store's kind."""
    shift = (few.labels == CLASSES.index("3"))[:, None, None, None]
    images = np.where(shift, 255 - few.images, few.images)
    kept = LabelledImages(images, few.labels)
    assert choose_modules(CLASSES, apart, kept, auxiliary=False).familiarity


@pytest.mark.parametrize(
    ("num_wrong", "stays"), [(0, True), (1, True), (12, False)]
)
def test_familiarity_stays_if_it_is_as_good(few, num_wrong, stays):
    """The truth is likelier without it, and all answers are right."""
    options, best = [], []
    for familiarity, worth, wrong in (
        (True, -0.9, num_wrong),
        (False, -0.1, 0),
    ):
        answers = few.labels.copy()
        answers[:wrong] = 1 - answers[:wrong]
        expected = evaluate_answers(few.labels, answers, CLASSES)
        chosen = {"9": 0, "3": 1}
        given = {"chosen": chosen, "auxiliary": (), "expected": expected}
        options.append(SimpleNamespace(familiarity=familiarity, **given))
        candidates = SimpleNamespace(chosen=chosen, familiarity=familiarity)
        best.append((worth, candidates, ()))
    taken, further = module_choice._taken(best, options)
    assert (taken.familiarity, further) == (stays, ())


def test_better_store_is_chosen(poor, donor, few):
    choice = choose_modules(CLASSES, [poor, donor], few)
    assert choice.chosen == {"9": 1, "3": 1}
    for name in CLASSES:
        assert choice.roc_auc[name][1] > 0.9
        assert choice.roc_auc[name][1] > choice.roc_auc[name][0]
    row = choice.as_dict()["classes"]["9"]
    assert row["store"] == str(donor.path)
    assert row["roc_auc"] == row["roc_auc_by_store"][str(donor.path)]
    assert list(row["roc_auc_by_store"]) == [str(poor.path), str(donor.path)]


def test_expected_accuracy_holds_on_other_images(poor, donor, few, digits):
    choice = choose_modules(CLASSES, [poor, donor], few)
    expected = choice.expected
    assert expected.class_names == CLASSES
    assert expected.support.sum() == len(few)
    test = class_subset(digits.test, [2, 0])
    scores = np.stack(
        [donor[name].model.predict(test.images, verbose=0) for name in CLASSES],
        axis=1,
    )[..., 0]
    accuracy = np.mean(scores.argmax(axis=1) == test.labels)
    assert expected.accuracy == pytest.approx(accuracy, abs=0.08)
    assert choice.as_dict()["expected"] == expected.as_dict()
    low, high = expected.accuracy_interval()
    assert 0 < low < expected.accuracy <= high <= 1


def test_labels_that_say_nothing_promise_nothing(donor, few):
    """A choice fitted to chance is not judged by what it was fitted on."""
    labels = np.random.default_rng(0).permutation(few.labels)
    guessed = type(few)(few.images, labels)
    expected = choose_modules(CLASSES, [donor], guessed).expected
    assert expected.accuracy < 0.75


def test_options_are_what_they_cost(poor, few):
    choice = choose_modules(CLASSES, [poor], few)
    alone, both = choice.options
    assert [each.auxiliary for each in choice.options] == [(), ((0, "8"),)]
    assert choice.expected is both.expected
    image, outputs = merge_models(
        (name, log_odds_model(poor[name].model)) for name in CLASSES
    )
    scores = keras.layers.Concatenate()(list(outputs.values()))
    together = keras.Model(image, scores)
    assert alone.sizes == model_sizes(together)
    assert both.sizes.macs > alone.sizes.macs
    data = choice.as_dict()["options"]
    assert [each["auxiliary"] for each in data] == [0, 1]
    assert data[1]["macs"] == both.sizes.macs
    low, high = data[1]["accuracy_interval"]
    assert low < data[1]["accuracy"] < high


def test_cheaper_option_is_as_good_within_a_standard_error(donor, few):
    choice = choose_modules(CLASSES, [donor], few)
    alone, both = choice.options
    taken = dataclasses.replace(choice, auxiliary=both.auxiliary)
    assert alone.expected.accuracy > both.expected.accuracy - 0.02
    assert taken.cheaper is alone
    wrong = evaluate_answers(few.labels, 1 - few.labels, CLASSES)
    worse = dataclasses.replace(alone, expected=wrong)
    assert dataclasses.replace(taken, options=(worse, both)).cheaper is None
    assert dataclasses.replace(taken, auxiliary=()).cheaper is None


def test_budget_is_kept(poor, few):
    alone, both = choose_modules(CLASSES, [poor], few).options
    between = (alone.sizes.macs + both.sizes.macs) / 2
    for budget, expected in (
        (both.sizes.macs, both.auxiliary),
        (between, ()),
    ):
        choice = choose_modules(CLASSES, [poor], few, macs_budget=budget)
        assert choice.auxiliary == expected
    with pytest.raises(CheckError, match=r"`macs_budget`\. Received: [\d,]+ "):
        choose_modules(CLASSES, [poor], few, macs_budget=alone.sizes.macs - 1)


def test_larger_and_smaller_stores_of_a_source_are_compared(
    strong, donor, few, tmp_path
):
    """The larger one is surer here, so a budget decides."""
    modular = ModularModel(strong, donor.class_names, mask_from="conv_3")
    masks = modular.kernel_masks
    masks[:, modular.kernels.ids_of("conv_3")[:20]] = 0
    modular.kernel_masks = masks
    small = decompose(modular, tmp_path / "small", value_range=(0, 255))
    stores = [small, donor]
    choice = choose_modules(CLASSES, stores, few, auxiliary=False)
    by_stores = {tuple(o.chosen.values()): o for o in choice.options}
    costs = by_stores[0, 0].sizes.macs, by_stores[1, 1].sizes.macs
    assert costs[0] < costs[1]
    assert tuple(choice.chosen.values()) != (0, 0)
    budget = {"auxiliary": False, "macs_budget": costs[0]}
    kept = choose_modules(CLASSES, stores, few, **budget)
    assert tuple(kept.chosen.values()) == (0, 0)
    paths = [option["stores"] for option in kept.as_dict()["options"]]
    assert [str(small.path)] in paths and [str(donor.path)] in paths


def test_of_many_auxiliary_modules_the_weightiest_are_tried(
    donor, poor, digits, monkeypatch
):
    monkeypatch.setattr(module_choice, "FEW", (1,))
    names = ("3", "9")
    images = class_subset(digits.validation, [0, 2])
    choice = choose_modules(names, [donor, poor], images)
    groups = [option.auxiliary for option in choice.options]
    assert 1 in map(len, groups) and max(map(len, groups)) > 1
    macs = [option.sizes.macs for option in choice.options]
    assert macs == sorted(macs)


def test_a_single_image_promises_nothing(donor, few):
    rows = [int(np.argmax(few.labels == label)) for label in (0, 1)]
    choice = choose_modules(CLASSES, [donor], few.take(np.array(rows)))
    assert choice.expected is None
    assert choice.as_dict()["expected"] is None


def test_other_modules_of_the_store_join_where_they_help(poor, few):
    modules = [poor[name] for name in ("9", "3", "8")]
    answers = module_answers(modules, few.images)
    own, other = np.split(
        np.stack([each.log_odds for each in answers], axis=1), [2], 1
    )
    options = {False: other[:, :0], True: other}
    helps = best_auxiliary(own, options, few.labels)
    choice = choose_modules(CLASSES, [poor], few)
    assert helps
    assert choice.auxiliary == ((0, "8"),)
    assert choose_modules(CLASSES, [poor], few, auxiliary=False).auxiliary == ()


def test_modules_of_stores_that_are_not_in_may_join(
    poor, donor, few, monkeypatch
):
    def last(scores, options, labels, start):
        return list(options)[-1]

    monkeypatch.setattr(module_choice, "best_auxiliary", last)
    choice = choose_modules(CLASSES, [poor, donor], few)
    assert choice.chosen == {"9": 1, "3": 1}
    assert choice.auxiliary == ((0, "9"), (0, "3"))


def test_without_images_the_stores_own_figures_decide():
    class Store(dict):
        place = "store"

        def info(self, name):
            return types.SimpleNamespace(metrics=self[name])

    stores = [
        Store(cat={"f1": 0.7}, dog={"f1": 0.9}),
        Store(cat={"f1": 0.8}, dog={}),
    ]
    choice = choose_by_figures(("cat", "dog"), stores)
    assert choice.chosen == {"cat": 1, "dog": 0}
    assert choice.f1["dog"] == {0: 0.9, 1: 0.0}
    assert not choice.roc_auc and choice.num_images == 0
    with pytest.raises(ArtifactError, match="ant"):
        choose_by_figures(("cat", "ant"), stores)


def test_classes_must_be_in_a_store(donor, few):
    with pytest.raises(ArtifactError, match=r"Received: \['x'\], which none"):
        choose_modules(("9", "x"), [donor], few)


def test_images_must_show_every_class(donor, few):
    one = few.take(np.flatnonzero(few.labels == 0))
    with pytest.raises(UsageError, match=r"Received: none of \['3'\]"):
        choose_modules(CLASSES, [donor], one)


def test_a_new_model_has_two_classes(donor, few):
    with pytest.raises(UsageError, match="at least two classes.*Name another"):
        choose_modules(CLASSES[:1], [donor], few)


def test_a_class_is_named_once(donor, few):
    with pytest.raises(UsageError, match=r"Received: \['9'\] more than once"):
        choose_by_figures(("9", "9", "3"), [donor])


@pytest.mark.parametrize("budget", [0, float("nan")])
def test_budget_is_above_0(donor, few, budget):
    with pytest.raises(UsageError, match="`macs_budget` must be above 0"):
        choose_modules(CLASSES, [donor], few, macs_budget=budget)


def test_roc_auc_is_the_chance_of_the_higher_score():
    scores = np.array([3.0, 1.0, 2.0, 0.0])
    is_class = np.array([True, True, False, False])
    assert roc_auc(scores, is_class) == pytest.approx(3 / 4)


def draw_scores(label, quality, seed):
    random = np.random.default_rng(seed)
    return quality * (LABELS == label) + random.normal(size=len(LABELS))


def test_a_single_image_of_a_class_is_enough():
    scores = [
        {
            "good": np.array([2.0, -1.0, -2.0]),
            "bad": np.array([-1.0, 2.0, 0.0]),
        },
        {"good": np.array([-2.0, 1.0, 2.0]), "bad": np.array([1.0, 0.0, -1.0])},
    ]
    labels = np.array([0, 1, 1])
    assert best_modules(scores, labels) == ["good", "good"]


def test_best_module_of_each_class_is_chosen():
    scores = [
        {0: draw_scores(0, 0.5, 0), 1: draw_scores(0, 4.0, 1)},
        {0: draw_scores(1, 4.0, 2), 2: draw_scores(1, 0.5, 3)},
        {1: draw_scores(2, 3.0, 4)},
    ]
    assert best_modules(scores, LABELS) == [1, 0, 1]


@pytest.mark.parametrize(("finalists", "chosen"), [(2, 1), (1, 0)])
def test_finalist_that_helps_the_others_wins(monkeypatch, finalists, chosen):
    monkeypatch.setattr(module_choice, "FINALISTS", finalists)
    # The first module of class 0 tells it a little better, the second one
    # where class 2's own module knows nothing.
    noise = np.random.default_rng(0).normal(size=len(LABELS))
    first = np.choose(LABELS, [noise + 1, noise - 8, noise])
    second = np.choose(LABELS, [noise + 0.9, noise, noise - 8])
    scores = [
        {0: first, 1: second},
        {0: draw_scores(1, 9.0, 1)},
        {0: draw_scores(2, 0.1, 2)},
    ]
    is_class = LABELS == 0
    assert roc_auc(first, is_class) > roc_auc(second, is_class)
    assert best_modules(scores, LABELS)[0] == chosen


@pytest.fixture
def three_classes():
    """The classes' own scores tell one of three classes from the others."""
    random = np.random.default_rng(0)
    labels = np.arange(90) % 3
    scores = random.normal(size=(90, 3))
    scores[labels == 0, 0] += 4
    return scores, labels, random


def test_scores_that_tell_more_are_taken(three_classes):
    scores, labels, random = three_classes
    more = random.normal(size=(90, 2))
    more[labels == 1, 1] += 4
    options = {"none": np.empty((90, 0)), "more": more}
    assert best_auxiliary(scores, options, labels) == "more"


def test_scores_that_tell_nothing_are_left_out(three_classes):
    scores, labels, random = three_classes
    options = {"none": np.empty((90, 0)), "noise": random.normal(size=(90, 20))}
    assert best_auxiliary(scores, options, labels) == "none"


def test_a_single_image_compares_nothing(three_classes):
    scores, labels, random = three_classes
    own = np.flatnonzero((labels != 2) | (np.arange(90) == 2))
    more = np.eye(3)[labels[own]] * 9
    options = {"none": np.empty((len(own), 0)), "more": more}
    assert best_auxiliary(scores[own], options, labels[own]) == "none"


def test_options_are_nothing_known_classes_and_all():
    modules = [(0, "cat"), (0, "dog"), (1, "cat")]
    new = (2, "cat")
    options = auxiliary_options(modules, [new], lambda own: "cat" in own, 90)
    cats = modules[0], modules[2]
    assert options == [(), cats, tuple(modules), (*cats, new)]


def test_equal_options_count_once():
    assert auxiliary_options([(0, "a")], (), bool, 90) == [(), ((0, "a"),)]


def test_too_many_modules_are_no_option():
    many = range(MOST_MODULES + 1)

    def options(num_images):
        return auxiliary_options(many, (), lambda n: n < 2, num_images)

    enough = IMAGES_PER_SCORE * len(many)
    assert options(enough - 1) == [(), (0, 1)]
    assert options(enough) == [(), (0, 1), tuple(many)]
