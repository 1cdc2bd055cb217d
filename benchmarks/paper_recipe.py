"""Runs the paper's recipe on the networks of `efficiency.py`.

On a machine that has CIFAR-10, once, and then where an accelerator is:

    python benchmarks/full_size.py --export-data DATA.npz --data-dir DIR
    KERAS_BACKEND=jax python benchmarks/paper_recipe.py --data DATA.npz

On two cores that takes days. For each network it trains the source model as
`efficiency.py` does, and finds masks by the paper's recipe on all training
images. `efficiency.py --sources WORK` then measures kmod's own cells on those
source models. Needs what `full_size.py` needs; every epoch is backed up under
`--work`, so a run that was cut short goes on where it stopped. With `--minutes`
the recipe ends early. Figures are of all test images. Writes
`benchmarks/results/paper_recipe.json`, and `paper` of each network in the
section `efficiency` of `benchmarks/results/summary.json`.
"""

import argparse
import json
from pathlib import Path

import keras
from accelerator import Clock
from accelerator import deadline_of
from accelerator import device
from accelerator import find_masks
from accelerator import points_lost
from accelerator import read_data
from common import accuracy
from common import machine
from common import part
from common import read_result
from common import update_summary
from common import write_result
from networks import WIDTHS
from networks import trained

from kmod.modular.recipe import PAPER

RESULT = "paper_recipe"


def main():
    args = parse_arguments()
    data = read_data(args.data, args.images)
    for name in args.networks:
        figures = {
            "command": "KERAS_BACKEND=jax python benchmarks/paper_recipe.py "
            "--data DATA.npz",
            "machine": {**machine(), "device": device()},
            "width": WIDTHS[name],
            "settings": {
                key: getattr(args, key) for key in ("seed", "epochs", "minutes")
            },
            **measure(args, data, name),
        }
        if not args.dry_run:
            write_result(RESULT, {**read_result(RESULT), name: figures})
            update_summary("efficiency", {name: {"paper": short(figures)}})
        print(json.dumps(figures, indent=1))


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--data",
        type=Path,
        required=True,
        help="what full_size.py --export-data wrote",
    )
    parser.add_argument("--work", type=Path, default=Path("paper_recipe-work"))
    parser.add_argument(
        "--networks", nargs="+", choices=WIDTHS, default=list(WIDTHS)
    )
    parser.add_argument("--epochs", type=int, default=PAPER.epochs)
    parser.add_argument(
        "--minutes", type=float, help="until the last epoch begins"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--images", type=int, help="of each split, as a test")
    parser.add_argument(
        "--dry-run", action="store_true", help="write no results"
    )
    args = parser.parse_args()
    args.deadline = deadline_of(args.minutes)
    return args


def short(figures):
    """Returns what the summary holds of a network's figures."""
    source, paper = figures["source"], figures["paper"]
    names = ("retention_rate", "macs_ratio", "epochs")
    return {
        "width": figures["width"],
        "accuracy_loss": points_lost(source, paper, "accuracy"),
        "time_ratio_paper": paper["epochs"] / PAPER.epochs,
        **{name: paper[name] for name in names},
    }


def measure(args, data, name):
    folder = args.work / name
    source = part(folder / "source.json", train, args, data, name, folder)
    paper = part(folder / "paper.json", search, args, data, folder)
    return {"source": source, "paper": paper}


def train(args, data, name, folder):
    clock = Clock(folder / "source-epochs.json")
    backup = keras.callbacks.BackupAndRestore(folder / "source-backup")
    source = trained(name, data, args.seed, [backup, clock])
    source.save(folder / "source.keras")
    return {
        "validation_accuracy": accuracy(source, data.validation),
        "accuracy": accuracy(source, data.test),
        "seconds": clock.seconds,
    }


def search(args, data, folder):
    source = keras.models.load_model(folder / "source.keras")
    return find_masks(
        source,
        data,
        PAPER,
        args.epochs,
        folder,
        deadline=args.deadline,
        seed=args.seed,
    )


if __name__ == "__main__":
    main()
