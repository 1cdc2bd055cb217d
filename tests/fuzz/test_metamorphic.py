"""What must not matter does not: order, place, names."""

import shutil

import mutations
import numpy as np
import pytest

from kmod.composition.composer import compose
from kmod.modules.module_store import load_store
from kmod.spec.spec_file import write_spec

TOLERANCE = {"rtol": 0, "atol": 1e-6}


def answers(folder, store, names):
    """Composes classes, `{name in the model: class in the store}`."""
    path = folder / "spec.yaml"
    classes = [
        {"name": name, "module": {"store": "s", "class": of}}
        for name, of in names.items()
    ]
    spec = {"version": 1, "name": "m", "stores": {"s": {"path": store}}}
    write_spec(spec | {"classes": classes}, path)
    model = compose(path)
    assert model.class_names == tuple(names)
    return np.asarray(model(mutations.IMAGES))


@pytest.fixture(scope="module")
def store(artifacts):
    return artifacts["store"].path


@pytest.fixture(scope="module")
def expected(store, tmp_path_factory):
    names = {name: name for name in mutations.CLASS_NAMES}
    return answers(tmp_path_factory.mktemp("expected"), store, names)


def test_order_of_classes(store, expected, tmp_path):
    one, two, three = mutations.CLASS_NAMES
    found = answers(tmp_path, store, {three: three, one: one, two: two})
    np.testing.assert_allclose(found, expected[:, [2, 0, 1]], **TOLERANCE)
    assert np.ptp(expected, axis=1).min() > 1e-4


def test_name_of_a_class(store, expected, tmp_path):
    names = {name.upper(): name for name in mutations.CLASS_NAMES}
    found = answers(tmp_path, store, names)
    np.testing.assert_allclose(found, expected, **TOLERANCE)


def test_place_of_the_store(store, expected, tmp_path, monkeypatch):
    moved = shutil.copytree(store, tmp_path / "elsewhere" / "é b")
    names = {name: name for name in mutations.CLASS_NAMES}
    monkeypatch.chdir(moved.parent)
    found = answers(tmp_path, moved, names)
    np.testing.assert_array_equal(found, expected)
    relative = load_store(moved.name)
    assert relative.digest == load_store(store).digest


def test_order_of_images(store):
    model = load_store(store)["one"].model
    order = np.array([2, 0, 3, 1])
    found = np.asarray(model(mutations.IMAGES[order]))
    right = np.asarray(model(mutations.IMAGES))[order]
    np.testing.assert_allclose(found, right, **TOLERANCE)
    alone = np.concatenate([model(image[None]) for image in mutations.IMAGES])
    np.testing.assert_allclose(alone[order], right, **TOLERANCE)
