import dataclasses
import html
import json
import re

import pytest

from kmod.demo import pipeline
from kmod.demo import settings
from kmod.demo.pipeline import run_demo
from kmod.demo.settings import settings_for
from kmod.errors import UsageError
from kmod.report.write import write_report

pytestmark = pytest.mark.long

FILES = (
    "all-classes.yaml composed.keras demo.yaml modules patched.keras "
    "report.html results.json source.keras weak.keras"
)
MODELS = ("source", "composed")
RESULTS = (
    "class_names composed composed_accuracy composed_macs_ratio content data "
    "kernels_by_layer macs_ratio max_output_gap modules overlap patch "
    "retention_rate seconds seed settings sizes source source_accuracy"
)


@pytest.fixture(scope="module")
def demo(digits, tmp_path_factory):
    """The whole way on three digits, as short as it still means something."""
    quick = dataclasses.replace(
        settings.DIGITS,
        width=0.25,
        source_epochs=8,
        search_epochs=2,
        weak_epochs=3,
    )
    path = tmp_path_factory.mktemp("demo") / "out"
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(settings.SETTINGS, "digits", quick)
        patch.setattr(pipeline, "load_data", lambda *_, **__: digits)
        run_demo("digits", path, verbose=0)
    return path


@pytest.fixture(scope="module")
def results(demo):
    return json.loads((demo / "results.json").read_text(encoding="utf-8"))


def test_demo_leaves_its_models_store_spec_and_report(demo, digits):
    assert sorted(path.name for path in demo.iterdir()) == FILES.split()
    modules = {path.name for path in (demo / "modules").iterdir()}
    assert {"store.yaml", *digits.class_names} <= modules
    page = (demo / "report.html").read_text(encoding="utf-8")
    assert all(
        f'<th scope="row">{name}</th>' in page for name in digits.class_names
    )


def test_report_tells_the_figures_of_the_demo(demo, results):
    page = html.unescape((demo / "report.html").read_text("utf-8"))
    patch = results["patch"]
    assert f"<b>{100 * results['source_accuracy']:.1f} %</b>" in page
    assert f"<b>{results['composed_macs_ratio']:.2f}x</b>" in page
    assert f"F1 of the patched class “{patch['target_class']}”" in page
    old, new = (patch[when]["f1"] for when in ("before", "after"))
    assert f"<b>{old:.2f} → {new:.2f}</b>" in page
    for name in results["class_names"]:
        pairs = zip(*(results[key]["classes"][name].values() for key in MODELS))
        for before, after in list(pairs)[:3]:
            assert f"{before:.3f} → {after:.3f}</td>" in page
    sections = re.findall(r'<section id="(\w+)"', page)
    assert {"kernels", "sizes", "source", "patch", "time"} <= set(sections)
    assert {"classes", "calibration", "changes"} <= set(sections)


def test_report_of_a_demo_can_be_made_again(demo, tmp_path):
    write_report(demo, tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text("utf-8")
    assert '<section id="patch"' in page
    assert '<section id="calibration"' not in page


def test_results_hold_what_is_promised(results):
    assert sorted(results) == RESULTS.split()
    figures = {"precision", "recall", "f1"}
    patch = results["patch"]
    assert figures == set(patch["before"]) == set(patch["after"])
    for key in ("accuracy", "other_classes_accuracy"):
        assert set(patch[key]) == {"before", "after"}
    assert patch["target_class"] in results["class_names"]


def test_modules_composed_know_the_digits(results):
    chance = 1 / 3
    assert results["source_accuracy"] > chance + 0.4
    assert results["composed_accuracy"] > chance + 0.4
    assert results["retention_rate"] < 0.5
    assert results["composed_macs_ratio"] < results["macs_ratio"]


def test_modules_are_exact(results):
    assert results["max_output_gap"] < 1e-4


def test_patch_mends_the_weak_model(results):
    patch = results["patch"]
    assert patch["after"]["f1"] > patch["before"]["f1"] + 0.1
    assert patch["accuracy"]["after"] > patch["accuracy"]["before"]


def test_unknown_data_set_is_refused():
    with pytest.raises(UsageError, match="`data` must be one of"):
        settings_for("imagenet")


@pytest.mark.slow
def test_demo_meets_its_bars(tmp_path):
    run_demo("digits", tmp_path, verbose=0)
    results = json.loads((tmp_path / "results.json").read_text())
    loss = results["source_accuracy"] - results["composed_accuracy"]
    assert loss <= 0.01
    assert results["retention_rate"] <= 0.40
    assert results["max_output_gap"] <= 1e-4
    patch = results["patch"]
    assert patch["after"]["f1"] > patch["before"]["f1"]
    others = patch["other_classes_accuracy"]
    assert others["after"] >= others["before"]
    assert 'id="kernels"' in (tmp_path / "report.html").read_text()
