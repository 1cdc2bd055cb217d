"""The directory in which a run keeps what it needs to go on.

`run.json` says what run it is: of which source, data and arguments. What the
run has reached is in checkpoints. Each is one file, written whole: its name
holds its number and the digest of its bytes, and it says itself which run it
is of. So a damaged or half-written one and one of another run are never used;
the one before is.
"""

import dataclasses
import hashlib
import io
import json
import logging
import re
import reprlib
import secrets
import zipfile
import zlib
from collections.abc import Iterator
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from kmod.errors import ArtifactError
from kmod.errors import UsageError
from kmod.errors import reason_of
from kmod.files import atomic_write
from kmod.files import data_digest

_log = logging.getLogger("kmod")

RUN_FILE = "run.json"
SENSITIVITY_FILE = "sensitivity.json"

_NUM_KEPT = 2
_CHECKPOINT = re.compile(r"([a-z]+)-(\d{4,})-([0-9a-f]{16})\.npz")
_TEMPORARY = re.compile(r"\.(.+)\.tmp-.+")
_HEADER = "header"


@dataclasses.dataclass(frozen=True, eq=False)
class Checkpoint:
    """What a stage of a run has reached.

    Attributes:
        number: How many steps of the stage, such as epochs, are done.
        data: JSON data.
        arrays: Arrays by name.
    """

    number: int
    data: dict[str, Any]
    arrays: dict[str, np.ndarray]


class RunDirectory:
    """The checkpoints of one run; `open_run` makes it.

    Args:
        path: Directory of the run.
        run: Digest that tells the run from every other.
    """

    def __init__(self, path: Path, run: str):
        self.path = path
        self.run = run
        self._kept = {}

    def save(
        self,
        stage: str,
        number: int,
        data: Mapping[str, Any],
        arrays: Mapping[str, np.ndarray],
    ) -> None:
        """Writes a checkpoint; the one before it stays, older ones go.

        Args:
            stage: Lower-case letters, the part of the run it belongs to.
            number: How many steps of the stage are done.
            data: JSON data. NumPy numbers count as such.
            arrays: Arrays by name.
        """
        header = {**self._header(stage, number), "data": data}
        text = json.dumps(header, default=lambda x: np.asarray(x).tolist())
        buffer = io.BytesIO()
        encoded = np.frombuffer(text.encode(), "uint8")
        np.savez(buffer, **{_HEADER: encoded}, **arrays)
        content = buffer.getvalue()
        name = f"{stage}-{number:04d}-{_digest(content)}.npz"
        atomic_write(self.path / name, content)
        kept = [other for other in self._kept.get(stage, []) if other != name]
        self._kept[stage] = [*kept, name][-_NUM_KEPT:]
        for other in self._names(stage):
            if other not in self._kept[stage]:
                (self.path / other).unlink(missing_ok=True)

    def latest(self, stage: str) -> Checkpoint | None:
        """Reads a stage's last checkpoint that is whole and of this run.

        Those that are not are named in a warning.
        """
        for name in self._names(stage):
            checkpoint = self._read(name)
            if checkpoint is not None:
                self._kept[stage] = [name]
                return checkpoint
            _log.warning(
                "'%s' is damaged or of another run, and left out: the run "
                "goes on from the checkpoint before it, or begins anew.",
                self.path / name,
            )
        return None

    def _names(self, stage):
        """Lists a stage's checkpoints, the last first."""
        found = (_CHECKPOINT.fullmatch(p.name) for p in self.path.iterdir())
        own = [match for match in found if match and match[1] == stage]
        own.sort(key=lambda match: (-int(match[2]), match[0]))
        return [match[0] for match in own]

    def _read(self, name):
        stage, number, digest = _CHECKPOINT.fullmatch(name).groups()
        try:
            content = (self.path / name).read_bytes()
            if _digest(content) != digest:
                return None
            with np.load(io.BytesIO(content), allow_pickle=False) as saved:
                arrays = {key: saved[key] for key in saved.files}
            header = json.loads(arrays.pop(_HEADER).tobytes())
            data = header.pop("data")
        except (
            *(OSError, ValueError, KeyError, TypeError, AttributeError),
            *(EOFError, RecursionError, zipfile.BadZipFile, zlib.error),
        ):  # NumPy has no common class for what it can not read.
            return None
        if header != self._header(stage, int(number)):
            return None
        return Checkpoint(int(number), data, arrays)

    def _header(self, stage, number):
        return {"run": self.run, "stage": stage, "number": number}


