"""What several folders of tests use: digits, models of them, their stores."""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
# To compile well takes longer than these tests compute.
os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0")
# Threads of several test processes would wait for each other's cores.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import dataclasses
import gc
import http.server
import json
import re
import shutil
import textwrap
import threading
import urllib.parse

import keras
import numpy as np
import pytest

from kmod.cli.starting import collect_less_often
from kmod.data.image_data import SPLITS
from kmod.data.load import load_data
from kmod.data.streaming import build_ahead
from kmod.data.subsets import class_subset
from kmod.modular.modular_model import ModularModel
from kmod.modules.decompose import decompose
from kmod.modules.manifest import FAMILIARITY_FILE
from kmod.modules.manifest import write_store_manifest
from kmod.modules.module_store import load_store

NAMES = ("3", "8", "9")


def build(num_classes=len(NAMES), seed=0):
    keras.utils.set_random_seed(seed)
    image = keras.Input((8, 8, 1), name="image")
    x = keras.layers.Rescaling(1 / 255, name="rescaling")(image)
    x = keras.layers.Conv2D(6, 3, name="conv_1")(x)
    x = keras.layers.BatchNormalization(name="norm_1")(x)
    x = keras.layers.ReLU(name="relu_1")(x)
    x = x + keras.layers.Conv2D(6, 3, padding="same", name="conv_2")(x)
    x = keras.layers.Conv2D(24, 3, activation="relu", name="conv_3")(x)
    x = keras.layers.GlobalAveragePooling2D(name="pool")(x)
    x = keras.layers.Dense(num_classes, name="logits")(x)
    x = keras.layers.Softmax(name="probabilities")(x)
    return keras.Model(image, x, name=f"source_{seed}")


collect_less_often()
# What is made while tests are collected, while fixtures are set up and in a
# test must not depend on the tests before.
keras.utils.set_random_seed(0)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """Keeps the tests of a file, and all notebooks, in one process.

    Fixtures of a file are then made once, and kernels start one after another:
    those that start together may pick the same port.
    """
    from xdist.scheduler import LoadScopeScheduling

    class ByFile(LoadScopeScheduling):
        def _split_scope(self, nodeid):
            path = nodeid.partition("::")[0]
            return "notebooks" if path.endswith(".ipynb") else path

    return ByFile(config, log)


@pytest.fixture(scope="module", autouse=True)
def seeded_module():
    keras.utils.set_random_seed(0)


@pytest.fixture(autouse=True)
def seeded_test():
    keras.utils.set_random_seed(0)


@pytest.fixture(scope="module", autouse=True)
def frozen_garbage():
    """Keeps collections from visiting what earlier tests have left, again."""
    yield
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def build_source():
    """Builds an untrained source model of `num_classes` classes."""
    return build


@pytest.fixture(scope="session")
def ten_digits():
    return load_data("digits")


@pytest.fixture(scope="session")
def digits(ten_digits):
    """The digits 3, 8 and 9, which look alike."""
    parts = {
        name: class_subset(getattr(ten_digits, name), [3, 8, 9])
        for name in SPLITS
    }
    return dataclasses.replace(ten_digits, class_names=NAMES, **parts)


@pytest.fixture(scope="session")
def train():
    """Trains a classifier until it knows the digits a little."""

    def train(model, data, epochs=8, from_logits=False):
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits)
        # Compiling to machine code takes longer than it saves here.
        model.compile(keras.optimizers.Adam(0.01), loss, jit_compile=False)
        images, labels = data.train.images, data.train.labels
        build_ahead(model, labels, model.output_shape[-1])
        model.fit(images, labels, 32, epochs=epochs, verbose=0)
        return model

    return train


@pytest.fixture(scope="session")
def store_of(tmp_path_factory):
    """Makes the store of a model's unmasked modules."""

    def store_of(source, class_names, **options):
        modular = ModularModel(source, class_names, **options)
        path = tmp_path_factory.mktemp("stores") / "store"
        return decompose(modular, path, value_range=(0, 255))

    return store_of


@pytest.fixture(scope="session")
def strong(train, digits):
    return train(build(), digits)


@pytest.fixture(scope="session")
def weak(strong):
    """The strong model, but blind to the digit 8."""
    model = keras.models.clone_model(strong)
    model.set_weights(strong.get_weights())
    kernel, bias = model.get_layer("logits").get_weights()
    kernel[:, 1] = kernel[:, 0]
    bias[1] = bias[0] - 0.5
    model.get_layer("logits").set_weights([kernel, bias])
    return model


@pytest.fixture(scope="session")
def donor(strong, store_of):
    return store_of(strong, NAMES, mask_from="conv_3")


@pytest.fixture
def older(donor, tmp_path):
    """A store as earlier versions wrote them."""
    path = shutil.copytree(donor.path, tmp_path / "older")
    (path / FAMILIARITY_FILE).unlink(missing_ok=True)
    manifest = dataclasses.replace(
        donor.manifest, familiarity=None, contract=None
    )
    write_store_manifest(path, manifest)
    return load_store(path)


@pytest.fixture(scope="session")
def poor(store_of):
    """A store of a model that knows nothing."""
    return store_of(build(seed=3), NAMES, mask_from="conv_3")


@pytest.fixture(scope="session")
def images():
    draw = np.random.default_rng(7)
    return draw.uniform(0, 255, (16, 8, 8, 1)).astype("float32")


class Hub(http.server.BaseHTTPRequestHandler):
    """Answers as the Hugging Face Hub does, for one repository."""

    def do_GET(self):
        path = urllib.parse.unquote(self.path.partition("?")[0])
        repository = "somebody/digits"
        if path == f"/api/models/{repository}":
            content = json.dumps({"id": repository, "sha": "0", "tags": []})
        elif path.startswith(tree := f"/api/models/{repository}/tree/main"):
            content = json.dumps(self._list(path[len(tree) + 1 :]))
        elif path.startswith(files := f"/{repository}/resolve/main/"):
            content = (self.server.top / path[len(files) :]).read_bytes()
        else:
            self.send_error(404)
            return
        content = content if isinstance(content, bytes) else content.encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def _list(self, folder):
        return [
            {
                "type": "directory" if path.is_dir() else "file",
                "path": path.relative_to(self.server.top).as_posix(),
                "size": path.stat().st_size,
                "oid": "0",
            }
            for path in (self.server.top / folder).iterdir()
        ]

    def log_message(self, *words):
        pass


@pytest.fixture
def hub():
    """Serves a folder as a repository of the Hub; returns the address."""
    pytest.importorskip("huggingface_hub", reason="needs the extra `remote`")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()

        def hub(folder):
            server.top = folder
            return f"http://127.0.0.1:{server.server_port}"

        yield hub
        server.shutdown()


@pytest.fixture(scope="session")
def blocks():
    """Finds blocks of a page by their language; `""` are those without."""

    def blocks(page, *languages):
        text = page.read_text(encoding="utf-8")
        found = re.findall(r"^( *)```(\w*)\n(.*?)^\1```", text, re.M | re.S)
        return [textwrap.dedent(x) for _, name, x in found if name in languages]

    return blocks
