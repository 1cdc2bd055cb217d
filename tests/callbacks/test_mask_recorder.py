import keras
import numpy as np
import pytest

import kmod
from kmod.callbacks import MaskRecorder


@pytest.fixture
def modular(strong):
    modular = kmod.ModularModel(strong, retention_target=0.6)
    modular.compile()
    return modular


def test_masks_of_every_epoch_are_written(modular, digits, tmp_path):
    recorder = MaskRecorder(tmp_path / "new" / "masks")
    seen = []
    keep = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: seen.append(modular.kernel_masks)
    )
    modular.fit(digits.train, epochs=2, callbacks=[recorder, keep], verbose=0)
    files = sorted((tmp_path / "new" / "masks").iterdir())
    assert [path.name for path in files] == [
        "masks-0000.npz",
        "masks-0001.npz",
    ]
    for path, masks in zip(files, seen, strict=True):
        np.testing.assert_array_equal(np.load(path)["kernel_masks"], masks)
    assert not seen[0].all()


def test_tensorboard_shows_layers_modules_and_overlap(
    modular, digits, tmp_path
):
    event_accumulator = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator"
    )
    tensor_util = pytest.importorskip("tensorboard.util.tensor_util")
    recorder = MaskRecorder(tmp_path / "masks", tmp_path / "logs")
    modular.fit(digits.train, epochs=2, callbacks=[recorder], verbose=0)
    events = event_accumulator.EventAccumulator(
        str(tmp_path / "logs"), {"tensors": 0}
    )
    events.Reload()
    shown = set(events.Tags()["tensors"])
    layers = {f"kept/{layer}" for layer in modular.kernels.layers}
    modules = {f"module/{name}/retention_rate" for name in modular.class_names}
    assert shown == {*layers, *modules, "masks/overlap"}
    name = f"module/{modular.class_names[0]}/retention_rate"
    _, last = events.Tensors(name)
    shown = tensor_util.make_ndarray(last.tensor_proto)
    assert shown == pytest.approx(modular.kernel_masks[0].mean())
