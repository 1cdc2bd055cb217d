import dataclasses
import re

import pytest
import yaml

from kmod.composition.composition_manifest import LOADING
from kmod.composition.composition_manifest import CompositionManifest
from kmod.composition.composition_manifest import fitting_name
from kmod.composition.composition_manifest import is_own
from kmod.composition.composition_manifest import is_patched
from kmod.composition.composition_manifest import manifest_of_model
from kmod.composition.composition_manifest import model_card
from kmod.composition.composition_manifest import read_composition_manifest
from kmod.composition.composition_manifest import write_composition_manifest
from kmod.errors import ArtifactError
from kmod.errors import IntegrityError
from kmod.modules.manifest import InputContract

DIGEST = "sha256:" + "0" * 64
MANIFEST = CompositionManifest(
    name="pets",
    class_names=("no", "🐟"),
    input=InputContract((8, 8, 1), "float32", (0.0, 255.0)),
    license=None,
    sources=(
        {
            "class": "no",
            "module": "cat",
            "store": DIGEST,
            "source": DIGEST,
            "model": "simcnn",
            "data": "cifar10",
            "license": None,
            "retention_rate": 0.5,
            "parameters": 3,
            "macs": 4,
        },
    ),
    sizes={"parameters": 3, "macs": 4},
    metrics={"test": {"accuracy": 0.5}},
    unshared={"parameters": 6, "macs": 8},
    output="logits",
    other="🐟",
    size="pad",
    files={"model.keras": {"size": 1, "digest": DIGEST}},
)


@pytest.fixture
def directory(tmp_path):
    write_composition_manifest(tmp_path, MANIFEST)
    return tmp_path


def edit(directory, old, new):
    path = directory / "composition.yaml"
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new, 1), encoding="utf-8")


def test_round_trip(directory):
    assert read_composition_manifest(directory) == MANIFEST


def test_support_is_the_old_name_of_auxiliary(tmp_path):
    (source,) = MANIFEST.sources
    for key in "support", "auxiliary":
        manifest = dataclasses.replace(
            MANIFEST, sources=(source, {**source, "class": "*", key: True})
        )
        write_composition_manifest(tmp_path, manifest)
        _, found = read_composition_manifest(tmp_path).sources
        assert found == {**source, "class": "*", "auxiliary": True}


def test_model_of_no_sources_is_nobodys_own():
    (source,) = MANIFEST.sources
    own = {**source, "store": None, "model": "mine"}
    for sources, expected in (((own,), True), ((), False)):
        assert (
            is_own(dataclasses.replace(MANIFEST, sources=sources)) == expected
        )


def test_long_names_of_files_fit(tmp_path):
    own = MANIFEST.class_names, MANIFEST.input, DIGEST, MANIFEST.sizes
    manifest = manifest_of_model("m" * 130, *own)
    manifest = dataclasses.replace(manifest, sizes=MANIFEST.sizes)
    write_composition_manifest(tmp_path, manifest)
    found = read_composition_manifest(tmp_path)
    assert found.name == "m" * 100
    assert found.sources[0]["model"] == "m" * 130
    assert fitting_name("m" * 130, "-way") == "m" * 96 + "-way"


def test_missing(tmp_path):
    with pytest.raises(ArtifactError, match="A composed model is a directory"):
        read_composition_manifest(tmp_path)


def test_other_version(directory):
    edit(directory, "version: 1", "version: 2")
    with pytest.raises(ArtifactError, match="Received: version=2"):
        read_composition_manifest(directory)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("macs: 4", "macs: -4", "less than the minimum"),
        ("name: pets", "name: dogs", "does not match its own digest"),
        ("name: pets", "nme: pets", "not as kmod wrote it"),
    ],
)
def test_edited(directory, old, new, message):
    edit(directory, old, new)
    with pytest.raises(IntegrityError, match=message):
        read_composition_manifest(directory)


SOURCE = {
    "class": "cat",
    "module": "Cat",
    "store": "sha256:0",
    "source": "sha256:1",
    "model": "cifar10-simcnn",
    "data": "cifar10",
    "license": "MIT",
    "retention_rate": 0.25,
    "parameters": 3,
    "macs": 4,
}
CARD = CompositionManifest(
    name="pets",
    class_names=("cat", "dog"),
    input=InputContract((8, 8, 1), "float32", (0.0, 1.0)),
    license="Apache-2.0",
    sources=(SOURCE, {**SOURCE, "class": "dog", "data": None}),
    sizes={"parameters": 1234, "macs": 5},
    unshared={"parameters": 2345, "macs": 6},
)


