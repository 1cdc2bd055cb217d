"""Contracts: what is kept passes, what is broken fails, and is named."""

import dataclasses
import json
import os
import shutil
import subprocess
import sys
from xml.etree import ElementTree

import keras
import pytest

from kmod.cli.main import main
from kmod.composition.composer import compose
from kmod.composition.composition_manifest import read_composition_manifest
from kmod.composition.composition_manifest import write_composition_manifest
from kmod.composition.saving import save
from kmod.files import check_files
from kmod.files import read_files
from kmod.modular.modular_model import ModularModel
from kmod.modules import contract as module_contract
from kmod.modules.class_module import ClassModule
from kmod.modules.decompose import cut_modules
from kmod.modules.manifest import read_store_manifest
from kmod.modules.manifest import write_store_manifest
from kmod.modules.module_store import load_store
from kmod.modules.module_store import save_store

DATA = "data: {name: digits, split: test}"
ACCURACY = "accuracy on digits:validation"
LATENCY = "latency"


@pytest.fixture(scope="module")
def folder(three, digits, tmp_path_factory):
    """A folder of a source model, its store and a composed model."""
    folder = tmp_path_factory.mktemp("contract")
    three.save(folder / "source.keras")
    modular = ModularModel(three, digits.class_names)
    content = cut_modules(
        modular,
        data=digits.validation,
        train=digits.train,
        data_source={"name": "digits", "split": "validation"},
    )
    content = dataclasses.replace(content, source_path=folder / "source.keras")
    save_store(folder / "store", content)
    (folder / "spec.yaml").write_text(
        "version: 1\n"
        "name: three\n"
        "stores: {d: {path: store}}\n"
        "classes:\n"
        "  - {name: 3, module: {store: d, class: 3}}\n"
        "  - {name: 8, module: {store: d, class: 8}}\n"
        "  - {name: 9, module: {store: d, class: 9}}\n"
        "scores: {other: {name: none, reject: 0.05}}\n"
        "checks:\n"
        f"  - {{metric: f1, class: 9, min: 0.5, {DATA}}}\n"
        f"  - {{metric: invariance, shift: 1, max: 0.9, {DATA}}}\n"
        f"  - {{metric: invariance, flip: vertical, max: 1, class: 8, {DATA}}}"
        "\n"
        f"  - {{metric: rejection, max: 0.5, {DATA}}}\n"
        "  - {metric: latency, max: 1000}\n"
    )
    save(compose(folder / "spec.yaml"), folder / "composed")
    return folder


@pytest.fixture
def store(folder, tmp_path):
    shutil.copy(folder / "source.keras", tmp_path)
    return shutil.copytree(folder / "store", tmp_path / "store")


@pytest.fixture
def composed(folder, tmp_path):
    for name in ("source.keras", "spec.yaml"):
        shutil.copy(folder / name, tmp_path)
    shutil.copytree(folder / "store", tmp_path / "store")
    return shutil.copytree(folder / "composed", tmp_path / "composed")


@pytest.fixture
def contract(tmp_path):
    def contract(*lines):
        path = tmp_path / "contract.yaml"
        items = "".join(f"  - {{{line}}}\n" for line in lines)
        path.write_text(f"version: 1\nchecks:\n{items}")
        return "--contract", str(path)

    return contract


@pytest.fixture
def run(capsys):
    """Runs `kmod test`; returns its exit code and what it found by test."""

    def run(path, *options):
        capsys.readouterr()
        code = main(["test", str(path), "--json", *options])
        found = json.loads(capsys.readouterr().out)
        return code, {row["test"]: row for row in found}

    return run


def failed(found):
    return [name for name, row in found.items() if row["outcome"] == "failed"]


def change_checks(path, read, write, change):
    """Rewrites a manifest with other lines, sealed as if kmod had."""
    manifest = read(path)
    checks = [dict(line) for line in manifest.contract["checks"]]
    for line in checks:
        change(line)
    contract = {**manifest.contract, "checks": checks}
    write(path, dataclasses.replace(manifest, contract=contract))


