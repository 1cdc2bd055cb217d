"""Looks for artifacts, networks and specs that kmod does not stand.

Usage, from the root of the project:

    python benchmarks/fuzz.py [--part NAME ...] [--work DIR]

Parts: `mutations` damages every file of every kind of artifact at random;
reading must answer exactly as before, or raise an error of kmod's, within
five seconds and within 500 MB and twice the bytes of the artifact.
`topologies` builds random Functional models over all layers that kmod has
rules for; a cut module must answer as the masked model did. `specs` draws
specs from the schema; `kmod check` must name faults with their places, within
a second of processor time. `composes` composes one spec in sixteen processes
at once; all must be the same model.

A later call goes on from the cells that are done, which `DIR` keeps. Writes
`benchmarks/results/fuzz.json` and its key of `summary.json`.
"""

import argparse
import collections
import functools
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import keras
import mutations
import random_specs
import removable_kernels
import topologies
from common import machine
from common import part
from common import update_summary
from common import write_result

from kmod.composition.saving import load
from kmod.errors import KmodError
from kmod.graph.content import content_digest
from kmod.modular.modular_model import ModularModel
from kmod.spec.faults import LocatedError
from kmod.spec.spec_file import load_spec

NAME = "fuzz"
# How many of each kind, 250 to a cell.
MUTATIONS = {
    "store": 5000,
    "module": 4000,
    "composed": 4000,
    "patched": 3000,
    "run": 1500,
    "keras": 1500,
    "spec": 500,
    "lock": 500,
}
MUTATIONS_IN_CELL = 250
TOPOLOGIES, TOPOLOGIES_IN_CELL = 500, 5
SPECS, SPECS_IN_CELL = 5000, 500
COMPOSES = 16
TOLERANCE = 1e-4
MOST_SECONDS = 1.0  # Of the processor, for a spec.
RETENTIONS = (0.3, 0.6, 0.9)


@functools.cache
def _artifacts():
    folder = Path(tempfile.mkdtemp(prefix="kmod-fuzz-"))
    return mutations.make_artifacts(folder)


def damage(kind: str, first: int) -> dict:
    """Damages one kind of artifact `MUTATIONS_IN_CELL` times."""
    with tempfile.TemporaryDirectory() as folder:
        artifact = mutations.copy_of(_artifacts()[kind], Path(folder))
        right = artifact.read(artifact.path)
        return _counted(
            (
                mutations.outcome_of(artifact, random.Random(seed), right)
                for seed in range(first, first + MUTATIONS_IN_CELL)
            ),
            first,
        )


def _counted(outcomes, first):
    counts, wrong, longest, largest = collections.Counter(), [], 0.0, 0.0
    for seed, outcome in enumerate(outcomes, first):
        counts[outcome.kind] += 1
        longest = max(longest, outcome.seconds)
        largest = max(largest, outcome.mebibytes)
        if not outcome.is_right:
            wrong.append(
                {"seed": seed, "kind": outcome.kind, "what": outcome.what}
            )
    return {
        "counts": dict(counts),
        "violations": wrong,
        "longest": round(longest, 3),
        "largest": round(largest, 1),
    }


def cut_random(seed: int) -> mutations.Outcome:
    """Takes one random network apart and compares a module."""
    start = time.monotonic()
    keras.utils.set_random_seed(seed)
    draw = random.Random(seed)
    model = topologies.random_classifier(draw)
    removable_kernels.randomise(model, seed)
    what = f"{len(model.layers)} layers"
    try:
        modular = ModularModel(model)
        modular.run_eagerly = True
        retention = draw.choice(RETENTIONS)
        removable_kernels.randomise_classes(modular, retention, seed)
        images = removable_kernels.random_images(model)
        gap, _ = removable_kernels.output_gap(modular, images)
        kind = "same" if gap < TOLERANCE else "other answers"
        what += f", gap {gap:.2g}"
    except KmodError as error:
        kind, what = "refused", f"{what}: {error}"
    except Exception as error:
        kind, what = "other error", f"{what}: {type(error).__name__}: {error}"
    keras.utils.clear_session()
    return mutations.Outcome(kind, what[:400], time.monotonic() - start)


