"""Reports tell what is in manifests, and what is measured on images."""

import dataclasses
import html
import json
import re
import shutil
from types import SimpleNamespace

import numpy as np
import pytest

import kmod
from kmod.composition.composer import compose
from kmod.composition.composition_manifest import manifest_of_model
from kmod.composition.composition_manifest import read_composition_manifest
from kmod.composition.composition_manifest import write_composition_manifest
from kmod.composition.saving import load
from kmod.composition.saving import save
from kmod.errors import ArtifactError
from kmod.errors import IntegrityError
from kmod.errors import UsageError
from kmod.metrics.evaluate import evaluate
from kmod.metrics.evaluate import wilson_interval
from kmod.modules.class_module import ModuleInfo
from kmod.modules.manifest import InputContract
from kmod.modules.manifest import ModuleRecord
from kmod.modules.manifest import ModuleSizes
from kmod.modules.manifest import SourceRecord
from kmod.modules.manifest import StoreManifest
from kmod.modules.manifest import write_module_manifest
from kmod.modules.manifest import write_store_manifest
from kmod.modules.module_store import add_familiarity
from kmod.modules.module_store import load_store
from kmod.patching.patcher import patch
from kmod.report.parts import large
from kmod.report.parts import percent
from kmod.report.parts import span

EVIL = "<script>alert('ant')</script>"


def sections(read):
    return [attrs["id"] for attrs in read.all("section")]


@pytest.fixture
def report(tmp_path, read_page):
    def report(thing, **options):
        path = tmp_path / "report.html"
        kmod.write_report(thing, path, overwrite=path.exists(), **options)
        text = path.read_text("utf-8")
        return read_page(text), html.unescape(text)

    return report


def test_store(report, donor):
    read, text = report(donor)
    assert sections(read) == [
        *("summary", "composition", "kernels", "provenance", "reproduce")
    ]
    manifest = donor.manifest
    for name in donor:
        info = donor.info(name)
        assert f"<b>{len(donor)}</b>" in text
        assert large(info.parameters) in read.text
        for layer, kept in info.kept_kernels.items():
            total = manifest.kernels[layer]
            note = f"{len(kept)} of {total} kernels, "
            assert note + percent(len(kept) / total) in text
    assert {manifest.source.digest, donor.digest} <= set(read.text)
    assert f"kmod modularize {manifest.source.name}.keras" in text
    assert "class_index" not in text


def test_store_of_a_whole_model_is_imported_again(report, donor, tmp_path):
    path = shutil.copytree(donor.path, tmp_path / "whole")
    manifest = dataclasses.replace(
        donor.manifest,
        method="import",
        arguments={"class_index": 0, "output": None},
    )
    write_store_manifest(path, manifest)
    read, text = report(load_store(path))
    command = f"kmod import {manifest.source.name}.keras --data"
    assert command in text and "kmod modularize" not in text
    assert f"--class {manifest.class_names[0]} --class-index 0" in text
    assert "masks were found" not in text


def test_images_of_a_store_give_its_figures(report, donor, digits):
    read, text = report(donor, data=digits)
    evaluation = evaluate(load_all(donor), digits.test, digits.class_names)
    assert percent(evaluation.accuracy) in read.text
    for index, name in enumerate(donor):
        found = evaluation.intervals_of(index)["recall"]
        hits = evaluation.confusion[index, index]
        assert found == wilson_interval(hits, evaluation.support[index])
        row = text[text.index("with intervals of 95 %") :]
        row = row[row.index(f'<th scope="row">{name}</th>') :].split("</tr>")[0]
        assert f"{evaluation.recall[index]:.3f} <small>{span(found)}" in row
    counts = evaluation.confusion
    matrix = re.findall(r'data-note="(\d+) of \d+ images, ', text)
    assert [int(n) for n in matrix] == counts[counts > 0].tolist()
    wrong = int(counts.sum() - counts.trace())
    gallery = 2 * len(donor) * 2 * 3  # Images and their maps.
    assert len(read.all("img")) == min(wrong, 24) + gallery
    assert "expected calibration error (ECE)" in read.text


def test_source_may_be_called_anything(report, donor, digits, tmp_path):
    path = shutil.copytree(donor.path, tmp_path / "named")
    source = dataclasses.replace(donor.manifest.source, name="my Käfer model")
    manifest = dataclasses.replace(donor.manifest, source=source)
    write_store_manifest(path, manifest)
    read, text = report(load_store(path), data=digits.test)
    assert "accuracy" in read.text and "my Käfer model" in text


def load_all(store):
    from kmod.report.subject import open_subject

    return open_subject(store).model


