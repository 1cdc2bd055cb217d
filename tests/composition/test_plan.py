import dataclasses
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from kmod.composition.composer import compose_plan
from kmod.composition.lock import lock_data
from kmod.composition.plan import Faults
from kmod.composition.plan import plan
from kmod.errors import ArtifactError
from kmod.errors import IntegrityError
from kmod.graph.sizes import model_sizes
from kmod.modules.manifest import InputContract
from kmod.modules.manifest import read_store_manifest
from kmod.modules.manifest import write_store_manifest
from kmod.spec.faults import UnfitSourcesError
from kmod.spec.model import ClassEntry
from kmod.spec.model import InputSpec
from kmod.spec.model import ModuleRef
from kmod.spec.model import Spec
from kmod.spec.model import StoreRef
from kmod.spec.spec_file import load_spec


def plan_of(path):
    return plan(load_spec(path))


def test_figures_come_from_the_manifests(stores, write_spec):
    classes = [("kitten", "a", "cat"), ("no", "b", "no")]
    planned = plan_of(write_spec(classes)).as_dict()
    assert planned["class_names"] == ["kitten", "no"]
    assert planned["input"]["shape"] == (8, 8, 1)
    assert planned["stores"] == {
        name: {
            "path": str(store.path),
            "digest": store.digest,
            "license": None,
            "adapter": {},
        }
        for name, store in stores.items()
    }
    infos = stores["a"].info("cat"), stores["b"].info("no")
    for key in ("parameters", "macs"):
        figures = [getattr(info, key) for info in infos]
        assert [row[key] for row in planned["classes"]] == figures
        assert planned["total"][key] == sum(figures)
    kept = infos[0].kept_kernels
    assert planned["classes"][0]["kernels"] == sum(map(len, kept.values()))
    assert planned["classes"][0]["module"] == "cat"


def test_a_module_counts_once_in_the_estimate(stores, write_spec):
    path = write_spec([("x", "a", "cat"), ("y", "a", "cat"), ("z", "b", "no")])
    planned = plan_of(path).as_dict()
    cat, no = stores["a"].sizes("cat"), stores["b"].sizes("no")
    assert planned["total"]["macs"] == 2 * cat.macs + no.macs
    assert planned["estimate"]["macs"] == cat.macs + no.macs


def test_estimate_is_the_size_of_the_composed_model(stores, write_spec):
    classes = [("x", "a", "cat"), ("y", "a", "dog"), ("z", "b", "no")]
    planned = plan_of(write_spec(classes))
    sizes = model_sizes(compose_plan(planned))
    made = {"parameters": sizes.parameters, "macs": sizes.macs}
    # Normalization goes into other layers when a model is laid out anew.
    assert planned.as_dict()["estimate"] == pytest.approx(made, rel=0.07)
    assert planned.as_dict()["total"] != pytest.approx(made, rel=0.1)


def test_a_class_may_have_several_modules(stores, write_spec):
    pets = ModuleRef("a", "cat"), ModuleRef("a", "dog")
    classes = ClassEntry("pet", pets), ClassEntry("no", (ModuleRef("b", "no"),))
    spec = load_spec(write_spec())
    planned = plan(dataclasses.replace(spec, classes=classes))
    found = [[m.ref.class_name for m in c.modules] for c in planned.classes]
    assert found == [["cat", "dog"], ["no"]]
    rows = [row["class"] for row in planned.as_dict()["classes"]]
    assert rows == ["pet", "pet", "no"]


def test_figures_of_older_stores_come_from_their_modules(
    stores, write_spec, tmp_path
):
    old = shutil.copytree(stores["a"].path, tmp_path / "old")
    manifest = read_store_manifest(old)
    records = [dataclasses.replace(r, sizes=None) for r in manifest.modules]
    write_store_manifest(
        old, dataclasses.replace(manifest, modules=tuple(records))
    )
    spec = load_spec(write_spec())
    ref = dataclasses.replace(spec.stores["a"], path=old)
    planned = plan(dataclasses.replace(spec, stores={"a": ref}))
    manifest = planned.stores["a"].manifest
    assert manifest.content_digest == stores["a"].manifest.content_digest
    assert planned.classes == plan(spec).classes


def test_unused_stores_are_not_opened(stores, write_spec):
    used = {"path": f"../{stores['a'].path.name}"}
    unused = {"path": "../nowhere"}
    planned = plan_of(write_spec(stores={"a": used, "x": unused}))
    assert list(planned.stores) == ["a"]


JOINT = {
    "calibration": "joint",
    "data": {"name": "digits", "split": "validation"},
}


def test_supporting_modules_count(stores, write_spec):
    auxiliary = [{"store": "b", "class": "no"}]
    planned = plan_of(write_spec(scores={**JOINT, "auxiliary": auxiliary}))
    assert list(planned.stores) == ["a", "b"]
    rows = planned.as_dict()["classes"]
    assert [row["class"] for row in rows] == ["cat", "dog", "*"]
    assert rows[2]["store"] == "b" and rows[2]["module"] == "no"
    macs = [row["macs"] for row in rows]
    assert planned.as_dict()["total"]["macs"] == sum(macs)