def open_run(
    directory: str | Path, identity: Mapping[str, Any], resume: bool
) -> RunDirectory:
    """Begins a run in a directory, or goes on with the one that is there.

    Args:
        directory: Directory of the run; it belongs to the run alone.
        identity: JSON data that must be the same for a run to go on.
        resume: Whether to go on. If no run is there, a new one begins.

    Returns:
        The run, without checkpoints if it is a new one.

    Raises:
        UsageError: If the directory holds anything that is not a run's, or,
            when resuming, a run of another identity.
        ArtifactError: If the run to go on with can not be read.
    """
    directory = Path(directory)
    _check_own(directory)
    identity = json.loads(json.dumps(identity))
    if resume and (directory / RUN_FILE).exists():
        begun = _read_run(directory)
        _check_identity(begun["identity"], identity, directory)
        return RunDirectory(directory, begun["digest"])
    directory.mkdir(parents=True, exist_ok=True)
    begun = {"identity": identity, "token": secrets.token_hex(8)}
    begun["digest"] = data_digest(begun)
    # From here on, no checkpoint that lies there is of the run.
    atomic_write(directory / RUN_FILE, json.dumps(begun, indent=1))
    _remove_files(directory, but=RUN_FILE)
    return RunDirectory(directory, begun["digest"])


def check_resume(resume: bool, directory: str | Path | None) -> None:
    """Makes sure that there is a directory to resume a run in.

    Raises:
        UsageError: If there is none.
    """
    if resume and directory is None:
        raise UsageError(
            "`resume` needs the `run_directory` of the run to go on with. "
            "Received: run_directory=None"
        )


def directory_beside(out: Path) -> Path:
    """Returns the run directory of a command that makes `out`."""
    return out.parent / f".{out.name}.run"


def run_digest(directory: str | Path) -> str | None:
    """Returns the digest of a run's identity, or `None` if no run is there.

    Raises:
        ArtifactError: If the run can not be read.
    """
    if not (Path(directory) / RUN_FILE).exists():
        return None
    return data_digest(_read_run(Path(directory))["identity"])


def discard_run(directory: str | Path) -> None:
    """Removes a run's files, and the directory if nothing else is in it."""
    directory = Path(directory)
    _remove_files(directory, but=RUN_FILE)
    (directory / RUN_FILE).unlink(missing_ok=True)
    if not any(directory.iterdir()):
        directory.rmdir()


def _read_run(directory):
    path = directory / RUN_FILE
    try:
        begun = json.loads(path.read_text(encoding="utf-8"))
        digest = begun.pop("digest")
        if digest != data_digest(begun):
            raise ValueError("its content does not match its own digest")
        if not isinstance(begun.get("identity"), dict):
            raise ValueError("an earlier version of kmod wrote it")
    except (
        *(ValueError, KeyError, TypeError, AttributeError, OSError),
        RecursionError,
    ) as error:
        raise ArtifactError(
            "A run can go on only if its file is as it was written. Received: "
            f"'{path}', which is damaged: {reason_of(error)}. Leave `resume` "
            "out to "
            "start anew."
        ) from error
    return {**begun, "digest": digest}


def _check_identity(before, now, directory):
    changes = "; ".join(_differences(before, now))
    if changes:
        raise UsageError(
            "A run can go on only with the source, data and arguments that "
            f"it began with. Received: {changes}, for the run in "
            f"'{directory}'. Give those of the run, or leave `resume` out to "
            "start anew."
        )


def _differences(before: Mapping, now: Mapping) -> Iterator[str]:
    for name in sorted({*before, *now}):
        old, new = before.get(name), now.get(name)
        if old == new:
            continue
        if isinstance(old, dict) and isinstance(new, dict):
            yield from (f"{name} {change}" for change in _differences(old, new))
        elif any(str(value).startswith("sha256:") for value in (old, new)):
            yield f"different {name}"
        else:
            yield f"{name} {reprlib.repr(new)} instead of {reprlib.repr(old)}"


def _check_own(directory):
    if directory.exists() and not directory.is_dir():
        raise UsageError(
            "A run directory must be a directory. Received: the file "
            f"'{directory}'. Choose another name, or remove the file."
        )
    for path in sorted(directory.iterdir()) if directory.exists() else ():
        if not _is_own(path):
            raise UsageError(
                "A run directory must be new, empty or an earlier run's. "
                f"Received: '{directory}', which holds '{path.name}', no file "
                "of a run. Move it away, or choose another directory."
            )


def _is_own(path):
    match = _TEMPORARY.fullmatch(path.name)
    name = match[1] if match else path.name
    return (
        (name in (RUN_FILE, SENSITIVITY_FILE) or _CHECKPOINT.fullmatch(name))
        and path.is_file()
        and not path.is_symlink()
    )


def _remove_files(directory, but):
    for path in directory.iterdir():
        if path.name != but and _is_own(path):
            path.unlink(missing_ok=True)


def _digest(content):
    return hashlib.sha256(content).hexdigest()[:16]
