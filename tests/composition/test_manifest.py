import pytest

from kmod.composition.manifest import CompositionManifest
from kmod.composition.manifest import read_composition_manifest
from kmod.composition.manifest import write_composition_manifest
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
