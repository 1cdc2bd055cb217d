from pathlib import Path

import pytest

from kmod.composition.findings import Findings
from kmod.errors import ArtifactError
from kmod.errors import IntegrityError
from kmod.spec.faults import UnfitSourcesError
from kmod.spec.model import Spec

PLACES = {(): (1, 1), ("stores", "a"): (4, 3), ("stores", "a", "path"): (4, 12)}


def findings_of(path="/specs/pets.yaml", places=PLACES):
    return Findings(Spec("pets", Path(path), {}, places=places))


def test_nothing_found_raises_nothing():
    findings = findings_of()
    findings.warn(("stores", "a"), "it looks odd.")
    findings.check()
    assert findings.warnings == (
        "/specs/pets.yaml:4:3: warning: it looks odd.",
    )


def test_faults_come_in_file_order_on_a_line_each():
    findings = findings_of()
    findings.add(("stores", "a", "path"), ArtifactError("it is\nnot there."))
    findings.add((), "it is odd.")
    with pytest.raises(UnfitSourcesError) as caught:
        findings.check()
    assert caught.value.exit_code == 3
    assert str(caught.value).splitlines() == [
        "/specs/pets.yaml:1:1: it is odd.",
        "/specs/pets.yaml:4:12: it is not there.",
    ]


def test_one_broken_source_makes_it_an_integrity_error():
    findings = findings_of()
    findings.add((), IntegrityError("changed."))
    findings.add((), "missing.")
    with pytest.raises(IntegrityError) as caught:
        findings.check()
    assert caught.value.exit_code == 4
    assert len(caught.value.faults) == 2


def test_key_that_is_not_written_stands_in_its_parent():
    findings = findings_of()
    findings.warn(("stores", "a", "digest"), "x")
    assert findings.warnings[0].startswith("/specs/pets.yaml:4:3:")


def test_spec_of_no_file_has_its_faults_in_the_first_line():
    findings = findings_of(places={})
    findings.warn(("stores", "a"), "x")
    assert findings.warnings == ("/specs/pets.yaml:1:1: warning: x",)


def test_path_is_shown_as_seen_from_here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    findings = findings_of(tmp_path / "specs" / "pets.yaml")
    findings.warn((), "x")
    assert findings.warnings == ("specs/pets.yaml:1:1: warning: x",)
