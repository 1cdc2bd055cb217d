import fuzz
import pytest
from hypothesis import given
from hypothesis import settings
from hypothesis import strategies

SEEDS = strategies.integers(0, 2**31)


def check(seed):
    outcome = fuzz.cut_random(seed)
    assert outcome.kind == "same", outcome


def test_random_networks_are_cut_as_they_were_masked():
    settings(max_examples=3)(given(SEEDS)(check))()


@pytest.mark.slow
def test_many_random_networks_are_cut_as_they_were_masked():
    settings(max_examples=100)(given(SEEDS)(check))()
