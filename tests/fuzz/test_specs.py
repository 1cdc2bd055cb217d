import fuzz
from hypothesis import given
from hypothesis import settings
from hypothesis import strategies

from kmod.cli.main import main


@settings(max_examples=150)
@given(seed=strategies.integers(0, 2**32))
def test_random_specs_are_valid_or_have_placed_faults(tmp_path, seed):
    outcome = fuzz.check_random(tmp_path / "spec.yaml", seed)
    assert outcome.is_right, outcome


@settings(max_examples=30)
@given(content=strategies.binary(max_size=300))
def test_check_stands_any_bytes(tmp_path, content):
    path = tmp_path / "spec.yaml"
    path.write_bytes(content)
    assert main(["check", str(path)]) == 2
