"""Serves composed models over HTTP, under load and while they are replaced.

    python benchmarks/serving.py --data-dir DIR [--work DIR]

`tutorials/serve.py` runs in a process of its own, by uvicorn, and threads ask
it for one image of CIFAR-10 each. Three models answer: one source of ten
classes by itself, all its modules composed, and modules of two sources, of
animals and of vehicles. Then the second is replaced again and again while it
is asked; every answer must be that of one of both versions. Writes
`serving.json` and the section `serving` of `summary.json`.
"""

import argparse
import concurrent.futures
import http.client
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import keras
import numpy as np
import yaml
from common import command
from common import machine
from common import update_summary
from common import write_result
from pays import images_of
from pays import source_of
from world_sources import ALL
from world_sources import ANIMALS
from world_sources import VEHICLES

import kmod

TUTORIALS = Path(__file__).parents[1] / "tutorials"
PORT = 8391
THREADS = 8
ROUNDS = 5
GAP = 1e-4  # By which answers of images in other batches may differ.


class Served:
    """Serves a directory until the block ends."""

    def __init__(self, path: Path):
        self.path = path

    def __enter__(self):
        self.process = subprocess.Popen(
            [
                *(sys.executable, "-m", "uvicorn", "serve:app"),
                *("--app-dir", TUTORIALS, "--port", str(PORT)),
                *("--log-level", "warning"),
            ],
            env={**os.environ, "KMOD_MODEL": str(self.path)},
        )
        for _ in range(600):
            try:
                ask(http.client.HTTPConnection("localhost", PORT), self.path)
                return self
            except OSError:
                time.sleep(0.2)
        raise TimeoutError("The server did not start.")

    def __exit__(self, *_):
        self.process.terminate()
        self.process.wait()


def ask(connection, path: Path, image=None):
    """Returns the status and the content of an answer."""
    url = f"/v1/models/{path.name}"
    if image is None:
        connection.request("GET", url)
    else:
        body = json.dumps({"instances": [image.tolist()]})
        connection.request("POST", f"{url}:predict", body)
    response = connection.getresponse()
    return response.status, json.loads(response.read())


def load(path: Path, images, count: int, checked) -> dict:
    """Asks for `count` images by several threads; times and checks it."""
    local = threading.local()

    def one(index):
        if not hasattr(local, "connection"):
            local.connection = http.client.HTTPConnection("localhost", PORT)
        began = time.perf_counter()
        index %= len(images)
        status, found = ask(local.connection, path, images[index])
        seconds = time.perf_counter() - began
        is_right = status == 200 and any(
            np.abs(found["predictions"][0] - answers[index]).max() < GAP
            for answers in checked
        )
        return seconds, is_right

    with concurrent.futures.ThreadPoolExecutor(THREADS) as threads:
        began = time.perf_counter()
        rows = list(threads.map(one, range(count)))
        seconds = time.perf_counter() - began
    times = sorted(each for each, _ in rows)
    return {
        "requests": count,
        "failed": sum(not is_right for _, is_right in rows),
        "per_second": count / seconds,
        "median_ms": 1000 * times[len(times) // 2],
        "p99_ms": 1000 * times[int(0.99 * len(times))],
    }


def composed(args, name: str, *sources) -> tuple[Path, keras.Model]:
    """Composes all classes of sources `(classes, seed)` and saves the model."""
    stores = [source_of(args, "simcnn", *source)[1] for source in sources]
    spec = {
        "version": 1,
        "name": name,
        "stores": {
            f"s{index}": {"path": store.path.name}
            for index, store in enumerate(stores)
        },
        "classes": [
            {"name": each, "module": {"store": f"s{index}", "class": each}}
            for index, store in enumerate(stores)
            for each in store.class_names
        ],
    }
    file = args.work / f"{name}.yaml"
    file.write_text(yaml.safe_dump(spec, sort_keys=False))
    model = kmod.compose(file)
    path = args.work / name
    shutil.rmtree(path, ignore_errors=True)  # Of a run cut short.
    kmod.save(model, path, formats=["keras"])
    return path, model


def replace_often(path: Path, versions, stop, replaced: list) -> None:
    """Replaces a model by another and back until it is told to stop."""
    while not stop.wait(1.0):
        replaced.append(path)
        model = versions[len(replaced) % 2]
        kmod.save(model, path, formats=["keras"], overwrite=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data-dir")
    parser.add_argument("--work", type=Path, default=Path("serving-work"))
    parser.add_argument("--requests", type=int, default=5000)
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    one, two, other = (
        composed(args, "one_source", (ALL, 0)),
        composed(args, "two_sources", (ANIMALS, 0), (VEHICLES, 0)),
        composed(args, "other_source", (ALL, 1)),
    )
    images = images_of(ALL, 100, args, 0).test.images[:256]
    answers = {
        path: model.predict(images, verbose=0)
        for path, model in (one, two, other)
    }
    figures = {"one_source": [], "two_sources": []}
    for _ in range(ROUNDS):
        for path, _ in one, two:
            with Served(path):
                load(path, images, 200, [answers[path]])  # Warms up.
                count = args.requests // ROUNDS
                found = load(path, images, count, [answers[path]])
            figures[path.name].append(found)
            print(path.name, found, flush=True)
    path, versions = one[0], (one[1], other[1])
    stop, replaced = threading.Event(), []
    with Served(path):
        thread = threading.Thread(
            target=replace_often, args=(path, versions, stop, replaced)
        )
        thread.start()
        both = answers[path], answers[other[0]]
        swapped = load(path, images, args.requests, both)
        stop.set()
        thread.join()
    swapped["replaced"] = len(replaced)
    rates = {
        name: [row["per_second"] for row in rows]
        for name, rows in figures.items()
    }
    summary = {
        "throughput_ratio": float(
            np.median(np.divide(rates["two_sources"], rates["one_source"]))
        ),
        "failed": sum(
            row["failed"] for rows in figures.values() for row in rows
        ),
        "replaced": swapped["replaced"],
        "requests_while_replaced": swapped["requests"],
        "failed_while_replaced": swapped["failed"],
    }
    write_result(
        "serving",
        {
            "command": command(args, "requests"),
            "machine": machine(),
            "threads": THREADS,
            **figures,
            "replaced": swapped,
        },
    )
    update_summary("serving", summary)
    print(json.dumps(summary, indent=1))


if __name__ == "__main__":
    main()
