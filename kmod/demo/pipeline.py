"""The whole way on real images: train, take apart, compose, patch, report."""

import dataclasses
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np

from kmod.composition.composer import compose
from kmod.data.image_data import ImageData
from kmod.data.load import load_data
from kmod.demo.settings import DEMO_FILE
from kmod.demo.settings import Settings
from kmod.demo.settings import list_demo
from kmod.demo.settings import settings_for
from kmod.files import atomic_directory
from kmod.files import read_files
from kmod.files.manifest import write_sealed
from kmod.graph.content import content_digest
from kmod.graph.sizes import model_sizes
from kmod.metrics.comparison import compare_evaluations
from kmod.metrics.evaluate import Evaluation
from kmod.metrics.evaluate import evaluate
from kmod.metrics.evaluate import weak_classes
from kmod.metrics.latency import measure_latency
from kmod.metrics.overlap import class_overlap
from kmod.modular.modularize import modularize
from kmod.modules.decompose import decompose
from kmod.patching.patcher import patch
from kmod.report.write import write_demo_report
from kmod.spec.spec_file import write_spec
from kmod.zoo.build import build
from kmod.zoo.train import train_source


def run_demo(
    data_name: str,
    out: str | Path,
    *,
    data_dir: str | Path | None = None,
    seed: int = 0,
    overwrite: bool = False,
    say: Callable[[str], None] = lambda text: None,
    verbose: str | int = "auto",
) -> dict[str, Any]:
    """Runs every step of kmod on one data set.

    Args:
        data_name: `"digits"`, `"mnist"`, `"fashion_mnist"` or `"cifar10"`.
        out: Directory to make, for the models, the store, the spec,
            `results.json` and `report.html`. It appears when all is done.
        data_dir: Directory of prepared TensorFlow Datasets.
        seed: Integer, seed of everything random.
        overwrite: Whether an earlier demo at `out` may be replaced that
            nobody changed.
        say: Function that tells the user what is being done.
        verbose: Keras' progress bars.

    Returns:
        What `results.json` holds: figures on test data, sizes and seconds.

    Raises:
        UsageError: If the demo does not know the data set, or something at
            `out` would be lost.
        ArtifactError: If the data are not there.
    """
    with atomic_directory(out, overwrite, list_demo) as folder:
        demo = _Demo(data_name, folder, data_dir, seed, say, verbose)
        results = demo.run()
        text = json.dumps(results, indent=1, ensure_ascii=False)
        (folder / "results.json").write_text(text + "\n", encoding="utf-8")
        write_demo_report(folder, results, demo.data)
        manifest = {"version": 1, "files": read_files(folder)}
        write_sealed(folder / DEMO_FILE, manifest)
    return results


