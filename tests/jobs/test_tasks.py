import dataclasses
import os
import platform
import shutil
import subprocess
import sys

import pytest

import kmod
from kmod.errors import ArtifactError
from kmod.errors import IntegrityError
from kmod.errors import UsageError
from kmod.files import file_record
from kmod.files.manifest import write_sealed
from kmod.jobs.job_file import Job
from kmod.jobs.job_file import ModelJob
from kmod.jobs.tasks import MASKS_FILE
from kmod.jobs.tasks import MODEL_FILE
from kmod.jobs.tasks import clear
from kmod.jobs.tasks import is_done
from kmod.jobs.tasks import model_task
from kmod.jobs.tasks import tasks_of
from kmod.modules.manifest import write_store_manifest


@pytest.fixture
def job(tmp_path):
    (tmp_path / "a.keras").write_bytes(b"model")
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "1.jpg").write_bytes(b"one")
    return Job(
        store="a",
        out=tmp_path / "stores" / "a",
        model=tmp_path / "a.keras",
        data=str(tmp_path / "photos"),
        options={"epochs": 1},
        shards=1,
        place=(1, 1),
    )


@pytest.fixture
def model_job(job, donor):
    return ModelJob(
        name="better",
        kind="patch",
        out=job.out.parent.parent / "built" / "better",
        model=job.model,
        stores=(donor.path, job.out),
        data="digits:validation",
        options={},
        place=(1, 1),
    )


def digest_of(job):
    *_, last = tasks_of(job)
    return last.digest


def test_a_digest_is_that_of_source_data_and_options(job):
    digests = [digest_of(job)]
    assert digest_of(job) == digests[0]
    digests.append(digest_of(dataclasses.replace(job, options={"epochs": 2})))
    digests.append(digest_of(dataclasses.replace(job, data="digits")))
    job.model.write_bytes(b"other")
    digests.append(digest_of(job))
    (job.model.parent / "photos" / "2.jpg").write_bytes(b"two")
    digests.append(digest_of(job))
    assert len(set(digests)) == len(digests)


def test_links_among_images_are_followed(job, tmp_path):
    photos, elsewhere = tmp_path / "photos", tmp_path / "elsewhere"
    elsewhere.mkdir()
    (photos / "cats").symlink_to(elsewhere)
    (photos / "loop").symlink_to(photos)
    (photos / "gone").symlink_to(tmp_path / "nothing")
    before = digest_of(job)
    (photos / ".hidden").write_bytes(b"x")
    assert digest_of(job) == before
    (elsewhere / "3.jpg").write_bytes(b"three")
    assert digest_of(job) != before


def test_shards_need_masks_and_make_the_same_store(job):
    masks, *parts, merge = tasks_of(dataclasses.replace(job, shards=3))
    assert [part.part for part in parts] == [(0, 3), (1, 3), (2, 3)]
    assert {tuple(part.needs) for part in parts} == {(masks.name,)}
    assert list(merge.needs) == [masks.name, *(part.name for part in parts)]
    assert (merge.out, merge.digest) == (str(job.out), digest_of(job))
    assert len({task.out for task in (masks, *parts, merge)}) == 5


@pytest.mark.parametrize("missing", ["a.keras", "photos"])
def test_what_is_missing_is_said(job, missing):
    path = job.model.parent / missing
    path.rename(path.with_name("elsewhere"))
    with pytest.raises(ArtifactError, match=f"{missing}', which does not"):
        tasks_of(job)


def test_a_store_counts_if_it_is_whole_and_of_the_task(job, donor):
    (task,) = tasks_of(job)
    assert not is_done(task)
    shutil.copytree(donor.path, job.out)
    assert not is_done(task)
    arguments = {**donor.manifest.arguments, "task": task.digest}
    manifest = dataclasses.replace(donor.manifest, arguments=arguments)
    write_store_manifest(job.out, manifest)
    assert is_done(task)
    next(job.out.glob("*/saved_model.pb")).write_bytes(b"")
    with pytest.raises(IntegrityError):
        is_done(task)


def test_a_model_is_known_by_its_stores(job, model_job, poor):
    (maker,) = tasks_of(job)
    makers = {maker.out: maker}
    task = model_task(model_job, makers)
    assert task.needs == {"a": maker.out}
    assert model_task(model_job, makers).digest == task.digest
    stores = (poor.path, job.out)
    other = dataclasses.replace(model_job, stores=stores)
    assert model_task(other, makers).digest != task.digest
    (maker,) = tasks_of(dataclasses.replace(job, options={"epochs": 2}))
    assert model_task(model_job, {maker.out: maker}).digest != task.digest
    with pytest.raises(ArtifactError, match="store.yaml"):
        model_task(model_job, {})


def test_a_model_counts_if_it_is_whole_and_of_the_task(
    model_job, weak, donor, digits
):
    job = dataclasses.replace(model_job, stores=(donor.path,))
    task = model_task(job, {})
    assert not is_done(task)
    images, names = digits.validation, digits.class_names
    model = kmod.patch(weak, "8", donor["8"], images, class_names=names)
    for arguments, is_right in (None, False), ({"task": task.digest}, True):
        kmod.save(
            model,
            job.out,
            formats=["keras"],
            arguments=arguments,
            overwrite=True,
        )
        assert is_done(task) == is_right
    (job.out / "model.keras").write_bytes(b"")
    with pytest.raises(IntegrityError):
        is_done(task)


def test_clearing_leaves_what_kmod_did_not_write(job):
    masks, *_, merge = tasks_of(dataclasses.replace(job, shards=2))
    folder = job.out.with_name(f".a.{masks.digest[7:19]}.masks")
    assert masks.out == str(folder)
    folder.mkdir(parents=True)
    (folder / MODEL_FILE).write_bytes(b"masks")
    files = {MODEL_FILE: file_record(folder / MODEL_FILE)}
    write_sealed(folder / MASKS_FILE, {"files": files})
    assert is_done(masks)
    (folder / "thesis.txt").write_text("dear")
    with pytest.raises(UsageError, match="thesis.txt"):
        clear(job)
    (folder / "thesis.txt").unlink()
    (job.out.parent / ".a.notes").mkdir()
    done = subprocess.Popen([sys.executable, "-c", ""])
    done.wait()
    half_written = {
        pid: [
            f".{name}.tmp-{platform.node()}-{pid}-0123abcd"
            for name in (folder.name, job.out.name)
        ]
        for pid in (done.pid, os.getpid())
    }
    for name in sum(half_written.values(), []):
        folder.with_name(name).mkdir()
    clear(job)
    left = {path.name for path in job.out.parent.iterdir()}
    assert left == {".a.notes", *half_written[os.getpid()]}
