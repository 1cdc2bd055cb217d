"""Keras archives, `.keras`."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras

from kmod.export import answers
from kmod.modules.keras_archive import load_keras_archive


def write(model: keras.Model, class_names: Sequence[str], path: Path) -> None:
    """Saves a model as a Keras archive, without the names of its classes."""
    model.save(path)


def ask(path: Path, images: Any) -> dict[str, Any]:
    """Returns the answers of a written archive, loaded in safe mode."""
    return answers.ask(load_keras_archive(path), images)