def card_of(formats=("keras",), **changes):
    return model_card(dataclasses.replace(CARD, **changes), formats)


def front_matter(card):
    return yaml.safe_load(re.match("---\n(.*?)---\n", card, re.DOTALL)[1])


def test_front_matter():
    data = front_matter(card_of())
    assert data["license"] == "apache-2.0"
    assert data["library_name"] == "keras"
    assert data["datasets"] == ["cifar10"]
    assert data["base_model"] == ["cifar10-simcnn"]
    assert "kmod" in data["tags"]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (None, {"license": "unknown"}),
        ("MIT", {"license": "mit"}),
        (
            "MIT AND Apache-2.0",
            {"license": "other", "license_name": "mit-and-apache-2.0"},
        ),
    ],
)
def test_license(given, expected):
    data = front_matter(card_of(license=given))
    assert {k: v for k, v in data.items() if "license" in k} == expected


def test_table_of_sources_and_figures():
    card = card_of()
    row = "| dog | Cat | cifar10\\-simcnn | not named | MIT | 25\\.0% |"
    assert f"{row} sha256:0 |" in card
    assert "| model | 1,234 | 5 |" in card
    assert "| its parts, nothing shared | 2,345 | 6 |" in card
    assert "8x8x1 with values from 0 to 1" in card


def test_checks_and_metrics():
    check = {
        "metric": "f1",
        "class": "cat",
        "data": "digits:test",
        "min": 0.5,
        "value": 0.75,
        "num_images": 9,
    }
    moved = {**check, "metric": "invariance", "shift": 1, "class": None}
    moved |= {"min": None, "max": 0.9}
    scores = {**moved, "metric": "score_range", "value": [0.25, 1.0]}
    del scores["shift"]
    scores |= {"data": None, "min": 0, "max": 1}
    checks = [check, moved, scores]
    card = card_of(metrics={"checks": checks, "test": {"after": {"f1": 0.5}}})
    assert "| f1 | cat | digits:test | 0\\.7500 | at least 0\\.5 |" in card
    moved = "| invariance \\(shift 1\\) | all | digits:test | 0\\.7500 |"
    assert f"{moved} at most 0\\.9 |" in card
    row = "| score\\_range | all |  | 0\\.2500 to 1\\.0000 | from 0 to 1 |"
    assert row in card
    assert "| test after f1 | 0\\.5000 |" in card


def test_other_class_is_explained():
    assert "The class none\\! is for images" in card_of(other="none!")


@pytest.mark.parametrize("name", LOADING)
def test_only_what_is_there_is_loaded(name):
    card = card_of(formats=[name])
    assert LOADING[name] in card
    for other in LOADING.keys() - {name}:
        assert LOADING[other] not in card


def test_names_can_not_break_out():
    evil = "a|b\n# x [y](javascript:z) <script> `c` --- **d**"
    source = {**SOURCE, "class": evil, "model": evil, "data": evil}
    card = card_of(name=evil, sources=[source], license="MIT")
    body = card.split("---\n", 2)[2]
    assert "<script>" not in body and "\n# x" not in body
    assert "[y](" not in body
    row = next(line for line in body.splitlines() if "| Cat |" in line)
    assert len(re.findall(r"(?<!\\)\|", row)) == 8
    data = front_matter(card)
    assert "base_model" not in data and "datasets" not in data


@pytest.mark.parametrize(
    "classes, answers",
    [
        (["a"], True),  # A weak model does, for b.
        (["a", "*"], True),
        (["a", "b"], False),
        (["*"], False),
        (["*", "*"], False),
    ],
)
def test_only_a_weak_model_answers_where_some_classes_lack_modules(
    classes, answers
):
    (source,) = MANIFEST.sources
    sources = tuple({**source, "class": name} for name in classes)
    manifest = dataclasses.replace(
        MANIFEST, class_names=("a", "b", "none"), sources=sources, other="none"
    )
    assert is_patched(manifest) == answers
