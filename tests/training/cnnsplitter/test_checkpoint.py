import dataclasses

import numpy as np
import pytest

from kmod.training.cnnsplitter.checkpoint import SearchState
from kmod.training.cnnsplitter.checkpoint import load_arrays
from kmod.training.cnnsplitter.checkpoint import load_state
from kmod.training.cnnsplitter.checkpoint import save_state


def state_at(generation):
    bits = np.full((2, 3, 4), generation % 2, "uint8")
    return SearchState(
        generation=generation,
        population=bits,
        known=bits,
        scores=np.ones((2, 3, 5), "float32"),
        chosen=bits[:, 0],
        chosen_fitness=0.5,
        accuracy=0.25,
        stale=1,
        history=[{"generation": generation, "fitness": 0.5}],
    )


def test_state_is_read_as_it_was_written(tmp_path):
    assert load_state(tmp_path) is None
    for generation in (1, 2):
        save_state(tmp_path, state_at(generation))
    read = load_state(tmp_path)
    for field in dataclasses.fields(SearchState):
        expected = getattr(state_at(2), field.name)
        np.testing.assert_array_equal(getattr(read, field.name), expected)
    files = sorted(path.name for path in tmp_path.iterdir())
    assert files == ["search-0002.npz", "search.json"]


def test_crash_before_the_last_file_leaves_the_state_before(
    tmp_path, monkeypatch
):
    save_state(tmp_path, state_at(1))

    def crash(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(
        "kmod.training.cnnsplitter.checkpoint.json.dumps", crash
    )
    with pytest.raises(KeyboardInterrupt):
        save_state(tmp_path, state_at(2))
    assert load_state(tmp_path).generation == 1


def test_pickles_are_refused(tmp_path):
    np.savez(tmp_path / "bad.npz", bad=np.array([object()]))
    with pytest.raises(ValueError, match="allow_pickle=False"):
        load_arrays(tmp_path / "bad.npz")