class _Demo:
    """One run; each step leaves what the next ones need."""

    def __init__(self, name, out, data_dir, seed, say, verbose):
        self.settings: Settings = settings_for(name)
        self.data: ImageData = load_data(name, data_dir, seed=seed)
        self.out = out
        self.seed = seed
        self.say = say
        self.verbose = verbose
        self.seconds = {}

    def run(self):
        source = self._timed("train the source model", self._train_source)
        modular = self._timed("search for masks", self._search, source)
        store = self._timed("cut and save modules", self._decompose, modular)
        composed = self._timed("compose all modules", self._compose, store)
        before = self._evaluate(source)
        after = self._evaluate(composed)
        sizes = self._sizes(modular, store, composed)
        patched = self._timed("patch a weak model", self._patch, store)
        return {
            "data": {"name": self.data.name, "version": self.data.version},
            "class_names": list(self.data.class_names),
            "seed": self.seed,
            "settings": dataclasses.asdict(self.settings),
            "source_accuracy": before.accuracy,
            "composed_accuracy": after.accuracy,
            "source": before.as_dict(),
            "composed": after.as_dict(),
            **sizes,
            "patch": patched,
            "content": {
                "source": content_digest(source),
                "store": store.manifest.content_digest,
                "composed": content_digest(composed),
            },
            "seconds": self.seconds,
        }

    def _timed(self, step, function, *args):
        self.say(step)
        start = time.perf_counter()
        result = function(*args)
        self.seconds[step] = round(time.perf_counter() - start, 1)
        return result

    def _train_source(self):
        keras.utils.set_random_seed(self.seed)
        source = self._new_model(self.settings.width)
        self._train(source, self.data, self.settings.source_epochs)
        source.save(self.out / "source.keras")
        return source

    def _new_model(self, width):
        return build(
            "simcnn",
            self.data.train.images.shape[1:],
            len(self.data.class_names),
            small=self.settings.small,
            width=width,
        )

    def _train(self, model, data, epochs):
        train_source(
            model,
            data,
            epochs,
            batch_size=2 * self.settings.batch_size,
            seed=self.seed,
            augment=self.settings.augment,
            verbose=self.verbose,
        )

    def _search(self, source):
        return modularize(
            source,
            (self.data.train.images, self.data.train.labels),
            self._validation,
            class_names=self.data.class_names,
            epochs=self.settings.search_epochs,
            batch_size=self.settings.batch_size,
            seed=self.seed,
            verbose=self.verbose,
        )

    @property
    def _validation(self):
        return self.data.validation.images, self.data.validation.labels

    def _decompose(self, modular):
        return decompose(
            modular,
            self.out / "modules",
            data=self._validation,
            source_name=f"{self.data.name}-simcnn",
            value_range=self.data.value_range,
            data_source={
                "name": self.data.name,
                "version": self.data.version,
                "split": "validation",
            },
        )

    def _compose(self, store):
        path = self.out / "all-classes.yaml"
        write_spec(
            {
                "version": 1,
                "name": f"{self.data.name}-all-classes",
                "stores": {"source": {"path": store.path}},
                "classes": [
                    {"name": name, "module": {"store": "source", "class": name}}
                    for name in store.class_names
                ],
            },
            path,
        )
        composed = compose(path)
        composed.save(self.out / "composed.keras")
        return composed

    def _evaluate(self, model) -> Evaluation:
        return evaluate(model, self.data.test, self.data.class_names)

    def _sizes(self, modular, store, composed):
        whole = model_sizes(modular.flat_source)
        infos = [store.info(name) for name in store.class_names]
        macs = [info.macs for info in infos]
        parameters = [info.parameters for info in infos]
        parts = model_sizes(composed)
        module = store[store.class_names[0]].model
        overlap = class_overlap(modular.kernel_masks)
        return {
            "retention_rate": modular.retention_rate,
            "macs_ratio": sum(macs) / whole.macs,
            "composed_macs_ratio": parts.macs / whole.macs,
            "max_output_gap": max(info.max_output_gap for info in infos),
            "sizes": {
                "source": {
                    "kernels": modular.kernels.num_kernels,
                    "parameters": whole.parameters,
                    "macs": whole.macs,
                    "bytes": (self.out / "source.keras").stat().st_size,
                    "latency_ms": _milliseconds(modular.flat_source),
                },
                "module": {
                    "kernels": float(np.sum(modular.kernel_masks) / len(infos)),
                    "parameters": float(np.mean(parameters)),
                    "macs": float(np.mean(macs)),
                    "bytes": float(np.mean(_archive_bytes(store.path))),
                    "latency_ms": _milliseconds(module),
                },
                "composed": {
                    "parameters": parts.parameters,
                    "macs": parts.macs,
                    "bytes": (self.out / "composed.keras").stat().st_size,
                    "latency_ms": _milliseconds(composed),
                },
            },
            "modules": {
                info.class_name: {
                    "retention_rate": info.retention_rate,
                    "macs_ratio": info.macs / whole.macs,
                    "kept_by_layer": {
                        layer: len(kept)
                        for layer, kept in info.kept_kernels.items()
                    },
                    **info.metrics,
                }
                for info in infos
            },
            "kernels_by_layer": dict(
                zip(modular.kernels.layers, modular.kernels.counts.tolist())
            ),
            "overlap": np.round(overlap, 4).tolist(),
        }

    def _patch(self, store):
        weak = self._train_weak()
        weak.save(self.out / "weak.keras")
        chosen = evaluate(weak, self._validation, self.data.class_names)
        target = weak_classes(chosen)[0]
        name = self.data.class_names[target]
        patched = patch(weak, target, store[name], self._validation)
        patched.save(self.out / "patched.keras")
        return compare_evaluations(
            self._evaluate(weak), self._evaluate(patched), name
        )

    def _train_weak(self):
        """Trains half as wide a model on a few of the images."""
        keras.utils.set_random_seed(self.seed + 1)
        weak = self._new_model(self.settings.width / 2)
        draw = np.random.default_rng(self.seed + 1)
        some = draw.permutation(len(self.data.train))
        few = self.data.train.take(some[: self.settings.weak_images])
        data = dataclasses.replace(self.data, train=few)
        self._train(weak, data, self.settings.weak_epochs)
        return weak


def _milliseconds(model):
    return round(1000 * measure_latency(model), 3)


def _archive_bytes(store_path):
    return [path.stat().st_size for path in store_path.glob("*/*/*.keras")]
