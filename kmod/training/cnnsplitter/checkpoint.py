"""Keeps what a search needs to go on after its process was killed."""

import dataclasses
import io
import json
from pathlib import Path
from typing import Any

import numpy as np

from kmod.files import atomic_write

STATE_FILE = "search.json"


@dataclasses.dataclass
class SearchState:
    """A search between two generations.

    Randomness needs no place here: what a generation draws follows from the
    seed, its number and the class.

    Attributes:
        generation: Number of the next generation, from 0.
        population: uint8 array `(num_classes, size, num_genes)`, its
            candidates; the first of each class is of the fittest team.
        known: uint8 array of that shape: candidates scored last.
        scores: float32 array `(num_classes, size, num_images)`: their scores.
        chosen: uint8 array `(num_classes, num_genes)`: best team so far.
        chosen_fitness: Its fitness on the images that choose.
        accuracy: Accuracy of the last generation's fittest team.
        stale: Generations since the choice last changed.
        history: What each generation reached, plain JSON data.
    """

    generation: int
    population: np.ndarray
    known: np.ndarray
    scores: np.ndarray
    chosen: np.ndarray
    chosen_fitness: float
    accuracy: float
    stale: int
    history: list[dict[str, Any]]


def save_state(directory: Path, state: SearchState) -> None:
    """Writes a state; a crash leaves the one before or this one."""
    name = f"search-{state.generation:04d}.npz"
    arrays, rest = {}, {"arrays": name}
    for field in dataclasses.fields(state):
        value = getattr(state, field.name)
        is_array = isinstance(value, np.ndarray)
        (arrays if is_array else rest)[field.name] = value
    save_arrays(directory / name, arrays)
    atomic_write(directory / STATE_FILE, json.dumps(rest))
    for path in directory.glob("search-*.npz"):
        if path.name != name:
            path.unlink()


def load_state(directory: Path) -> SearchState | None:
    """Reads the state that `save_state` wrote last, if there is one."""
    path = directory / STATE_FILE
    if not path.exists():
        return None
    rest = json.loads(path.read_text())
    arrays = load_arrays(directory / rest.pop("arrays"))
    return SearchState(**rest, **arrays)


def save_arrays(path: Path, arrays: dict[str, np.ndarray]) -> None:
    """Writes arrays as an `.npz` file, whole or not at all."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    atomic_write(path, buffer.getvalue())


def load_arrays(path: Path) -> dict[str, np.ndarray]:
    """Reads an `.npz` file, never a pickle."""
    with np.load(path, allow_pickle=False) as saved:
        return {name: saved[name] for name in saved.files}