@pytest.mark.long
def test_intact_store_keeps_its_contract(store, run, contract):
    more = contract(
        "metric: latency, max: 1000",
        "metric: latency, class: 3, max: 1000",
        f"metric: invariance, shift: 1, max: 0.9, {DATA}",
        f"metric: f1, class: 3, min: 0.5, {DATA}",
        f"metric: accuracy, class: 3, min: 0.5, {DATA}",
    )
    code, found = run(store, *more)
    assert code == 0
    assert {row["outcome"] for row in found.values()} == {"passed"}
    assert list(found) == [
        "digests",
        *(f"answers of {name!r}" for name in "389"),
        *(f"exactness of {name!r}" for name in "389"),
        "score range",
        ACCURACY,
        "rejection on digits:validation",
        *(f"metrics of {name!r}" for name in "389"),
        LATENCY,
        "latency of '3'",
        "invariance to a shift of 1 px on digits:test",
        "f1 of '3' on digits:test",
        "accuracy of '3' on digits:test",
    ]


def test_intact_model_keeps_its_contract(composed, run):
    code, found = run(composed)
    assert code == 0
    assert {row["outcome"] for row in found.values()} == {"passed"}
    assert list(found)[3:] == [
        "prior",
        "exactness",
        "score range",
        "f1 of '9' on digits:test",
        "invariance to a shift of 1 px on digits:test",
        "invariance to a vertical flip of '8' on digits:test",
        "rejection on digits:test",
        LATENCY,
    ]
    assert ", recorded " in found["f1 of '9' on digits:test"]["detail"]


@pytest.mark.parametrize("name", ["store/3/variables/variables.index", "x"])
def test_changed_file_breaks_the_digests(store, capsys, name):
    path = store.parent / name if "/" in name else store / name
    with open(path, "ab") as file:
        file.write(b"x")
    assert main(["test", str(store), "--json"]) == 4
    out, err = capsys.readouterr()
    (row,) = json.loads(out)
    assert (row["test"], row["outcome"]) == ("digests", "failed")
    assert "failed 1 of 1 tests: digests." in err


def reseal(store, change):
    """Saves modules as others, with what the old ones were to answer."""
    old = load_store(store)
    answers = {name: old.info(name).answers for name in old}
    modules = change([old[name] for name in old])
    with pytest.MonkeyPatch.context() as patches:
        patches.setattr(
            "kmod.modules.module_store.stored_answers",
            lambda model, images: answers[model.sealed_for],
        )
        content = old_content(old, modules)
        save_store(store, content, overwrite=True)


def old_content(store, modules):
    from kmod.modules.module_store import StoreContent

    path = module_contract.path_from(store.path, store.manifest.contract)
    for module in modules:
        module.model.sealed_for = module.info.class_name
    manifest = dataclasses.replace(store.manifest, modules=())
    return StoreContent(modules, manifest, store.familiarity, path)


def test_changed_weight_breaks_exactness(store, run):
    def change(modules):
        layer = modules[0].model.get_layer("conv_2")
        kernel, bias = layer.get_weights()
        layer.set_weights([kernel, bias + 0.05])
        return modules

    reseal(store, change)
    code, found = run(store)
    assert code == 5
    assert failed(found)[0] == "exactness of '3'"
    assert found["exactness of '8'"]["outcome"] == "passed"
    assert found["digests"]["outcome"] == "passed"


def test_swapped_classes_break_exactness_and_accuracy(store, run):
    def change(modules):
        three, eight, nine = modules
        return [
            ClassModule(eight.model, three.info),
            ClassModule(three.model, eight.info),
            nine,
        ]

    reseal(store, change)
    code, found = run(store)
    assert code == 5
    broken = "exactness of '3'", "exactness of '8'", ACCURACY
    assert {*broken, "metrics of '3'", "metrics of '8'"} == {*failed(found)}