def test_missing_supporting_class(write_spec):
    auxiliary = [{"store": "b", "class": "on"}]
    path = write_spec(scores={**JOINT, "auxiliary": auxiliary})
    with pytest.raises(
        ArtifactError, match=r"spec.yaml:\d+:\d+: store 'b' has"
    ):
        plan_of(path)


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
    message = "spec.yaml:6:13: store 'a' must have this digest"
    with pytest.raises(IntegrityError, match=message):
        plan_of(write_spec(stores=bad))


@pytest.fixture
def other_range(stores, write_spec, tmp_path):
    """A spec of two stores that take images of different range."""
    other = shutil.copytree(stores["b"].path, tmp_path / "other")
    manifest = read_store_manifest(other)
    contract = dataclasses.replace(manifest.input, range=(0.0, 1.0))
    manifest = dataclasses.replace(manifest, input=contract)
    write_store_manifest(other, manifest)
    classes = [("cat", "a", "cat"), ("dog", "b", "dog")]
    spec = load_spec(write_spec(classes))
    ref = dataclasses.replace(spec.stores["b"], path=other)
    return dataclasses.replace(spec, stores={**spec.stores, "b": ref})


def test_modules_must_take_the_same_images(other_range):
    message = "store 'b' for .* from 0 to 1, others for .* from 0 to 255"
    with pytest.raises(ArtifactError, match=f"spec.yaml:7:5: .*{message}"):
        plan(other_range)


def test_images_are_adapted_to_what_modules_take(other_range):
    images = InputSpec((8, 8, 1), (0.0, 255.0))
    planned = plan(dataclasses.replace(other_range, input=images))
    assert planned.input == InputContract((8, 8, 1), "float32", (0, 255))
    assert not planned.adaptations["a"].is_needed
    assert planned.adaptations["b"].rescale == (1 / 255, 0)


def test_images_that_can_not_be_adapted(other_range):
    images = InputSpec((8, 8, 2), (0.0, 255.0))
    with pytest.raises(ArtifactError, match="channels are the same") as caught:
        plan(dataclasses.replace(other_range, input=images))
    assert len(caught.value.faults) == 2


def with_licences(stores, spec, tmp_path, **licences):
    """Copies the stores, gives them licences and the spec these stores."""
    refs = {}
    for name, licence in licences.items():
        path = shutil.copytree(stores[name].path, tmp_path / f"{name}-copy")
        manifest = read_store_manifest(path)
        write_store_manifest(
            path, dataclasses.replace(manifest, license=licence)
        )
        refs[name] = StoreRef(path)
    return dataclasses.replace(spec, stores=refs)


def test_licences_of_the_stores_must_permit_the_result(
    stores, write_spec, tmp_path
):
    classes = [("cat", "a", "cat"), ("dog", "b", "dog")]
    spec = load_spec(write_spec(classes, license="MIT"))
    copies = {"a": "GPL-3.0-only", "b": "BSD-3-Clause"}
    spec = with_licences(stores, spec, tmp_path, **copies)
    message = "store 'a' does not permit this licence: GPL-3.0-only permits"
    with pytest.raises(ArtifactError, match=message) as caught:
        plan(spec)
    (fault,) = caught.value.faults
    assert (fault.line, fault.column) == spec.places["license",]


@pytest.mark.parametrize(
    ("licences", "result", "warning"),
    [
        ({"a": "MIT"}, "Apache-2.0", None),
        ({"a": None}, None, None),
        ({"a": None}, "MIT", "store 'a' names no licence"),
        ({"a": "MIT"}, None, "names no `license`. Its modules have MIT."),
        ({"a": "Mine"}, "MIT", "whether store 'a' of Mine permits MIT is not"),
        ({"a": "GPL 3"}, "MIT", "is no SPDX expression: Invalid symbols"),
    ],
)
def test_licences_that_are_not_known_are_warned_of(
    stores, write_spec, tmp_path, licences, result, warning
):
    spec = load_spec(write_spec(license=result))
    planned = plan(with_licences(stores, spec, tmp_path, **licences))
    assert len(planned.warnings) == (warning is not None)
    if warning is not None:
        assert warning in planned.warnings[0]
        assert "spec.yaml:" in planned.warnings[0]


@pytest.mark.parametrize(
    ("donors", "scores", "found"),
    [
        pytest.param(
            "ab", None, ["store 'a' holds", "store 'b' holds"], id="two"
        ),
        pytest.param("ab", {"calibration": "none"}, ["stored"], id="raw"),
        pytest.param(
            "ab",
            {"calibration": "fit", "data": {"name": "x", "split": "train"}},
            [],
            id="fitted",
        ),
        pytest.param("aa", None, [], id="one-source"),
    ],
)
def test_scores_of_different_sources_are_warned_of(
    write_spec, donors, scores, found
):
    first, second = donors
    classes = [("cat", first, "cat"), ("dog", second, "dog")]
    warnings = plan_of(write_spec(classes, scores=scores)).warnings
    assert len(warnings) == len(found)
    for warning, text in zip(warnings, found):
        assert "sure of each other's images." in warning and text in warning


