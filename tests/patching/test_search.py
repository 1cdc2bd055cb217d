import dataclasses
import re

import numpy as np
import pytest

from kmod.composition.patched_model import build_patched
from kmod.errors import ArtifactError
from kmod.errors import CheckError
from kmod.errors import UsageError
from kmod.graph import channel_graph
from kmod.graph import rebuild
from kmod.metrics.comparison import compare_answers
from kmod.metrics.comparison import compare_overall
from kmod.metrics.evaluate import evaluate
from kmod.modular.modular_model import ModularModel
from kmod.modules.decompose import decompose
from kmod.patching import search
from kmod.patching.acceptance import Acceptance
from kmod.patching.donors import Donor
from kmod.patching.patch_fit import fit_on_scores
from kmod.patching.patcher import patch
from kmod.patching.search import choose_patches

NAMES = ("3", "8", "9")


@pytest.fixture(scope="module")
def choice(weak, donor, poor, digits):
    return choose_patches(
        weak, [Donor(poor), Donor(donor)], digits.validation, class_names=NAMES
    )


def test_weak_class_and_best_donor_are_found(choice, donor, poor):
    assert choice.evaluation.f1[1] == 0
    (best,) = choice.chosen
    assert (best.target_class, best.donor.store) == ("8", donor)
    assert choice.tried[0] is best
    assert choice.tried[1].donor.store is donor
    assert choice.tried[-1].donor.store is poor


def test_donor_is_tried_with_and_without_its_other_modules(choice, donor):
    patches = [
        each.fit.patch for each in choice.tried if each.donor.store is donor
    ]
    found = [
        (patch.combine, [m.info.class_name for m in patch.auxiliary])
        for patch in patches
    ]
    assert sorted(found) == [
        ("calibrated", []),
        ("calibrated", ["3", "9"]),
        ("divided", ["3", "9"]),
    ]


def test_modules_that_cost_more_than_their_source_are_left_out(
    strong, weak, digits, tmp_path
):
    """Modules that share no stem, each nearly as large as the source."""
    modular = ModularModel(strong, NAMES)
    masks = modular.kernel_masks
    for row, kernel in enumerate(modular.kernels.ids_of("conv_3")[:3]):
        masks[row, kernel] = 0
    modular.kernel_masks = masks
    store = decompose(modular, tmp_path / "s", data=digits.validation)
    choice = choose_patches(
        weak, [Donor(store)], digits.validation, class_names=NAMES
    )
    assert [each.fit.patch.auxiliary for each in choice.tried] == [()]


@pytest.mark.parametrize(
    ("share", "first"),
    [(0.0, "divided"), (0.012, "divided"), (0.3, "calibrated")],
)
def test_what_modules_divide_is_preferred_within_a_standard_error(
    weak, donor, digits, monkeypatch, share, first
):
    """Of so many images `calibrated` is right where `divided` is not."""
    labels = digits.validation.labels

    def fit(scores, module, combine, *given):
        found = fit_on_scores(scores, module, combine, *given)
        answers = labels.copy()
        if combine == "divided":
            few = np.arange(round(share * len(labels)))
            answers[few] = (labels[few] + 1) % 3
        given = labels, scores.predictions, answers
        figures = compare_answers(*given, scores.target)
        figures |= compare_overall(*given)
        return dataclasses.replace(found, answers=answers, comparisons=figures)

    monkeypatch.setattr(search, "fit_on_scores", fit)
    choice = choose_patches(
        weak, [Donor(donor)], digits.validation, class_names=NAMES
    )
    assert choice.chosen[0].fit.patch.combine == first
    assert {each.fit.patch.combine for each in choice.tried} == {
        "calibrated",
        "divided",
    }