def test_raised_metric_fails(store, run):
    def change(line):
        if line["metric"] == "accuracy":
            line["min"] = 1.0

    change_checks(store, read_store_manifest, write_store_manifest, change)
    code, found = run(store)
    assert (code, failed(found)) == (5, [ACCURACY])
    assert "at least 1 wanted" in found[ACCURACY]["detail"]


@pytest.mark.parametrize(
    ("metric", "changes", "name"),
    [
        ("f1", {"min": 1.0}, "f1 of '9' on digits:test"),
        ("latency", {"max": 0.001}, LATENCY),
        (
            "invariance",
            {"max": 0.0},
            "invariance to a shift of 1 px on digits:test",
        ),
        ("rejection", {"max": 0.0}, "rejection on digits:test"),
        ("score_range", {"max": 0.5}, "score range"),
    ],
)
def test_tighter_line_of_a_model_fails(composed, run, metric, changes, name):
    def change(line):
        if line["metric"] == metric and "flip" not in line:
            line.update(changes)

    read, write = read_composition_manifest, write_composition_manifest
    change_checks(composed, read, write, change)
    code, found = run(composed)
    assert (code, failed(found)) == (5, [name])


@pytest.mark.parametrize(
    ("line", "name"),
    [
        ("metric: latency, max: 0.001", LATENCY),
        (
            f"metric: invariance, shift: 1, max: 0, {DATA}",
            "invariance to a shift of 1 px on digits:test",
        ),
        (
            f"metric: invariance, flip: horizontal, max: 0, class: 3, {DATA}",
            "invariance to a horizontal flip of '3' on digits:test",
        ),
        (f"metric: recall, class: 3, min: 1, {DATA}", None),
        ("metric: score_range, class: 3, min: 0.1, max: 0.2", None),
    ],
)
def test_tighter_line_of_modules_fails(store, run, contract, line, name):
    code, found = run(store, *contract(line))
    assert code == 5
    assert failed(found) == [name or list(found)[-1]]


def test_changed_weight_of_a_model_breaks_exactness(composed, run):
    path = composed / "model.keras"
    model = keras.saving.load_model(path)
    layer = next(x for x in model.layers if x.name.endswith("conv_2"))
    kernel, bias = layer.get_weights()
    layer.set_weights([kernel, bias + 0.02])
    model.save(path)
    manifest = read_composition_manifest(composed)
    files = read_files(composed)
    del files["composition.yaml"]
    manifest = dataclasses.replace(manifest, files=files)
    write_composition_manifest(composed, manifest)
    check_files(composed, files, "composition.yaml")
    code, found = run(composed)
    assert code == 5
    assert "exactness" in failed(found)


def test_swapped_classes_of_a_model_fail(composed, run):
    manifest = read_composition_manifest(composed)
    three, eight, nine, none = manifest.class_names
    names = nine, eight, three, none
    write_composition_manifest(
        composed, dataclasses.replace(manifest, class_names=names)
    )
    code, found = run(composed)
    assert code == 5
    assert "f1 of '9' on digits:test" in failed(found)


def test_what_is_not_at_hand_is_skipped(store, run, contract, tmp_path):
    (store.parent / "source.keras").unlink()
    lines = contract(
        "metric: latency, max: 1",
        "metric: f1, class: 3, min: 0, data: {name: mnist, split: test}",
    )
    code, found = run(store, *lines, "--data-dir", str(tmp_path))
    assert code == 0
    skipped = [n for n, row in found.items() if row["outcome"] == "skipped"]
    assert skipped == [LATENCY, "f1 of '3' on mnist:test"]
    assert "`--source FILE`" in found[LATENCY]["detail"]


def test_source_may_be_given(store, folder, run, contract):
    (store.parent / "source.keras").unlink()
    given = "--source", str(folder / "source.keras")
    code, found = run(store, *contract("metric: latency, max: 99"), *given)
    assert found[LATENCY]["outcome"] == "passed"
    assert code == 0


