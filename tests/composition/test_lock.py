import dataclasses
import shutil

import pytest
import yaml

from kmod.composition.lock import check_lock
from kmod.composition.lock import lock_data
from kmod.composition.lock import lock_path
from kmod.composition.lock import write_lock
from kmod.composition.plan import plan
from kmod.errors import CheckError
from kmod.errors import IntegrityError
from kmod.files import file_digest
from kmod.files.manifest import installed_versions
from kmod.spec.model import ModuleRef
from kmod.spec.spec_file import load_spec


@pytest.fixture
def planned(write_spec):
    classes = [("cat", "a", "cat"), ("no", "a", "no"), ("dog", "b", "dog")]
    return plan(load_spec(write_spec(classes)))


def test_lock_names_all_that_is_used(planned, stores):
    data = lock_data(planned)
    assert data["created_by"] == installed_versions()
    assert data["stores"]["a"] == {
        "digest": stores["a"].digest,
        "modules": {name: stores["a"].content(name) for name in ("cat", "no")},
    }
    assert list(data["stores"]["b"]["modules"]) == ["dog"]
    assert "base" not in data


def test_lock_lies_beside_the_spec(planned):
    path = write_lock(planned)
    assert path == lock_path(planned.spec.path)
    assert path.name == "spec.lock.yaml"
    assert yaml.safe_load(path.read_text()) == lock_data(planned)
    check_lock(planned)


def test_lock_may_be_written_elsewhere(planned, tmp_path):
    path = write_lock(planned, tmp_path / "lock.yaml")
    assert yaml.safe_load(path.read_text()) == lock_data(planned)


def test_weak_model_is_locked(write_spec, tmp_path):
    module = {"store": "a", "class": "cat"}
    path = write_spec(
        classes=(),
        base={"path": "weak.keras", "classes": ["cat", "dog"]},
        patches=[{"class": "cat", "module": module}],
    )
    weak = path.parent / "weak.keras"
    weak.write_bytes(b"weak")
    planned = plan(load_spec(path))
    assert lock_data(planned)["base"] == {"digest": file_digest(weak)}
    write_lock(planned)
    weak.write_bytes(b"weaker")
    with pytest.raises(CheckError, match="base.digest is sha256:.*, locked as"):
        check_lock(planned)


def test_missing_lock(planned):
    with pytest.raises(CheckError, match="no file .*spec.lock.yaml"):
        check_lock(planned)


def test_another_store_is_drift(planned, stores, tmp_path):
    write_lock(planned)
    other = shutil.copytree(stores["b"].path, tmp_path / "other")
    spec = planned.spec
    ref = dataclasses.replace(spec.stores["a"], path=other)
    spec = dataclasses.replace(spec, stores={**spec.stores, "a": ref})
    with pytest.raises(CheckError) as caught:
        check_lock(plan(spec))
    message = str(caught.value)
    assert f"stores.a.digest is {stores['b'].digest}" in message
    assert f"locked as {stores['a'].content('cat')}" in message
    assert "stores.b" not in message


def test_another_module_is_drift(planned):
    write_lock(planned)
    first, *rest = planned.spec.classes
    first = dataclasses.replace(first, modules=(ModuleRef("a", "dog"),))
    spec = dataclasses.replace(planned.spec, classes=(first, *rest))
    with pytest.raises(CheckError) as caught:
        check_lock(plan(spec))
    assert "stores.a.modules.cat is not used, locked as" in str(caught.value)
    assert "stores.a.modules.dog is sha256:" in str(caught.value)


def test_another_version_is_drift(planned):
    path = write_lock(planned)
    version = installed_versions()["keras"]
    path.write_text(path.read_text().replace(version, "3.0.0"))
    message = f"created_by.keras is {version}, locked as 3.0.0"
    with pytest.raises(CheckError, match=message):
        check_lock(planned)


@pytest.mark.parametrize(
    ("text", "error"),
    [("a: [", IntegrityError), ("a: &x 1", IntegrityError), ("1", CheckError)],
)
def test_file_that_is_no_lock(planned, text, error):
    lock_path(planned.spec.path).write_text(text)
    with pytest.raises(error):
        check_lock(planned)
