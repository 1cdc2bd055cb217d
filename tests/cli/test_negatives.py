import types

import numpy as np
import pytest

from kmod.cli.main import main
from kmod.cli.negatives import load_negatives
from kmod.errors import ArtifactError
from kmod.modules.manifest import InputContract
from kmod.modules.module_store import load_store

CONTRACT = InputContract((8, 8, 1), "float32", (-1.0, 1.0))


def saved(tmp_path, channels):
    """An archive of bytes of another size."""
    draw = np.random.default_rng(0)
    path = tmp_path / "anything.npz"
    np.savez(path, draw.integers(0, 256, (30, 16, 16, channels), "uint8"))
    return path


def loaded(path):
    args = types.SimpleNamespace(negatives=str(path), data_dir=None)
    return load_negatives(args, CONTRACT)


def test_images_become_such_as_the_source_takes(tmp_path):
    found = loaded(saved(tmp_path, 3))
    assert found.images.shape == (30, 8, 8, 1)
    assert -1 <= found.images.min() < -0.1 < 0.1 < found.images.max() <= 1
    assert (found.name, found.value_range) == ("anything.npz", (-1.0, 1.0))


def test_images_that_can_not_be_adapted_are_refused(tmp_path):
    with pytest.raises(
        ArtifactError, match="must be grey or RGB images.*16, 4"
    ):
        loaded(saved(tmp_path, 4))


@pytest.mark.long
def test_commands_say_in_the_store_which_they_were(
    three_path, tmp_path, capsys
):
    data = ["--data", "digits", "--classes", "3,8,9", "--batch-size", "256"]
    data += ["--negatives", str(saved(tmp_path, 1)), "--epochs", "1"]
    store, source = str(tmp_path / "store"), str(three_path)
    assert main(["modularize", source, *data, "--out", store, "--frozen"]) == 0
    new = f"{store}-2"
    assert main(["refine", store, source, *data, "--out", new]) == 0
    arguments = load_store(new).manifest.arguments
    said = {"name": "anything.npz", "num_images": 30}
    assert arguments["negatives"] == said
    assert arguments["refinement"]["negatives"] == said