def test_another_source_is_refused(store, contract, weak_path, capsys):
    options = *contract("metric: latency, max: 99"), "--source", str(weak_path)
    assert main(["test", str(store), *options]) == 2
    message = " ".join(capsys.readouterr().err.split())
    assert (
        "`--source` must be the models" in message or "must be the" in message
    )


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("metric: speed, max: 1", "`checks[0].metric` is not valid."),
        ("metric: latency", "lacks the required `max`"),
        (
            f"metric: invariance, max: 0.1, {DATA}",
            "either `shift` or `flip`. Received: neither",
        ),
        ("metric: exactness, max: 1, shift: 1", "`shift` does not belong to"),
        ("metric: score_range, min: 1, max: 0", "`max` must be above `min`."),
    ],
)
def test_mistakes_of_a_contract_are_told(
    store, contract, capsys, line, message
):
    assert main(["test", str(store), *contract(line)]) == 2
    err = " ".join(capsys.readouterr().err.split())
    assert "contract.yaml:3:" in err and message in err


def test_older_artifacts_say_that_they_have_none(older, run):
    code, found = run(older.path)
    assert code == 0
    assert found["contract"]["outcome"] == "skipped"
    assert "it was written before" in found["contract"]["detail"]


def test_junit(store, contract, tmp_path, capsys):
    path = tmp_path / "out.xml"
    call = ["test", str(store), "--junit", str(path)]
    call += contract("metric: latency, max: 0.001")
    for _ in range(2):  # It replaces its own.
        assert main(call) == 5
    suite = ElementTree.parse(path).getroot()[0]
    assert suite.attrib["tests"] == str(len(suite))
    assert suite.attrib["failures"] == "1"
    (case,) = suite.findall("testcase[failure]")
    assert case.attrib["name"] == LATENCY
    assert "at most 0.001 wanted" in case[0].attrib["message"]


@pytest.fixture
def elsewhere(tmp_path_factory, monkeypatch):
    """A folder without tests, in which kmod is not the project."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, sys.path)))
    monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere"))


PYTEST = ["-p", "kmod.pytest_plugin", "-p", "no:kmod"]
PYTEST += ["-p", "no:cacheprovider", "-p", "no:xdist"]


def pytest_run(*options):
    command = [sys.executable, "-m", "pytest", *PYTEST, *options]
    return subprocess.run(command, capture_output=True, text=True)


def test_pytest_runs_a_test_for_each_line(store, contract, elsewhere, capsys):
    _, path = contract("metric: latency, max: 0.001")
    given = "--kmod-store", str(store.parent), "--kmod-contract", path
    capsys.readouterr()
    # In this process, which has imported TensorFlow.
    assert pytest.main([*PYTEST, "-rA", *given]) == 1
    out = capsys.readouterr().out
    lines = out.splitlines()
    assert any(x.startswith("PASSED") and x.endswith(ACCURACY) for x in lines)
    assert "latency: " in out and "at most 0.001" in out
    assert lines[-1].strip("= ").startswith("1 failed, 13 passed, ")


def test_pytest_lists_without_tensorflow(composed, elsewhere):
    code = (
        "import sys, pytest\n"
        f"pytest.main(['--co', '-q', '-p', 'kmod.pytest_plugin', '-p', "
        f"'no:cacheprovider', '-p', 'no:kmod', '--kmod-store', "
        f"{str(composed)!r}])\n"
        "print([m for m in ('tensorflow', 'keras') if m in sys.modules])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True
    )
    lines = done.stdout.splitlines()
    assert lines[-1] == "[]", done.stdout
    assert any(x.endswith("::rejection on digits:test") for x in lines)


def test_pytest_tells_mistakes_without_a_traceback(store, contract, elsewhere):
    _, path = contract("metric: speed, max: 1")
    given = "--kmod-store", str(store), "--kmod-contract", path
    done = pytest_run(*given)
    assert done.returncode == 2
    assert f"{path}:3:14: `checks[0].metric` is not valid." in done.stdout
    assert "Traceback" not in done.stdout


def test_pytest_names_what_it_takes(tmp_path, elsewhere):
    done = pytest_run("--kmod-store", str(tmp_path))
    assert done.returncode == 4
    assert "which holds neither" in done.stderr
