import json

import pytest

from kmod.demo.pipeline import run_demo
from kmod.demo.settings import settings_for
from kmod.errors import UsageError


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
    assert "<h2>Modules</h2>" in (tmp_path / "report.html").read_text()
