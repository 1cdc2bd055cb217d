import os
import subprocess
import sys

import pytest

from kmod.composition.saving import load
from kmod.graph.content import content_digest
from kmod.modules.module_store import load_store
from kmod.spec.spec_file import write_spec

pytestmark = pytest.mark.long

SHORT = ["--classes", "3,8,9", "--epochs", "2", "--refine-epochs", "1"]


def run_all(*commands):
    """Runs commands at once, each in a process of its own."""
    running = [
        subprocess.Popen(
            [sys.executable, "-m", "kmod", *command],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            env=os.environ | {"CUDA_VISIBLE_DEVICES": "-1"},
        )
        for command in commands
    ]
    for process in running:
        message = process.communicate()[1]
        assert process.returncode == 0, message


@pytest.mark.slow
def test_runs_of_one_seed_give_the_same_modules(three_path, tmp_path):
    outs = [str(tmp_path / name) for name in ("first", "second", "other")]
    seeds = ["1", "1", "2"]
    run_all(
        *(
            ["modularize", str(three_path), "--data", "digits", *SHORT]
            + ["--deterministic", "--seed", seed, "--out", out]
            for seed, out in zip(seeds, outs)
        )
    )
    first, second, other = (content(load_store(out)) for out in outs)
    assert first == second
    assert first != other


def content(store):
    return [store.content(name) for name in store]


@pytest.mark.slow
def test_demos_of_one_seed_give_the_same_stores(tmp_path):
    outs = [str(tmp_path / name) for name in ("first", "second")]
    run_all(
        *(
            ["demo", "--seed", "1", "--deterministic", "--out", out]
            for out in outs
        )
    )
    first, second = (load_store(f"{out}/modules").manifest for out in outs)
    assert first.content_digest == second.content_digest


def test_c09_composes_at_once_to_other_outputs_give_the_same(store, tmp_path):
    path = tmp_path / "spec.yaml"
    write_spec(
        {
            "version": 1,
            "name": "two",
            "stores": {"digits": {"path": store.path}},
            "classes": [
                {"name": name, "module": {"store": "digits", "class": name}}
                for name in ("3", "8")
            ],
        },
        path,
    )
    outs = [str(tmp_path / name) for name in ("a", "b")]
    run_all(*(["compose", str(path), "--out", out] for out in outs))
    models = [load(out) for out in outs]
    assert len({content_digest(model) for model in models}) == 1
