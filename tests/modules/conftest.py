import runpy
import types
from pathlib import Path

import pytest

BENCHMARK = Path("benchmarks", "removable_kernels.py")


@pytest.fixture(scope="session")
def exactness():
    """What the benchmark measures exactness with."""
    path = Path(__file__).parents[2] / BENCHMARK
    return types.SimpleNamespace(**runpy.run_path(str(path)))
