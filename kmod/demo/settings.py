"""What the demo does on each data set."""

import dataclasses
from pathlib import Path
from typing import Any

from kmod.errors import UsageError
from kmod.files.manifest import list_sealed

DEMO_FILE = "demo.yaml"


@dataclasses.dataclass(frozen=True)
class Settings:
    """Source model, search and weak model of one demo.

    Attributes:
        small: Whether the source model is the small twin.
        width: Factor of the source model's layer widths.
        source_epochs: Epochs of the source model's training.
        augment: Whether training images are mirrored and moved.
        search_epochs: Epochs of the search for masks.
        batch_size: Images to a training step.
        weak_images: Training images that the weak model sees.
        weak_epochs: Epochs of the weak model's training.
    """

    small: bool
    width: float
    source_epochs: int
    augment: bool
    search_epochs: int
    batch_size: int
    weak_images: int
    weak_epochs: int


DIGITS = Settings(
    small=True,
    width=2.0,
    source_epochs=20,
    augment=False,
    search_epochs=10,
    batch_size=32,
    weak_images=120,
    weak_epochs=8,
)
MNIST = Settings(
    small=True,
    width=1.0,
    source_epochs=4,
    augment=False,
    search_epochs=4,
    batch_size=64,
    weak_images=500,
    weak_epochs=8,
)
SETTINGS = {
    "digits": DIGITS,
    "mnist": MNIST,
    "fashion_mnist": dataclasses.replace(MNIST, source_epochs=8),
    "cifar10": Settings(
        small=False,
        width=0.25,
        source_epochs=12,
        augment=True,
        search_epochs=4,
        batch_size=64,
        weak_images=10000,
        weak_epochs=12,
    ),
}


def settings_for(name: str) -> Settings:
    """Returns the settings for a data set.

    Raises:
        UsageError: If the demo does not know the data set.
    """
    if name not in SETTINGS:
        raise UsageError(
            f"`data` must be one of {sorted(SETTINGS)} in the demo. Received: "
            f"data={name!r}. For other data train a model and run "
            "`kmod modularize`."
        )
    return SETTINGS[name]


def list_demo(path: Path) -> dict[str, Any]:
    """Lists the files of a demo; see `list_sealed`."""
    return list_sealed(path / DEMO_FILE)
