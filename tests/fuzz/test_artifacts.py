"""Damaged artifacts answer as before, or raise an error of kmod's.

`benchmarks/fuzz.py` does the same many thousand times.
"""

import random

import mutations
import pytest
from hypothesis import given
from hypothesis import settings
from hypothesis import strategies

SEEDS = strategies.integers(0, 2**32)
EXAMPLES = {
    "store": 30,
    "module": 30,
    "composed": 30,
    "patched": 20,
    "run": 60,
    "keras": 20,
    "spec": 60,
    "lock": 30,
}


@pytest.mark.parametrize("kind", EXAMPLES)
def test_damage_is_refused_or_makes_no_difference(artifacts, tmp_path, kind):
    artifact = mutations.copy_of(artifacts[kind], tmp_path)
    right = artifact.read(artifact.path)

    @settings(max_examples=EXAMPLES[kind])
    @given(SEEDS)
    def check(seed):
        draw = random.Random(seed)
        outcome = mutations.outcome_of(artifact, draw, right)
        assert outcome.is_right, outcome

    check()
    assert artifact.read(artifact.path) == right


def test_what_is_not_found_fails(artifacts, tmp_path):
    """The check itself sees other answers, other errors and what hangs."""
    artifact = mutations.copy_of(artifacts["run"], tmp_path)
    for read, kind in (
        (lambda path: b"other", "other answers"),
        (lambda path: 1 / 0, "other error"),
    ):
        blind = mutations.Artifact(artifact.path, read)
        outcome = mutations.outcome_of(blind, random.Random(1), b"right")
        assert (outcome.kind, outcome.is_right) == (kind, False)
