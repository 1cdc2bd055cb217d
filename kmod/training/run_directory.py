"""The directory in which a search keeps what it needs to go on."""

import json
import shutil
from pathlib import Path
from typing import Any

from kmod.errors import UsageError
from kmod.files import atomic_write
from kmod.files import data_digest

RUN_FILE = "run.json"


def open_run(
    directory: str | Path, facts: dict[str, Any], resume: bool
) -> Path:
    """Makes a run directory ready, empty or as an earlier run left it.

    Args:
        directory: Directory of the run; it belongs to the run alone.
        facts: JSON data that must be the same for a run to go on.
        resume: Whether to go on with what is there.

    Returns:
        The directory.

    Raises:
        UsageError: If the directory holds something else than a run, or, when
            resuming, a run with other facts.
    """
    directory = Path(directory)
    run_file = directory / RUN_FILE
    digest = data_digest(facts)
    if directory.exists() and not run_file.exists():
        if any(directory.iterdir()):
            raise UsageError(
                "A run directory must be new, empty or an earlier run's. "
                f"Received: '{directory}', which holds other files."
            )
    if run_file.exists():
        old = json.loads(run_file.read_text())
        if resume and old["digest"] != digest:
            changed = sorted(
                key
                for key in {*facts, *old["facts"]}
                if facts.get(key) != old["facts"].get(key)
            )
            raise UsageError(
                "A run can go on only as it began. Received: other values of "
                f"{changed} than '{directory}' has. Leave `resume` out to "
                "start anew."
            )
        if resume:
            return directory
        shutil.rmtree(directory)
    directory.mkdir(parents=True, exist_ok=True)
    text = json.dumps({"digest": digest, "facts": facts}, indent=1)
    atomic_write(run_file, text)
    return directory