def test_class_without_images_has_dashes(report, donor, digits):
    test = digits.test.take(np.flatnonzero(digits.test.labels != 1))
    _, text = report(donor, data=(test.images, test.labels))
    row = text[text.index("with intervals of 95 %") :]
    row = row[row.index('<th scope="row">8</th>') :].split("</tr>")[0]
    assert row.count("<td>–") == 3


@pytest.fixture(scope="module")
def composed(donor, spec_of, tmp_path_factory):
    folder = tmp_path_factory.mktemp("composed")
    spec = spec_of(donor, {EVIL: "8", "3": "3"}, folder / "spec.yaml")
    save(compose(spec), folder / "two", formats=["keras"])
    return folder


def test_composed_model_and_its_spec(report, composed, donor, digits):
    for thing in (
        composed / "two",
        composed / "spec.yaml",
        load(composed / "two"),
        compose(composed / "spec.yaml"),
    ):
        read, text = report(thing)
        assert read.all("main") and EVIL in read.text
        assert large(read_composition_manifest(composed / "two").sizes["macs"])
        assert donor.manifest.source.name in read.text
    read, text = report(composed / "two", data=digits.test)
    assert {"classes", "calibration"} <= set(sections(read))
    # The spec's own text, whose paths lead from there.
    assert (composed / "two/spec.yaml").read_text() in text
    assert "kernels" in sections(read)
    manifest = read_composition_manifest(composed / "two")
    for key in ("parameters", "macs"):
        assert large(manifest.sizes[key]) in read.text
    saved = manifest.unshared["macs"] - manifest.sizes["macs"]
    assert f"{large(saved)} saved by building once" in text


def test_store_that_is_gone_is_told(report, donor, spec_of, tmp_path):
    store = load_store(shutil.copytree(donor.path, tmp_path / "store"))
    spec = spec_of(store, {"8": "8", "3": "3"}, tmp_path / "spec.yaml")
    save(compose(spec), tmp_path / "two", formats=["keras"])
    shutil.rmtree(store.path)
    read, _ = report(tmp_path / "two")
    assert "kernels" not in sections(read)
    assert any("not where its spec says" in each for each in read.text)
    assert donor.manifest.source.digest in read.text


def test_familiarity_of_sources(report, older, digits):
    store = add_familiarity(older, digits.train)
    read, text = report(store, data=digits)
    assert "familiarity" in sections(read)
    assert "of its own images (dashed)" in text


def test_patch_shows_what_it_changed(report, patched, weak, digits):
    read, text = report(patched, data=digits)
    images, labels = digits.test.images, digits.test.labels
    before, after = (
        model.predict(images, verbose=0).argmax(axis=1) == labels
        for model in (weak, load(patched))
    )
    for name, chosen in (
        ("wrong to right", ~before & after),
        ("right to wrong", before & ~after),
    ):
        tile = f"<b>{chosen.sum()}</b><span>images, {name}</span>"
        assert tile in text
    assert (~before & after).any()
    assert "changes" in sections(read) and "patched model" in read.text
    assert "patched by a module" in text


def test_ways_beside_it_are_shown(report, patched):
    path = patched / "composition.yaml"
    content = path.read_text()
    manifest = read_composition_manifest(patched)
    rows = [
        {"name": "patched", "accuracy": 0.9, "f1": 0.8, "macs": 12345},
        {"name": EVIL, "accuracy": "high", "parameters": None},
        ["no", "way"],
    ]
    metrics = {**manifest.metrics, "ways": rows}
    write_composition_manifest(
        patched, dataclasses.replace(manifest, metrics=metrics)
    )
    try:
        _, text = report(patched)
    finally:
        path.write_text(content)
    assert "What it was compared with on the same images" in text
    assert "0.900" in text and "12,345" in text and EVIL in text
    assert "What it was compared with" not in report(patched)[1]


def test_model_patched_in_memory(report, weak, donor, digits):
    validation = digits.validation.images, digits.validation.labels
    model = patch(weak, 1, donor["8"], validation)
    model.class_names = digits.class_names
    read, _ = report(model, data=digits.test)
    assert "changes" not in sections(read)
    assert "patched model" in read.text


