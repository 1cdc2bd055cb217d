"""Compares a step of the paper's recipe with PyTorch, on this machine.

    python benchmarks/torch_step.py [--torch-python PYTHON] [--steps N]

Full-size SimCNN, 64 images of 32 x 32, ten modules, masks and heads trained,
float32: kmod's step against the same arithmetic in `torch_reference.py`, both
from the same weights and masks. Two processes take turns, so that a change of
the machine's speed meets both; medians count, and the losses must agree.
PyTorch runs on all cores and on half of them, turn by turn, since the second
half may be of no use to it; the better median is compared. Leave the machine
to it alone: beside other work, times differ by a factor of two and more, and
only the processors' seconds that it writes beside them still say something.
`--torch-python` names a Python that has PyTorch, if that is another one.
Writes `benchmarks/results/torch_step.json` and `efficiency.step_ratio_torch`
of the summary. Random weights and images: a step takes as long on them.
"""

import argparse
import collections
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from common import machine
from common import update_summary
from common import write_result

HERE = Path(__file__).parent
LOSS_GAP = 1e-3


def main():
    args = parse_arguments()
    if args.ours:
        return run_ours(args)
    with tempfile.TemporaryDirectory() as folder:
        figures = compare(args, Path(folder) / "weights.npz")
    print(json.dumps(figures, indent=1))
    if not (args.small or args.dry_run):
        write_result("torch_step", figures)
        ratio = figures["ratio"]
        update_summary("efficiency", {"step_ratio_torch": ratio})


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--torch-python", default=sys.executable)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--small", action="store_true", help="the small twin, as a test"
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="write no results"
    )
    parser.add_argument("--ours", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args()


def compare(args, weights):
    """Lets both take steps in turn; returns the figures."""
    options = ["--batch-size", args.batch_size, "--seed", args.seed]
    options += ["--small"] if args.small else []
    ours = start(sys.executable, __file__, "--ours", weights, *options)
    threads = [os.cpu_count(), max(1, os.cpu_count() // 2)]
    first = step(ours, threads[0])  # It writes what the other one reads.
    torch = start(args.torch_python, HERE / "torch_reference.py", weights)
    losses = {"kmod": [first["loss"]], "torch": []}
    losses["torch"].append(step(torch, threads[0])["loss"])
    seconds = collections.defaultdict(list)
    cpu_seconds = collections.defaultdict(list)
    for number in range(args.steps * len(threads)):
        count = threads[number % len(threads)]
        for name, process in (("kmod", ours), ("torch", torch)):
            figures = step(process, count)
            losses[name].append(figures["loss"])
            key = name if name == "kmod" else f"torch_{count}_threads"
            seconds[key].append(figures["seconds"])
            cpu_seconds[key].append(figures["cpu_seconds"])
    for process in (ours, torch):
        process.stdin.close()
        process.wait()
    check_losses(losses)
    medians = {key: statistics.median(seconds[key]) for key in seconds}
    best = min(medians[key] for key in medians if key != "kmod")
    return {
        "command": "python benchmarks/torch_step.py",
        "machine": machine(),
        "seed": args.seed,
        "batch_size": args.batch_size,
        "losses": losses,
        "seconds": seconds,
        "cpu_seconds": cpu_seconds,
        "median_seconds": medians,
        "ratio": medians["kmod"] / best,
    }


def check_losses(losses):
    """Both must compute the same, before and after they have learned."""
    gaps = np.abs(np.subtract(losses["kmod"], losses["torch"]))
    if gaps.max() > LOSS_GAP:
        raise SystemExit(
            f"Both steps must have the same loss within {LOSS_GAP}. Received: "
            f"{losses}"
        )


def start(*command):
    return subprocess.Popen(
        [str(part) for part in command],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def step(process, threads):
    """Asks a process for a step; returns its figures."""
    process.stdin.write(f"{threads}\n")
    process.stdin.flush()
    for line in process.stdout:
        if line.startswith("{"):
            return json.loads(line)
    raise SystemExit("A process that takes the steps has stopped.")


def run_ours(args):
    """Takes kmod's steps; the first one comes before what is timed."""
    from kmod.modular.modular_model import ModularModel
    from kmod.modular.recipe import PAPER

    modular = ModularModel(random_source(args), recipe=PAPER, seed=args.seed)
    draw = np.random.default_rng(args.seed)
    scores = draw.uniform(-0.2, 1, modular.masks.mask_scores.shape)
    modular.masks.mask_scores.assign(scores)
    shape = (args.batch_size, 32, 32, 3)
    images = draw.integers(0, 256, shape).astype("float32")
    labels = draw.integers(0, 10, args.batch_size)
    save(args.ours, modular, images, labels)
    modular.compile()
    modular.optimizer.build(modular.trainable_variables)
    for _ in sys.stdin:
        modular.reset_metrics()
        begin, cpu_begin = time.perf_counter(), time.process_time()
        loss = float(modular.train_on_batch(images, labels)[0])
        figures = {
            "seconds": time.perf_counter() - begin,
            "cpu_seconds": time.process_time() - cpu_begin,
            "loss": loss,
        }
        print(json.dumps(figures), flush=True)


def random_source(args):
    """Builds SimCNN with normalisations as a trained one has them."""
    import keras

    from kmod.zoo.build import build

    keras.utils.set_random_seed(args.seed)
    source = build("simcnn", (32, 32, 3), 10, small=args.small)
    draw = np.random.default_rng(args.seed)
    for layer in source.layers:
        if layer.name.startswith("bn_"):
            layer.set_weights(
                [draw.uniform(0.5, 1.5, w.shape) for w in layer.get_weights()]
            )
    return source


def save(path, modular, images, labels):
    """Writes what the other implementation starts from."""
    network, heads = modular.flat_source, modular.heads
    arrays = {
        f"{layer.name}/{weight.name}": weight.numpy()
        for layer in network.layers
        for weight in layer.weights
    }
    for name in ("hidden_kernel", "hidden_bias", "kernel", "bias"):
        arrays[name] = getattr(heads, name).numpy()
    arrays["scores"] = modular.masks.mask_scores.numpy()
    arrays["pools"] = pooled(network)
    arrays["images"], arrays["labels"] = images, labels
    np.savez(path, **arrays)


def pooled(network):
    """Lists the numbers of the convolutions that a pooling follows."""
    number, pools = 0, []
    for layer in network.layers:
        number += layer.name.startswith("conv_")
        if layer.name.startswith("pool_"):
            pools.append(number)
    return np.array(pools)


if __name__ == "__main__":
    main()