@pytest.mark.long
def test_auxiliary_modules_join_one_by_one(
    strong, weak, digits, tmp_path, monkeypatch
):
    """Modules of few kernels, together no larger than their source."""
    modular = ModularModel(strong, NAMES)
    masks = np.zeros_like(modular.kernel_masks)
    for row in range(3):  # Joined layers of 6, and one of 24 kernels.
        for first, count in (0, 2), (6, 2), (12, 8):
            masks[row, first + row * count : first + (row + 1) * count] = 1
    modular.kernel_masks = masks
    store = decompose(modular, tmp_path / "s", data=digits.validation)

    def tried(*right):
        def fit(scores, module, combine, adaptation, auxiliary, acceptance):
            found = fit_on_scores(
                *(scores, module, combine, adaptation),
                *(auxiliary, acceptance),
            )
            accuracy = dataclasses.replace(
                found.comparisons["accuracy"], after=right[len(auxiliary)]
            )
            figures = {**found.comparisons, "accuracy": accuracy}
            return dataclasses.replace(found, comparisons=figures)

        monkeypatch.setattr(search, "fit_on_scores", fit)
        choice = choose_patches(
            weak,
            [Donor(store)],
            digits.validation,
            class_names=NAMES,
            combine="calibrated",
        )
        counts = [len(each.fit.patch.auxiliary) for each in choice.tried]
        return counts[0], sorted(counts)

    assert tried(0.8, 0.9, 0.95) == (2, [0, 1, 2])
    assert tried(0.9, 0.8, 0.8) == (0, [0, 1, 2])
    monkeypatch.setattr(search, "PATIENCE", 1)
    assert tried(0.9, 0.8, 0.95) == (0, [0, 1])


def test_patch_is_that_of_a_single_module(choice, weak, donor, digits):
    chosen = choice.chosen[0].fit.patch
    patched = patch(
        weak, 1, donor["8"], digits.validation, auxiliary=chosen.auxiliary
    )
    images = digits.test.images[:40]
    np.testing.assert_allclose(
        build_patched(rebuild(channel_graph(weak)), [chosen]).predict(images),
        patched.predict(images),
        rtol=0,
        atol=2e-3,
    )


def test_figures_are_plain_data(choice):
    data = choice.tried[-1].as_dict()
    assert (data["target_class"], data["class"]) == ("8", "8")
    assert data["helps"] is choice.tried[-1].fit.helps
    assert data["before"]["f1"] == 0
    assert set(data["after"]) == {
        "precision",
        "recall",
        "f1",
        "other_classes_accuracy",
    }


def test_several_targets_are_patched_in_turn(weak, donor, digits):
    choice = choose_patches(
        weak,
        [Donor(donor)],
        digits.validation,
        class_names=NAMES,
        target_classes=["8", 2],
        auxiliary=False,
    )
    assert [each.target_class for each in choice.tried] == ["8", "9"]
    patches = [each.fit.patch for each in choice.chosen]
    patched = build_patched(rebuild(channel_graph(weak)), patches)
    after = evaluate(patched, digits.test)
    assert after.accuracy > evaluate(weak, digits.test).accuracy + 0.1
    # What the second patch starts from is what the first one leaves.
    assert choice.tried[1].fit.before.f1 > choice.evaluation.f1[2]


@pytest.mark.parametrize("combine", ["minmax", "raw"])
def test_published_rules_are_judged_on_top_of_each_other(
    weak, donor, digits, monkeypatch, combine
):
    monkeypatch.setattr(Acceptance, "takes", lambda *_: True)
    images, labels = digits.validation.images, digits.validation.labels
    choice = choose_patches(
        weak,
        [Donor(donor)],
        (images, labels),
        class_names=NAMES,
        target_classes=["8", "9"],
        combine=combine,
    )
    first, second = choice.chosen
    logits = rebuild(channel_graph(weak))
    one, both = (
        build_patched(logits, patches).predict(images).argmax(axis=1)
        for patches in (
            [first.fit.patch],
            [first.fit.patch, second.fit.patch],
        )
    )
    before = second.fit.comparisons["accuracy"].before
    assert before == pytest.approx(np.mean(one == labels), abs=1e-2)
    assert np.mean(second.fit.answers == both) > 0.95


