"""The server of `tutorials/serve.py`."""

import concurrent.futures
import importlib.util
import shutil
import time
from pathlib import Path

import keras
import numpy as np
import pytest

import kmod

testing = pytest.importorskip("starlette.testclient")
pytest.importorskip("httpx")

URL = "/v1/models/served"


def load_server():
    path = Path(__file__).parents[1] / "tutorials" / "serve.py"
    spec = importlib.util.spec_from_file_location("serve", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


serve = load_server()


def write(path, source, digits, seed=None, **options):
    """Writes a composed model; with a seed, one of other weights."""
    model = keras.models.clone_model(source)
    model.set_weights(source.get_weights())
    if seed is not None:
        model.get_layer("logits").bias.assign([5.0, 0.0, 0.0])
    store = path.with_name(f"store-{seed}")
    validation = digits.validation.images, digits.validation.labels
    kmod.modules_from_model(
        model, store, data=validation, class_names=digits.class_names
    )
    spec = path.with_name(f"{seed}.yaml")
    spec.write_text(
        f"version: 1\nname: served\nstores: {{s: {{path: {store.name}}}}}\n"
        "classes:\n"
        + "".join(
            f"- {{name: '{name}', module: {{store: s, class: '{name}'}}}}\n"
            for name in digits.class_names
        )
    )
    model = kmod.compose(spec)
    kmod.save(model, path, formats=["keras"], **options)
    return model


@pytest.fixture(scope="module")
def served(strong, digits, tmp_path_factory):
    """Directory of a composed model, and the model."""
    path = tmp_path_factory.mktemp("served") / "served"
    return path, write(path, strong, digits)


@pytest.fixture
def client(served):
    with testing.TestClient(serve.app_of(served[0])) as client:
        yield client


def answers(client, images):
    response = client.post(
        f"{URL}:predict", json={"instances": images.tolist()}
    )
    assert response.status_code == 200, response.text
    return np.array(response.json()["predictions"])


def test_answers_are_the_models(client, served, digits):
    images = digits.test.images[:5]
    expected = served[1].predict(images, verbose=0)
    np.testing.assert_allclose(answers(client, images), expected, atol=1e-6)
    assert client.get(URL).json()["class_names"] == ["3", "8", "9"]


def test_requests_at_once_get_their_own_answers(client, served, digits):
    images = digits.test.images[:24]
    expected = served[1].predict(images, verbose=0)
    parts = np.split(np.arange(24), [1, 3, 6, 10, 15])
    with concurrent.futures.ThreadPoolExecutor(6) as threads:
        found = threads.map(lambda part: answers(client, images[part]), parts)
        for part, each in zip(parts, found, strict=True):
            np.testing.assert_allclose(each, expected[part], atol=1e-5)


@pytest.mark.parametrize(
    "body",
    [
        "no JSON",
        "[]",
        '{"images": []}',
        '{"instances": []}',
        '{"instances": [[1, 2], [3]]}',
        '{"instances": [[[[NaN]]]]}',
        '{"instances": [[[["a"]]]]}',
        '{"instances": [[[[1.0]]]]}',
    ],
)
def test_what_is_no_request_is_refused(client, body, digits):
    response = client.post(f"{URL}:predict", content=body)
    assert response.status_code == 400
    assert response.json()["error"]
    answers(client, digits.test.images[:1])


def digest_of(client):
    return client.get(URL).json()["digest"]


def wait_for(condition, seconds=30):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_new_version_takes_over(served, strong, digits, tmp_path):
    path = shutil.copytree(served[0], tmp_path / "served")
    images = digits.test.images[:8]
    with testing.TestClient(serve.app_of(path)) as client:
        before = digest_of(client)
        model = write(path, strong, digits, seed=1, overwrite=True)
        wait_for(lambda: digest_of(client) != before)
        expected = model.predict(images, verbose=0)
        np.testing.assert_allclose(answers(client, images), expected, atol=1e-6)


def test_damaged_version_does_not_take_over(served, digits, tmp_path, caplog):
    path = shutil.copytree(served[0], tmp_path / "served")
    images = digits.test.images[:8]
    with testing.TestClient(serve.app_of(path)) as client:
        before = digest_of(client)
        (path / "model.keras").unlink()
        wait_for(lambda: "goes on" in caplog.text)
        assert digest_of(client) == before
        expected = served[1].predict(images, verbose=0)
        np.testing.assert_allclose(answers(client, images), expected, atol=1e-6)
