"""What earlier versions wrote loads and answers as it did.

`tests/golden` is kept for ever. `store` and `two` were written before 27
November 2026, by the version whose digests of stores did not yet cover
SavedModels; `weak.keras`, `patched` with its lock and `slim` on 29 November
2026. What a later format needs is added beside them.
"""

import shutil
from pathlib import Path

import numpy as np
import pytest

import kmod
from kmod.cli.main import main
from kmod.composition.saving import load

GOLDEN = Path(__file__).parent / "golden"
# What `kmod inspect` printed then.
OLD_DIGEST = (
    "sha256:2124b7280c5c63c49d2ab1b817b9ff4c7367651f23b4cdf3e23ad273a71c501e"
)


@pytest.fixture(scope="module")
def answers():
    with np.load(GOLDEN / "answers.npz") as saved:
        return {name: saved[name] for name in saved.files}


@pytest.fixture
def golden(tmp_path):
    """A copy that a test may change."""
    return shutil.copytree(GOLDEN, tmp_path / "golden")


def same(model, images, expected):
    found = model.predict(images, verbose=0)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", ["zero", "three", "seven"])
def test_module_answers_as_it_did(answers, name):
    store = kmod.load_store(GOLDEN / "store")
    same(store[name].model, answers["images"], answers[name])


def test_spec_composes_as_it_did(answers):
    model = kmod.compose(GOLDEN / "two.yaml")
    same(model, answers["images"], answers["two"])


@pytest.mark.parametrize("name", ["two", "patched", "slim"])
def test_saved_model_answers_as_it_did(answers, name):
    model = load(GOLDEN / name)
    same(model, answers["images"], answers[name])


def test_patch_spec_composes_as_it_did(answers):
    model = kmod.compose(GOLDEN / "patched.yaml")
    same(model, answers["images"], answers["patched"])


def test_lock_still_holds(capsys):
    assert main(["lock", "--check", str(GOLDEN / "patched.yaml")]) == 0


def test_saved_forms_answer_alike(capsys):
    for name in ("two", "store", "patched", "slim"):
        assert main(["test", str(GOLDEN / name)]) == 0


def test_lock_that_covers_no_savedmodel_is_written_anew(golden, capsys):
    spec = str(golden / "two.yaml")
    assert main(["lock", "--check", spec]) == 5
    said = " ".join(capsys.readouterr().err.split())
    assert "Received: version=1 in" in said
    assert "with `kmod lock two.yaml`" in said
    assert main(["lock", spec]) == 0
    assert main(["lock", "--check", spec]) == 0


def test_pin_that_covers_no_savedmodel_is_refused(golden, capsys):
    store = kmod.load_store(golden / "store")
    assert store.manifest.content_digest == OLD_DIGEST
    spec = golden / "two.yaml"
    old = spec.read_text()
    pin = "golden: {path: store, digest: '%s'}"
    spec.write_text(old.replace("golden: {path: store}", pin % OLD_DIGEST))
    assert main(["compose", "--dry-run", str(spec)]) == 4
    said = " ".join(capsys.readouterr().err.split())
    assert "which earlier specs have and which covers no SavedModel" in said
    assert store.digest in said
    spec.write_text(old.replace("golden: {path: store}", pin % store.digest))
    assert main(["compose", "--dry-run", str(spec)]) == 0


def test_store_may_be_replaced(golden):
    from kmod.files import check_output
    from kmod.modules.module_store import list_store

    check_output(golden / "store", overwrite=True, listing=list_store)


@pytest.mark.parametrize(
    ("path", "version"),
    [
        pytest.param("store/store.yaml", 2, id="newer-store"),
        pytest.param("store/three/assets.extra/module.yaml", 2, id="module"),
        pytest.param("two/composition.yaml", 2, id="newer-model"),
        pytest.param("two/composition.yaml", 0, id="older-model"),
    ],
)
def test_other_formats_are_named_and_not_guessed(golden, path, version):
    """Another version is no damage: the message says what reads it."""
    from kmod.errors import ArtifactError
    from kmod.errors import IntegrityError
    from kmod.modules.module_store import read_module

    file = golden / path
    text = file.read_text(encoding="utf-8")
    file.write_text(text.replace("version: 1\n", f"version: {version}\n", 1))
    folder = golden / path.split("/")[0]
    if "module" in path:  # By itself: a store tells any change of it.
        folder = shutil.copytree(folder / "three", golden / "alone")
    reads = {"store": kmod.load_store, "two": load, "alone": read_module}
    with pytest.raises(ArtifactError, match=f"version={version} in") as caught:
        reads[folder.name](folder)
    assert not isinstance(caught.value, IntegrityError)
    assert "Use the kmod that wrote it" in str(caught.value)
