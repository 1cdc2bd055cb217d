import dataclasses
import os

import numpy as np
import pytest

from kmod.composition.checks import CheckResult
from kmod.composition.checks import run_checks
from kmod.composition.checks import same_prior
from kmod.composition.composer import compose_plan
from kmod.composition.plan import plan
from kmod.data.load import load_data
from kmod.data.subsets import class_subset
from kmod.errors import ArtifactError
from kmod.errors import CheckError
from kmod.metrics.evaluate import evaluate
from kmod.spec.model import Check
from kmod.spec.model import DataRef
from kmod.spec.spec_file import load_spec

TEST = DataRef("digits", "test")


@pytest.fixture(scope="module")
def planned(donor, tmp_path_factory):
    """Plan of the digits 9 and 8 and all others."""
    folder = tmp_path_factory.mktemp("checks")
    path = folder / "spec.yaml"
    path.write_text(
        "version: 1\n"
        "name: d\n"
        f"stores: {{d: {{path: {os.path.relpath(donor.path, folder)}}}}}\n"
        "classes:\n"
        "  - {name: 9, module: {store: d, class: 9}}\n"
        "  - {name: 8, module: {store: d, class: 8}}\n"
        "scores: {other: {name: none, threshold: 0.5}}\n"
    )
    return plan(load_spec(path))


@pytest.fixture(scope="module")
def model(planned):
    return compose_plan(planned)


def with_checks(planned, *checks):
    return dataclasses.replace(
        planned, spec=dataclasses.replace(planned.spec, checks=checks)
    )


def test_figures_are_those_of_evaluate(planned, model):
    checks = [
        Check("accuracy", 0, TEST),
        Check("accuracy", 0, TEST, "8"),
        Check("precision", 0, TEST, "8"),
        Check("recall", 0, TEST, "9"),
        Check("f1", 0, TEST, "none"),
    ]
    results = run_checks(model, with_checks(planned, *checks))
    data = load_data("digits")
    labels = np.array([2, 2, 2, 2, 2, 2, 2, 2, 1, 0])[data.test.labels]
    images = dataclasses.replace(data.test, labels=labels)
    expected = evaluate(model, images)
    assert [result.value for result in results] == [
        expected.accuracy,
        expected.recall[1],
        expected.precision[1],
        expected.recall[0],
        expected.f1[2],
    ]
    assert all(result.num_images == len(data.test) for result in results)


def test_without_other_class_only_known_images_count(planned, model):
    scores = dataclasses.replace(planned.spec.scores, other=None)
    spec = dataclasses.replace(planned.spec, scores=scores)
    planned = dataclasses.replace(planned, spec=spec)
    model = compose_plan(planned)
    (result,) = run_checks(
        model, with_checks(planned, Check("accuracy", 0, TEST))
    )
    assert result.num_images == len(class_subset(load_data().test, [9, 8]))


def test_every_figure_is_in_the_message(planned, model):
    checks = Check("accuracy", 1, TEST), Check("recall", 0.01, TEST, "8")
    message = (
        r"accuracy on digits:test is 0\.\d{4}, at least 1 wanted; "
        r"recall of '8' on digits:test is 1\.0000, at least 0.01 wanted"
    )
    with pytest.raises(CheckError, match=message):
        run_checks(model, with_checks(planned, *checks))


def test_class_without_images(planned, model):
    name = planned.spec.class_names[0]
    check = Check("f1", 0, TEST, name)
    spec = dataclasses.replace(planned.spec, checks=(check,))
    few = dataclasses.replace(planned, spec=spec)
    images = load_data("digits").test.images[:9]
    given = {TEST: (images, np.ones(9, "int64"))}
    with pytest.raises(ArtifactError, match=f"no image of '{name}' in data"):
        run_checks(model, few, given=given)


@pytest.mark.parametrize(
    ("value", "passed"), [(0.5, True), (0.4999, False), (0.6, True)]
)
def test_least_value_passes(value, passed):
    assert CheckResult(Check("accuracy", 0.5, TEST), value, 9).passed == passed


def test_plain_data():
    result = CheckResult(Check("f1", 0.5, TEST, "a"), 0.75, 9)
    assert result.as_dict() == {
        "metric": "f1",
        "class": "a",
        "data": "digits:test",
        "min": 0.5,
        "value": 0.75,
        "num_images": 9,
    }


@pytest.mark.parametrize(
    ("lock", "outcome", "detail"),
    [
        ("prior: even", "passed", "classes equally frequent"),
        ("prior: {cat: 0.5}", "failed", "locked as {'cat': 0.5}"),
        ("version: 2", "failed", "locked as None"),
        (None, "skipped", "there is no 'spec.lock.yaml'"),
    ],
)
def test_prior_is_that_of_the_lock(tmp_path, lock, outcome, detail):
    if lock is not None:
        (tmp_path / "spec.lock.yaml").write_text(lock)
    found = same_prior(tmp_path, "even")
    assert found.outcome == outcome
    assert detail in found.detail