def test_all_faults_are_reported_at_once(stores, write_spec):
    """In file order, and as broken if one of them is a digest."""
    wrong = {"path": f"../{stores['b'].path.name}"}
    path = write_spec(
        [("cat", "a", "cta"), ("dog", "b", "dog"), ("x", "c", "x")],
        stores={
            "a": {"path": f"../{stores['a'].path.name}"},
            "b": {**wrong, "digest": stores["a"].digest},
            "c": {"path": "../nowhere"},
        },
    )
    with pytest.raises(IntegrityError) as caught:
        plan_of(path)
    assert caught.value.exit_code == 4
    lines = str(caught.value).splitlines()
    assert ["must have this digest" in line for line in lines].index(True) == 0
    assert "A module store is a directory" in lines[1]
    assert "has no module of class 'cta'. Did you mean 'cat'?" in lines[2]
    assert len(lines) == 3


def test_missing_base(write_spec):
    module = {"store": "a", "class": "cat"}
    path = write_spec(
        classes=(),
        base={"path": "nowhere.keras", "classes": ["cat", "dog"]},
        patches=[{"class": "cat", "module": module}],
    )
    with pytest.raises(ArtifactError, match="nowhere.keras', which does not"):
        plan_of(path)


def test_planning_imports_no_framework(write_spec):
    code = (
        "import sys\n"
        "from kmod.composition.plan import plan\n"
        "from kmod.spec.spec_file import load_spec\n"
        f"plan(load_spec({str(write_spec())!r}))\n"
        "sys.exit(str({'keras', 'tensorflow', 'jax'} & sys.modules.keys()))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True
    )
    assert done.stderr == "set()\n"


PLACES = {(): (1, 1), ("stores", "a"): (4, 3), ("stores", "a", "path"): (4, 12)}


def faults_of(path="/specs/pets.yaml", places=PLACES):
    return Faults(Spec("pets", Path(path), {}, places=places))


def test_nothing_found_raises_nothing():
    faults = faults_of()
    faults.warn(("stores", "a"), "it looks odd.")
    faults.check()
    assert faults.warnings == ("/specs/pets.yaml:4:3: warning: it looks odd.",)


def test_faults_come_in_file_order_on_a_line_each():
    faults = faults_of()
    faults.add(("stores", "a", "path"), ArtifactError("it is\nnot there."))
    faults.add((), "it is odd.")
    with pytest.raises(UnfitSourcesError) as caught:
        faults.check()
    assert caught.value.exit_code == 3
    assert str(caught.value).splitlines() == [
        "/specs/pets.yaml:1:1: it is odd.",
        "/specs/pets.yaml:4:12: it is not there.",
    ]


def test_one_broken_source_makes_it_an_integrity_error():
    faults = faults_of()
    faults.add((), IntegrityError("changed."))
    faults.add((), "missing.")
    with pytest.raises(IntegrityError) as caught:
        faults.check()
    assert caught.value.exit_code == 4
    assert len(caught.value.faults) == 2


def test_key_that_is_not_written_stands_in_its_parent():
    faults = faults_of()
    faults.warn(("stores", "a", "digest"), "x")
    assert faults.warnings[0].startswith("/specs/pets.yaml:4:3:")


def test_spec_of_no_file_has_its_faults_in_the_first_line():
    faults = faults_of(places={})
    faults.warn(("stores", "a"), "x")
    assert faults.warnings == ("/specs/pets.yaml:1:1: warning: x",)


def test_path_is_shown_as_seen_from_here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    faults = faults_of(tmp_path / "specs" / "pets.yaml")
    faults.warn((), "x")
    assert faults.warnings == ("specs/pets.yaml:1:1: warning: x",)


def test_prior_needs_known_frequencies(write_spec):
    message = (
        r"spec.yaml:\d+:\d+: `prior` takes off how .* nothing of them: 'cat' "
        "of store 'a', 'dog' of store 'a'. Calibrate them anew"
    )
    with pytest.raises(ArtifactError, match=message):
        plan_of(write_spec(scores={"prior": "even"}))
    planned = plan_of(write_spec(scores={"prior": "calibrated"}))
    assert planned.shifts == (0, 0)


def test_stores_of_unknown_frequencies_stay_as_they_are(write_spec):
    planned = plan_of(write_spec())
    assert planned.prior is None and planned.shifts == (0, 0)
    assert "prior" not in lock_data(planned)


def test_few_images_of_a_class_are_said(uneven, write_spec, monkeypatch):
    stores = {"u": {"path": f"../{uneven.path.name}"}}
    path = write_spec((("a", "u", "dog"), ("b", "u", "no")), stores=stores)
    assert plan_of(path).warnings == ()
    monkeypatch.setattr("kmod.composition.plan.FEW_IMAGES", 25)
    (warning,) = plan_of(path).warnings
    assert "module 'dog' of store 'u' is calibrated on 20 images" in warning
    row = plan_of(path).as_dict()["classes"][0]
    assert row["calibrated_on"] == {"num_images": 100, "num_class_images": 20}
