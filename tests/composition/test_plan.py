import dataclasses
import shutil

import pytest

from kmod.composition.plan import plan
from kmod.errors import ArtifactError
from kmod.errors import IntegrityError
from kmod.spec.loader import load_spec
from kmod.store.manifest import read_store_manifest
from kmod.store.manifest import write_store_manifest


def plan_of(path):
    return plan(load_spec(path))


def test_figures_come_from_the_manifests(stores, write_spec):
    classes = [("kitten", "a", "cat"), ("no", "b", "no")]
    planned = plan_of(write_spec(classes)).as_dict()
    assert planned["class_names"] == ["kitten", "no"]
    assert planned["input"]["shape"] == (8, 8, 1)
    assert planned["stores"] == {n: s.digest for n, s in stores.items()}
    infos = stores["a"].info("cat"), stores["b"].info("no")
    for key in ("parameters", "macs"):
        figures = [getattr(info, key) for info in infos]
        assert [row[key] for row in planned["classes"]] == figures
        assert planned["total"][key] == sum(figures)
    kept = infos[0].kept_kernels
    assert planned["classes"][0]["kernels"] == sum(map(len, kept.values()))
    assert planned["classes"][0]["module"] == "cat"


def test_unused_stores_are_not_opened(stores, write_spec):
    used = {"path": f"../{stores['a'].path.name}"}
    unused = {"path": "../nowhere"}
    planned = plan_of(write_spec(stores={"a": used, "x": unused}))
    assert list(planned.stores) == ["a"]


def test_missing_store(write_spec):
    path = write_spec(stores={"a": {"path": "../nowhere"}})
    with pytest.raises(ArtifactError, match="A module store is a directory"):
        plan_of(path)


def test_missing_class(write_spec):
    path = write_spec([("cat", "a", "cat"), ("dog", "a", "dgo")])
    with pytest.raises(ArtifactError, match="Did you mean 'dog'"):
        plan_of(path)


def test_digest(stores, write_spec):
    name = stores["a"].path.name
    good = {"a": {"path": f"../{name}", "digest": stores["a"].digest}}
    assert plan_of(write_spec(stores=good)).stores["a"].path.name == name
    bad = {"a": {"path": f"../{name}", "digest": stores["b"].digest}}
    with pytest.raises(IntegrityError, match="'a' must have the digest"):
        plan_of(write_spec(stores=bad))


def test_modules_must_take_the_same_images(stores, write_spec, tmp_path):
    other = shutil.copytree(stores["b"].path, tmp_path / "other")
    manifest = read_store_manifest(other)
    contract = dataclasses.replace(manifest.input, range=(0.0, 1.0))
    manifest = dataclasses.replace(manifest, input=contract)
    write_store_manifest(other, manifest)
    classes = [("cat", "a", "cat"), ("dog", "b", "dog")]
    spec = load_spec(write_spec(classes))
    ref = dataclasses.replace(spec.stores["b"], path=other)
    spec = dataclasses.replace(spec, stores={**spec.stores, "b": ref})
    message = "from 0 to 255; 'b' takes .* from 0 to 1. Take the modules"
    with pytest.raises(ArtifactError, match=message):
        plan(spec)


def test_missing_base(write_spec):
    module = {"store": "a", "class": "cat"}
    path = write_spec(
        classes=(),
        base={"path": "nowhere.keras", "classes": ["cat", "dog"]},
        patches=[{"class": "cat", "module": module}],
    )
    with pytest.raises(ArtifactError, match="nowhere.keras', which does not"):
        plan_of(path)