def test_class_that_an_earlier_patch_mended_is_left(
    weak, donor, digits, monkeypatch
):
    monkeypatch.setattr(
        search,
        "weak_classes",
        lambda evaluation: [1, 2] if evaluation.f1[1] == 0 else [0],
    )
    choice = choose_patches(
        weak, [Donor(donor)], digits.validation, class_names=NAMES
    )
    assert {each.target_class for each in choice.tried} == {"8"}


def test_no_gain_is_declined(strong, poor, digits):
    images = digits.validation
    answers = strong.predict(images.images, verbose=0).argmax(axis=1)
    right = images.take(np.flatnonzero(answers == images.labels))
    path = re.escape(str(poor.path))
    message = rf"no module that does\. '3' by '{path}': F1 1\.0000 before"
    with pytest.raises(CheckError, match=message):
        choose_patches(
            strong,
            [Donor(poor)],
            right,
            class_names=NAMES,
            target_classes=["3"],
        )


def test_donors_must_have_the_class(weak, donor, digits):
    names = ("a", "b", "c")
    with pytest.raises(ArtifactError, match=r"none of \['b'\].*STORE:CLASS"):
        choose_patches(
            weak,
            [Donor(donor)],
            digits.validation,
            class_names=names,
            target_classes=["b"],
        )
    choice = choose_patches(
        weak,
        [Donor(donor, "8")],
        digits.validation,
        class_names=names,
        target_classes=["b"],
    )
    assert choice.chosen[0].as_dict()["class"] == "8"


def test_division_takes_a_donor_of_several_classes(weak, donor, digits):
    with pytest.raises(UsageError, match="`divided` takes a donor that has"):
        choose_patches(
            weak,
            [Donor(donor)],
            digits.validation,
            class_names=NAMES,
            combine="divided",
            auxiliary=False,
        )


def test_every_donor_is_tracked(weak, donor, digits):
    seen = []

    def track(donors):
        for each in donors:
            seen.append(each)
            yield each

    donors = [Donor(donor)]
    choose_patches(
        weak, donors, digits.validation, class_names=NAMES, track=track
    )
    assert seen == donors


def test_data_must_show_the_target(weak, donor, digits):
    images = digits.validation
    others = images.take(np.flatnonzero(images.labels != 1))
    with pytest.raises(UsageError, match="must show the target class"):
        choose_patches(
            weak,
            [Donor(donor)],
            others,
            class_names=NAMES,
            target_classes=["8"],
        )


@pytest.mark.parametrize(
    ("changes", "names", "targets", "error", "message"),
    [
        pytest.param(
            lambda labels: labels + 1,
            NAMES,
            ["3"],
            ValueError,
            "from 0 to 2, for a model of 3 classes. Received: a label 3",
            id="labels",
        ),
        pytest.param(
            lambda labels: labels,
            ("3", "8"),
            ["3"],
            UsageError,
            "must be 3 different names",
            id="names",
        ),
        pytest.param(
            lambda labels: np.minimum(labels, 1),
            NAMES,
            ["3", "9"],
            UsageError,
            "must show the target class",
            id="second-target-not-shown",
        ),
    ],
)
def test_data_are_checked_before_a_donor_is_tried(
    weak, donor, digits, changes, names, targets, error, message
):
    tried = []
    images = digits.validation
    with pytest.raises(error, match=message):
        choose_patches(
            weak,
            [Donor(donor)],
            (images.images, changes(images.labels)),
            class_names=names,
            target_classes=targets,
            track=tried.append,
        )
    assert tried == []


def test_rule_is_checked_before_anything_is_predicted(weak, donor):
    with pytest.raises(UsageError, match="Received: combine='mean'"):
        choose_patches(weak, [Donor(donor)], None, combine="mean")
