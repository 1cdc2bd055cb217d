"""Takes networks of usual depth apart, on a folder of photos, on two cores.

    python benchmarks/real_networks.py --data-dir DIR [--work DIR]

20,000 photos to train on, 2,000 to validate and 4,000 to test on lie in a
folder: CIFAR-10's images, enlarged to 96x96. MobileNetV2 of alpha 0.35 and a
residual network of 27 convolutions are trained on them by plain `fit` from
random weights, most epochs at 48x48. Then kmod's commands run one after
another, each as a process of its own: `inspect`, `modularize --for alone`
from the layer that it proposes, `compose` of all classes and of three,
`evaluate`, `patch` of a small network that saw a tenth of one class's photos,
`export` and `test`. Times are the wall clock's, with the number of processes
that wanted a core (`load`) beside them, and memory is the most that a process
held, Python and TensorFlow included.

Every finished part is kept under `--work`, and a later call goes on from there.
Writes `benchmarks/results/real_networks.json` and the section `real_networks`
of `benchmarks/results/summary.json`; accuracies are of test images.
"""

import argparse
import json
import shutil
from pathlib import Path

import keras
from common import command
from common import in_child
from common import machine
from common import part
from common import read_result
from common import update_summary
from common import write_result
from photos import portable
from photos import some
from photos import take_apart
from photos import train
from photos import write_folder

from kmod.composition.saving import load
from kmod.data.load import load_data
from kmod.metrics.latency import measure_latency

RESULT = "real_networks"
PHOTOS = {"train": 2000, "val": 200, "test": 400}  # Of each class.
WEAK_CLASS = "cat"
WEAK_SHARE = 0.1
FEW = ("cat", "dog", "ship")
# Epochs at 48x48 and at 96x96, and the highest learning rate.
TRAININGS = {
    "mobile_net": (12, 2, 0.002),
    "residual_net": (9, 4, 0.003),
    "small_net": (6, 1, 0.003),
}
NETWORKS = ("mobile_net", "residual_net")


def main() -> None:
    args = parse_arguments()
    prepare(args)
    results = read_result(RESULT)
    results["command"] = command(args, "epochs")
    rows = results.setdefault("networks", {})
    for name in args.networks:
        found = portable(measure(args, name), args.work)
        rows[name] = {"machine": machine(), **found}
        write_result(RESULT, results)
        update_summary(RESULT, {name: short(rows[name])})
        print(name, json.dumps(short(rows[name]), indent=1), flush=True)


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-dir", required=True)
    parser.add_argument("--work", type=Path, default=Path("networks-work"))
    parser.add_argument(
        "--networks", nargs="+", choices=NETWORKS, default=NETWORKS
    )
    parser.add_argument("--epochs", type=int, default=3, help="of the search")
    return parser.parse_args()


def prepare(args):
    """Writes the photos, those of the weak network beside the others."""

    def photos():
        data = load_data("cifar10", args.data_dir)
        classes = range(len(data.class_names))
        for split, each in PHOTOS.items():
            images = data.images_of({"val": "validation"}.get(split, split))
            chosen = some(images, each, classes, 0)
            folder = args.work / "photos-10" / split
            write_folder(folder, chosen, data.class_names)
        weak = args.work / "photos-10-weak"
        shutil.copytree(args.work / "photos-10", weak)
        files = sorted((weak / "train" / WEAK_CLASS).iterdir())
        for path in files[round(WEAK_SHARE * len(files)) :]:
            path.unlink()

    part(args.work / "photos-10.json", photos)


def measure(args, name):
    folder = args.work / name
    trained = part(
        folder / "source.json", fit, args, name, "photos-10", "source"
    )
    part(
        args.work / "weak.json",
        fit,
        args,
        "small_net",
        "photos-10-weak",
        "weak",
    )
    if not (folder / "weak.keras").exists():
        shutil.copy(args.work / "small_net" / "weak.keras", folder)
    steps = take_apart(
        folder,
        "all",
        "../photos-10",
        ["--epochs", args.epochs],
        few=FEW,
    )
    times = part(folder / "latency.json", in_child, latency, folder)
    return {"source": trained, "steps": steps, "latency": times}


def latency(folder):
    """Returns seconds of one prediction, of the source and of all modules."""
    source = keras.models.load_model(folder / "source.keras", compile=False)
    models = {"source": source, "composed": load(folder / "built/all")}
    return {name: measure_latency(model) for name, model in models.items()}


def fit(args, network, photos, name):
    small_epochs, epochs, rate = TRAININGS[network]
    folder = args.work / network
    folder.mkdir(parents=True, exist_ok=True)
    model = train(network, args.work / photos, small_epochs, epochs, rate)
    model.save(folder / f"{name}.keras")
    return {"small_epochs": small_epochs, "epochs": epochs, "rate": rate}


def short(figures):
    """Returns what the summary holds of a network."""
    steps = figures["steps"]
    printed = {name: step["printed"] for name, step in steps.items()}
    found = printed["modularize"]
    source = found["metrics"]["before"]
    patched, times = printed["patch"], figures["latency"]
    return {
        "source_accuracy": printed["evaluate_source"]["accuracy"],
        "accuracy": printed["evaluate"]["accuracy"],
        "few_accuracy": printed["evaluate_few"]["accuracy"],
        "retention_rate": found["metrics"]["after"]["retention_rate"],
        "macs_ratio": printed["compose"]["composed"]["macs"] / source["macs"],
        "latency_ratio": times["composed"] / times["source"],
        "patched": [
            {"class": each["target_class"], **each["figures"]["f1"]}
            for each in (
                patched["patches"] if isinstance(patched, dict) else ()
            )
        ],
        "training_seconds": figures["source"]["seconds"],
        "seconds": {name: step["seconds"] for name, step in steps.items()},
        "peak_mib": {name: step["peak_mib"] for name, step in steps.items()},
        "load": {name: step["load"] for name, step in steps.items()},
        "exit_codes": {name: step["exit_code"] for name, step in steps.items()},
    }


if __name__ == "__main__":
    main()