def cut_many(first: int) -> dict:
    """Takes `TOPOLOGIES_IN_CELL` random networks apart."""
    seeds = range(first, first + TOPOLOGIES_IN_CELL)
    return _counted(map(cut_random, seeds), first)


def check_random(path: Path, seed: int) -> mutations.Outcome:
    """Checks one random spec."""
    path.write_bytes(random_specs.random_spec(random.Random(seed)))
    start, what = time.process_time(), ""
    try:
        load_spec(path)
        kind = "same"
    except LocatedError as error:
        is_placed = all(f.line >= 1 and f.column >= 1 for f in error.faults)
        kind = "refused" if error.faults and is_placed else "other error"
        what = str(error)
    except Exception as error:
        kind, what = "other error", f"{type(error).__name__}: {error}"
    seconds = time.process_time() - start
    if seconds > MOST_SECONDS:
        kind = "hang"
    return mutations.Outcome(kind, what[:400], seconds)


def check_many(first: int) -> dict:
    """Checks `SPECS_IN_CELL` random specs."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "spec.yaml")
        seeds = range(first, first + SPECS_IN_CELL)
        return _counted((check_random(path, seed) for seed in seeds), first)


def compose_at_once() -> dict:
    """Composes one spec in many processes at the same time."""
    spec = _artifacts()["spec"].path
    with tempfile.TemporaryDirectory() as folder:
        outs = [Path(folder, str(number)) for number in range(COMPOSES)]
        commands = [
            [sys.executable, "-m", "kmod", "compose", spec, "--out", out]
            for out in outs
        ]
        running = [
            subprocess.Popen(each, stdout=subprocess.DEVNULL)
            for each in commands
        ]
        codes = [process.wait() for process in running]
        digests = {content_digest(load(out)) for out in outs}
    return {"composes": len(codes), "exit_codes": codes, "models": len(digests)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--part", action="append", choices=PARTS)
    parser.add_argument("--work", type=Path, default=Path("fuzz-work"))
    args = parser.parse_args()
    for name in args.part or PARTS:
        for file, function, *arguments in PARTS[name]():
            found = part(args.work / f"{file}.json", function, *arguments)
            print(file, json.dumps(found)[:200], flush=True)
            _write(args.work)


def _mutation_cells():
    for first in range(0, max(MUTATIONS.values()), MUTATIONS_IN_CELL):
        for kind, count in MUTATIONS.items():
            if first < count:
                yield f"mutations-{kind}-{first:05d}", damage, kind, first


def _topology_cells():
    for first in range(0, TOPOLOGIES, TOPOLOGIES_IN_CELL):
        yield f"topologies-{first:05d}", cut_many, first


def _spec_cells():
    for first in range(0, SPECS, SPECS_IN_CELL):
        yield f"specs-{first:05d}", check_many, first


# What there is none of is said, too: `summary.json` keeps earlier keys.
OUTCOMES = ("same", "refused", "other answers", "other error", "hang", "memory")
PARTS = {
    "mutations": _mutation_cells,
    "topologies": _topology_cells,
    "specs": _spec_cells,
    "composes": lambda: [("composes", compose_at_once)],
}


def _write(work):
    cells = {
        p.stem: json.loads(p.read_text()) for p in sorted(work.glob("*.json"))
    }
    composes = cells.pop("composes", None)
    rows = collections.defaultdict(list)
    for name, cell in cells.items():
        rows[name.rpartition("-")[0]].append(cell)
    found = {name: _sum(each) for name, each in rows.items()}
    if composes:
        found["composes"] = composes
    write_result(
        NAME,
        {
            "command": "python benchmarks/fuzz.py",
            "machine": machine(),
            "load": os.getloadavg()[0],
            "summary": found,
        },
    )
    update_summary(NAME, found)


def _sum(cells):
    counts = collections.Counter(dict.fromkeys(OUTCOMES, 0))
    for cell in cells:
        counts.update(cell["counts"])
    found = {
        "number": counts.total(),
        **counts,
        "violations": [each for cell in cells for each in cell["violations"]],
        "longest_seconds": max(cell["longest"] for cell in cells),
    }
    largest = max(cell["largest"] for cell in cells)
    return {**found, "largest_mib": largest} if largest else found


if __name__ == "__main__":
    main()