def synthetic_store(path, num_classes, num_layers):
    """Writes the manifests of a store without its models."""
    draw = np.random.default_rng(0)
    kernels = {f"block_{n}_conv": 128 for n in range(num_layers)}
    digest = "sha256:" + "0" * 64
    names = [f"class number {n}" for n in range(num_classes - 1)] + [EVIL]
    records = []
    for index, name in enumerate(names):
        kept = {
            layer: tuple(
                map(int, np.flatnonzero(draw.random(count) < draw.random()))
            )
            for layer, count in kernels.items()
        }
        total = sum(kernels.values())
        rate = sum(map(len, kept.values())) / total
        info = ModuleInfo(
            class_name=name,
            class_index=index,
            source_digest=digest,
            kept_kernels=kept,
            num_kernels=total,
            retention_rate=rate,
            parameters=10_000 + index,
            macs=2_000_000 + index,
            calibration={"scale": 1.0, "shift": 0.0},
            metrics={},
            max_output_gap=None,
        )
        folder = path / f"class-{index}"
        (folder / "assets.extra").mkdir(parents=True)
        manifest = write_module_manifest(folder, info, digest)
        records.append(
            ModuleRecord(
                name, index, folder.name, digest, manifest, ModuleSizes.of(info)
            )
        )
    write_store_manifest(
        path,
        StoreManifest(
            source=SourceRecord("many", digest, "many"),
            class_names=tuple(names),
            input=InputContract((32, 32, 3), "float32", (0, 255)),
            method="gradsplitter",
            arguments={},
            kernels=kernels,
            metrics={"stem": {"parameters": 9, "macs": 1_000_000}},
            modules=tuple(records),
        ),
    )
    return path


@pytest.mark.long
def test_hundred_classes_fit_in_five_megabytes(tmp_path, report):
    read, text = report(str(synthetic_store(tmp_path / "many", 100, 20)))
    assert 100_000 < len(text) < 5e6
    assert EVIL in read.text
    assert "shared stem: 1.00 M MACs" in read.text
    first, second = read.all("table", role="grid")
    assert len(re.findall("<td", text)) > 100 * 20 + 100 * 100


STUDENT = {"architecture": "SimCNN", "data": "ants", "num_images": 9}
LEARNED = {"epochs": 2, "agreement": 0.75, "num_held_out": 4}
SLIMMED = {"before": {"parameters": 10, "macs": 400}, "data": "ants"}


@pytest.mark.parametrize(
    ("fields", "kind", "expected"),
    [
        pytest.param(
            {"student": {**STUDENT, **LEARNED}},
            "distilled model",
            ["network: 100 MACs", "75.0 %", "answers as the composition's"],
            id="distilled",
        ),
        pytest.param(
            {"slimmed": {**SLIMMED, **LEARNED, "num_images": 9}},
            "slim model",
            ["model: 400 MACs", "model: 100 MACs", "0.25x, of 400 before"],
            id="slim",
        ),
        pytest.param({}, "model", ["model: 100 MACs"], id="own"),
        pytest.param(
            {"metrics": {"ways": [{"name": "side by side"}]}},
            "model",
            [
                "No spec is kept with it. kmod choose or kmod patch with "
                "--take makes such a model again, from what the tables above "
                "name."
            ],
            id="way",
        ),
    ],
)
def test_models_that_hold_no_modules(report, fields, kind, expected):
    manifest = manifest_of_model(
        "one",
        [EVIL, "bee"],
        InputContract((8, 8, 1), "float32", (0, 1)),
        "sha256:" + "0" * 64,
        {"parameters": 5, "macs": 100},
    )
    manifest = dataclasses.replace(
        manifest, sizes={"parameters": 5, "macs": 100}, **fields
    )
    read, text = report(SimpleNamespace(manifest=manifest))
    assert kind in read.text and set(expected) <= set(read.text)
    assert "No spec is kept with it." in text


@pytest.mark.parametrize(
    ("thing", "kind", "message"),
    [
        pytest.param("empty", ArtifactError, "which is neither", id="folder"),
        pytest.param("model.keras", ArtifactError, "neither", id="file"),
        pytest.param("demo", ArtifactError, "without sizes", id="demo"),
        pytest.param(3, UsageError, "Received: int", id="type"),
    ],
)
def test_what_is_no_subject_is_refused(
    tmp_path, monkeypatch, thing, kind, message
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "demo").mkdir()
    (tmp_path / "demo/results.json").write_text(json.dumps({"a": 1}))
    (tmp_path / "demo/all-classes.yaml").write_text("version: 1\n")
    (tmp_path / "model.keras").write_text("")
    with pytest.raises(kind, match=message):
        kmod.write_report(thing, "report.html")
    assert not (tmp_path / "report.html").exists()


def test_changed_model_is_refused(composed, tmp_path):
    copy = tmp_path / "two"
    copy.mkdir()
    for path in (composed / "two").iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
    (copy / "README.md").write_text("mine")
    with pytest.raises(IntegrityError, match="README.md"):
        kmod.write_report(copy, tmp_path / "report.html")


def test_one_class_tells_nothing_apart(tmp_path, digits):
    path = synthetic_store(tmp_path / "one", 1, 2)
    with pytest.raises(UsageError, match="of one class"):
        kmod.write_report(path, tmp_path / "a.html", data=digits)
