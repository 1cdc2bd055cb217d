"""Presets: directories that the tasks of KerasHub save themselves in.

KerasHub, which need not be installed, is imported when one is loaded.
"""

from pathlib import Path
from typing import Any

from kmod.errors import ArtifactError
from kmod.errors import reason_of

PRESET_FILE = "task.json"


def is_preset(path: str | Path) -> bool:
    """Tells whether a path is a task that KerasHub saved as a preset."""
    return (Path(path) / PRESET_FILE).is_file()


def load_preset(path: Path) -> Any:
    """Loads an image classifier of KerasHub.

    Args:
        path: Directory that its `save_to_preset` wrote.

    Returns:
        The `ImageClassifier`, a Keras model.

    Raises:
        ArtifactError: If KerasHub is not installed, or can not load it.
    """
    try:
        import keras_hub
    except ImportError as error:
        raise ArtifactError(
            "A preset of KerasHub is read by KerasHub. Received: "
            f"'{path}', but {error}. Install it with `pip install keras-hub`, "
            "or save the model with `model.save('name.keras')`."
        ) from error
    try:
        return keras_hub.models.ImageClassifier.from_preset(str(path))
    except Exception as error:  # It has no common class for its errors.
        raise ArtifactError(
            f"'{path}' can not be loaded as an `ImageClassifier` of KerasHub "
            f"{keras_hub.__version__}: {reason_of(error)}. Use the version "
            "that wrote "
            "it, and give an image classifier."
        ) from error
