import numpy as np
import pytest

from kmod.composition.composer import compose
from kmod.data.subsets import class_subset
from kmod.errors import ArtifactError
from kmod.errors import UsageError
from kmod.metrics.evaluate import evaluate
from kmod.patching.donors import module_answers
from kmod.selection.choosing import ModuleChoice
from kmod.selection.choosing import choose_modules
from kmod.selection.separation import separation
from kmod.selection.support import best_support
from kmod.selection.task import choose_task
from kmod.selection.task import task_spec
from kmod.spec.loader import load_spec
from kmod.spec.model import DataRef

CLASSES = ("9", "3")
DATA = (DataRef("digits", "validation"),)


@pytest.fixture(scope="module")
def few(digits):
    return class_subset(digits.validation, [2, 0])


@pytest.fixture(scope="module")
def task(poor, donor, tmp_path_factory):
    path = tmp_path_factory.mktemp("task") / "nine-or-three.yaml"
    return choose_task(CLASSES, [poor, donor], DATA, path, images_per_class=20)


def test_better_store_is_chosen(poor, donor, few):
    choice = choose_modules(CLASSES, [poor, donor], few)
    assert choice.chosen == {"9": (1,), "3": (1,)}
    for name in CLASSES:
        assert choice.separation[name][1,] > 0.9
        assert choice.separation[name][1,] > choice.separation[name][0,]
    row = choice.as_dict()["classes"]["9"]
    assert row["stores"] == [str(donor.path)]
    assert list(row["single"]) == [str(poor.path), str(donor.path)]


def test_teams_add_their_odds(poor, donor, few):
    choice = choose_modules(CLASSES, [poor, donor], few, modules_per_class=2)
    assert set(choice.separation["9"]) == {(0,), (1,), (0, 1)}
    odds = sum(
        np.exp(module_answers(store, ["9"], few.images)["9"].log_odds)
        for store in (poor, donor)
    )
    together = separation(odds, few.labels == 0)
    assert choice.separation["9"][0, 1] == pytest.approx(together)


def test_other_modules_of_the_store_support_where_they_help(poor, few):
    answers = module_answers(poor, ["9", "3", "8"], few.images)
    own, other = np.split(
        np.stack([each.log_odds for each in answers.values()], axis=1), [2], 1
    )
    options = {False: other[:, :0], True: other}
    helps = best_support(own, options, few.labels)
    choice = choose_modules(CLASSES, [poor], few)
    assert helps
    assert choice.support == ((0, "8"),)
    assert choose_modules(CLASSES, [poor], few, alone=True).support == ()


def test_stores_that_are_not_in_may_support(poor, donor, few, monkeypatch):
    def last(scores, options, labels):
        return list(options)[-1]

    monkeypatch.setattr("kmod.selection.choosing.best_support", last)
    choice = choose_modules(CLASSES, [poor, donor], few)
    assert choice.chosen == {"9": (1,), "3": (1,)}
    assert choice.support == ((0, "9"), (0, "3"))


@pytest.mark.parametrize("index", [0, 1])
def test_supporting_modules_are_in_the_spec(stores_of_two, index, tmp_path):
    choice = ModuleChoice(
        stores_of_two,
        {"9": (1,), "3": (1,)},
        {"9": {(1,): 0.9}, "3": {(1,): 0.9}},
        40,
        ((index, "8"),),
    )
    spec = task_spec(choice, tmp_path / "t.yaml", DATA, images_per_class=20)
    (module,) = spec.scores.support
    store = spec.stores[module.store]
    assert (spec.path.parent / store.path).samefile(stores_of_two[index].path)
    assert module.class_name == "8"
    assert "# With those of `support`, which" in spec.path.read_text()
    assert choice.as_dict()["support"] == [
        {"store": str(stores_of_two[index].path), "class": "8"}
    ]
    model = compose(spec)
    assert model.output_shape == (None, 2)


def test_spec_composes_to_a_good_model(task, digits, tmp_path):
    choice, spec = task
    assert choice.num_images == 40
    assert load_spec(spec.path) == spec
    assert spec.class_names == CLASSES
    assert (spec.scores.calibration, spec.scores.images_per_class) == (
        "joint",
        20,
    )
    model = compose(spec)
    images = class_subset(digits.test, [2, 0])
    assert evaluate(model, images).accuracy > 0.9


def test_spec_says_why(task):
    lines = task[1].path.read_text().splitlines()
    assert lines[0].startswith("# Modules chosen on 40 labelled images.")
    assert lines[2].startswith("# '9': store-1 0.9")
    assert "the best other 0." in lines[2]


def test_team_is_any_of_in_the_spec(choice_of_two, tmp_path):
    data = [DataRef("digits", "validation")]
    spec = task_spec(
        choice_of_two, tmp_path / "t.yaml", data, images_per_class=20
    )
    assert [len(entry.modules) for entry in spec.classes] == [2, 1]
    assert "# '9': store-1 + store-2 0.900" in spec.path.read_text()


@pytest.fixture
def stores_of_two(poor, donor):
    return poor, donor


@pytest.fixture
def choice_of_two(stores_of_two):
    values = {(0,): 0.5, (1,): 0.8, (0, 1): 0.9}
    return ModuleChoice(
        stores_of_two,
        {"9": (0, 1), "3": (1,)},
        {"9": values, "3": values},
        40,
    )


def test_classes_must_be_in_a_store(donor, few):
    with pytest.raises(ArtifactError, match=r"Received: \['x'\], which none"):
        choose_modules(("9", "x"), [donor], few)


def test_a_class_needs_a_module(donor, few):
    with pytest.raises(UsageError, match="Received: modules_per_class=0"):
        choose_modules(CLASSES, [donor], few, modules_per_class=0)


def test_images_must_show_every_class(donor, few):
    one = few.take(np.flatnonzero(few.labels == 0))
    with pytest.raises(UsageError, match=r"Received: none of \['3'\]"):
        choose_modules(CLASSES, [donor], one)


def test_a_new_model_has_two_classes(donor, few):
    with pytest.raises(UsageError, match="at least two classes.*Name another"):
        choose_modules(CLASSES[:1], [donor], few)
