import numpy as np
import pytest
import yaml

from kmod.modular.modular_model import ModularModel
from kmod.modules.decompose import decompose

CLASS_NAMES = ("cat", "dog", "T-shirt/top", "no")


def build_modular(build_source, seed):
    """A modular model with random masks: nothing is trained."""
    source = build_source(len(CLASS_NAMES), seed)
    modular = ModularModel(source, CLASS_NAMES, mask_from="conv_3", seed=seed)
    random = np.random.default_rng(seed)
    masks = np.ones_like(modular.kernel_masks)
    columns = modular.kernels.ids_of("conv_3")
    masks[:, columns] = random.integers(0, 2, (len(masks), len(columns)))
    masks[:, columns[0]] = 1
    modular.kernel_masks = masks
    modular.set_calibration(random.uniform(1, 3, len(masks)), -0.5)
    return modular


@pytest.fixture(scope="session")
def stores(build_source, tmp_path_factory):
    """Two stores, `a` and `b`, of source models with different weights."""
    folder = tmp_path_factory.mktemp("stores")
    return {
        name: decompose(
            build_modular(build_source, seed),
            folder / name,
            value_range=(0, 255),
        )
        for seed, name in enumerate("ab")
    }


@pytest.fixture
def write_spec(stores, tmp_path):
    """Writes a spec of the stores `a` and `b` and returns its path."""

    def write(classes=(("cat", "a", "cat"), ("dog", "a", "dog")), **changes):
        data = {
            "version": 1,
            "name": "pets",
            "stores": {
                name: {"path": f"../{store.path.name}"}
                for name, store in stores.items()
            },
            "classes": [
                {"name": name, "module": {"store": store, "class": module}}
                for name, store, module in classes
            ],
            **changes,
        }
        data["classes"] = data.pop("classes_", data["classes"])
        data = {key: value for key, value in data.items() if value}
        folder = stores["a"].path.parent / tmp_path.name
        folder.mkdir(exist_ok=True)
        path = folder / "spec.yaml"
        path.write_text(yaml.safe_dump(data, sort_keys=False))
        return path

    return write


@pytest.fixture(scope="session")
def uneven(build_source, stores):
    """A store that was calibrated on 10, 20, 30 and 40 images of a class."""
    modular = build_modular(build_source, 0)
    scale, shift = np.array(modular.calibration).T
    modular.set_calibration(scale, shift, [10, 20, 30, 40])
    path = stores["a"].path.parent / "uneven"
    return decompose(modular, path, value_range=(0, 255))
