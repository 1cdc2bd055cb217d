import json

import pytest

from kmod.errors import UsageError
from kmod.modular.recipe import DEFAULT
from kmod.modular.recipe import PAPER
from kmod.modular.recipe import RECIPES
from kmod.modular.recipe import Recipe
from kmod.modular.recipe import recipe_of


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
def test_round_trip_through_json(recipe):
    assert Recipe.from_dict(json.loads(json.dumps(recipe.as_dict()))) == recipe


def test_names():
    assert recipe_of("default") is DEFAULT
    assert recipe_of("paper") is PAPER
    own = Recipe("own", penalty=1.0)
    assert recipe_of(own) is own


def test_published_schedule():
    assert PAPER.epochs == 5 + 20 * (5 + 2)
    assert [phase.trains_masks for phase in PAPER.phases[:4]] == [
        False,
        True,
        False,
        True,
    ]
    assert PAPER.phases[0].learning_rate == 0.01
    assert {phase.learning_rate for phase in PAPER.phases[1:]} == {0.001}
    assert DEFAULT.epochs == 0


def test_unknown_name():
    with pytest.raises(UsageError, match=r"\['default', 'paper'\].*'papper'"):
        recipe_of("papper")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        pytest.param(
            {"retention_target": 0.0},
            "above 0 .* retention_target=0",
            id="zero",
        ),
        pytest.param(
            {"retention_target": 1.5},
            "at most 1.*retention_target=1.5",
            id="1.5",
        ),
        pytest.param(
            {"warm_up": 0.6}, "`warm_up` must lie below.*warm_up=0.6", id="late"
        ),
        pytest.param({"warm_up": -0.1}, "warm_up=-0.1", id="negative"),
        pytest.param({"removal_end": 1.1}, "removal_end=1.1", id="too-late"),
        pytest.param(
            {"rows_per_image": 1}, "at least 2.*rows_per_image=1", id="one-row"
        ),
        pytest.param({"rows_per_image": -2}, "rows_per_image=-2", id="rows"),
        pytest.param({"importance_steps": 0}, "importance_steps=0", id="steps"),
        pytest.param({"own_importance": 0.0}, "own_importance=0.0", id="own"),
    ],
)
def test_refusal(changes, message):
    with pytest.raises(UsageError, match=message):
        Recipe("own", **changes)


@pytest.mark.parametrize(
    "changes",
    [
        {"retention_target": None},
        {"retention_target": 1.0},
        {"rows_per_image": 0},
        {"warm_up": 0.0, "removal_end": 1.0},
    ],
)
def test_borders_are_accepted(changes):
    assert Recipe("own", **changes).name == "own"
