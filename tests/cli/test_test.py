import dataclasses
import json
import shutil

import pytest

import kmod
from kmod.cli.main import main
from kmod.composition import measures
from kmod.composition.composition_manifest import read_composition_manifest
from kmod.composition.composition_manifest import write_composition_manifest
from kmod.export import savedmodel
from kmod.export.write import FORMS
from kmod.modular.modular_model import ModularModel
from kmod.modules.decompose import decompose


def run(path, capsys, *options):
    code = main(["test", str(path), "--json", *options])
    return code, json.loads(capsys.readouterr().out)


@pytest.fixture(scope="module")
def measured_store(three, digits, tmp_path_factory):
    """A store that says which images its figures are of."""
    modular = ModularModel(three, digits.class_names)
    return decompose(
        modular,
        tmp_path_factory.mktemp("measured") / "store",
        data=digits.validation,
        data_source={"name": "digits", "split": "validation"},
    )


def test_store_reproduces_its_metrics(measured_store, capsys):
    code, results = run(measured_store.path, capsys)
    assert code == 0
    # Digests, answers, exactness and metrics of three modules, their scores,
    # accuracy and how many of their own images they reject.
    assert [f["outcome"] for f in results] == ["passed"] * 13
    names = [f["test"] for f in results]
    assert names[0] == "digests"
    assert "answers of '8'" in names and "metrics of '8'" in names


def test_other_metrics_fail(measured_store, capsys, monkeypatch):
    monkeypatch.setattr(
        measures,
        "module_metrics",
        lambda *_: {"precision": 0.0, "recall": 0.0, "f1": 0.0},
    )
    code, results = run(measured_store.path, capsys)
    assert code == 5
    assert sum(f["outcome"] == "failed" for f in results) == 3


def test_store_without_data_is_not_measured(store, capsys):
    code, results = run(store.path, capsys)
    assert code == 0
    assert results[-1]["outcome"] == "skipped"
    assert "names no data set" in results[-1]["detail"]


def test_composed_model(composed_path, capsys):
    code, results = run(composed_path, capsys)
    assert code == 0
    assert [f["test"] for f in results] == [
        "digests",
        "answers of savedmodel",
        "answers of keras",
        "exactness",
        "score range",
    ]
    assert main(["test", str(composed_path)]) == 0
    assert "largest difference" in capsys.readouterr().out


def test_other_answers_fail(composed_path, capsys, monkeypatch):
    def predict(path, images):
        answers = savedmodel.predict(path, images)
        return {**answers, "probabilities": answers["probabilities"] + 0.1}

    form = dataclasses.replace(FORMS["savedmodel"], predict=predict)
    monkeypatch.setitem(FORMS, "savedmodel", form)
    assert main(["test", str(composed_path)]) == 5
    assert "failed 1 of 5 tests: answers of sav" in capsys.readouterr().err


@pytest.fixture(scope="module")
def checked_path(store, tmp_path_factory):
    """A composed model that had to pass checks."""
    folder = tmp_path_factory.mktemp("checked")
    path = folder / "spec.yaml"
    shutil.copytree(store.path, folder / "store")
    data = "data: {name: digits, split: test}"
    path.write_text(
        "version: 1\n"
        "name: d\n"
        "stores: {d: {path: store}}\n"
        "classes:\n"
        "  - {name: 1, module: {store: d, class: 1}}\n"
        "  - {name: 7, module: {store: d, class: 7}}\n"
        "checks:\n"
        f"  - {{metric: accuracy, min: 0.5, {data}}}\n"
        f"  - {{metric: f1, class: 7, min: 0.5, {data}}}\n"
    )
    assert main(["compose", str(path), "--out", str(folder / "out")]) == 0
    return folder / "out"


def test_checks_are_measured_again(checked_path, capsys):
    capsys.readouterr()
    code, results = run(checked_path, capsys)
    assert code == 0
    last = results[-1]
    assert last["test"] == "f1 of '7' on digits:test"
    assert "at least 0.5 wanted" in last["detail"]


@pytest.mark.parametrize(
    ("changes", "code", "outcome", "detail"),
    [
        ({"data": "mnist:test"}, 0, "skipped", "must be in the data directory"),
        ({"value": 0.1}, 5, "failed", "recorded 0.1000"),
        ({"min": 2.0}, 5, "failed", "at least 2 wanted"),
    ],
    ids=["no-data", "other-figure", "too-low"],
)
def test_check_of_an_earlier_model_that_can_not_be_reproduced(
    checked_path, tmp_path, capsys, changes, code, outcome, detail
):
    copy = shutil.copytree(checked_path, tmp_path / "copy")
    manifest = read_composition_manifest(copy)
    check = {**manifest.metrics["checks"][1], **changes}
    metrics = {"checks": [check]}
    manifest = dataclasses.replace(manifest, metrics=metrics, contract={})
    write_composition_manifest(copy, manifest)
    data_dir = ["--data-dir", str(tmp_path)]
    found_code, results = run(copy, capsys, *data_dir)
    assert found_code == code
    assert results[-1]["outcome"] == outcome
    assert detail in results[-1]["detail"]


def test_damaged_file(composed_path, tmp_path, capsys):
    copy = shutil.copytree(composed_path, tmp_path / "copy")
    (copy / "README.md").write_text("x")
    assert main(["test", str(copy)]) == 4
    out, err = capsys.readouterr()
    assert "'README.md' has other bytes" in " ".join(out.split())
    assert "failed 1 of 1 tests: digests." in err


def test_missing(tmp_path, capsys):
    assert main(["test", str(tmp_path)]) == 3
    assert "A module store is a directory" in capsys.readouterr().err


def test_patch_that_no_spec_made(weak, donor, digits, tmp_path, capsys):
    patched = kmod.patch(
        weak, "8", donor["8"], digits.validation, class_names=digits.class_names
    )
    kmod.save(patched, tmp_path / "out")
    code, results = run(tmp_path / "out", capsys)
    assert code == 0
    assert [each["outcome"] for each in results] == ["passed"] * 5
    assert main(["inspect", str(tmp_path / "out")]) == 0
    assert "given in memory" in capsys.readouterr().out
