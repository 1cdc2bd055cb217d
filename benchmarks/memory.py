"""Measures how much memory every command needs for a large folder of images.

    python benchmarks/memory.py --data-dir DIR

Writes CIFAR-10 as 60,000 JPEG files of 96x96x3 below `--work`, trains two
small source models on them by a plain Keras `fit` and runs `kmod`, one command
after the other, each in a process of its own. Networks are tiny, because what
is measured is how images are read, not how well they are classified. The
control runs the first command with all arrays in memory. For each: wall-clock
time, the most memory resident at a time (pages of temporary files included,
which the system can take back) and the most that is anonymous. Parts that are
done are kept in `--work`. Writes `benchmarks/results/memory.json`; Linux only.
"""

import argparse
import json
import math
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

from common import command
from common import machine
from common import part
from common import write_result

SIZE = (96, 96)
NAME = "memory"
BAR_MIB = 3 * 10**9 / 2**20
INTERVAL = 0.05
CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog")
CLASSES += ("frog", "horse", "ship", "truck")
IN_MEMORY = (
    "import sys; from kmod.data import disk_arrays; "
    "disk_arrays.LIMIT = 2**62; from kmod.cli.main import main; "
    "sys.exit(main(sys.argv[1:]))"
)
CONTROL = "control"
SPEC = """\
version: 1
name: photos
stores:
  photos: {path: modules}
scores:
  calibration: joint
  data: {path: photos, split: validation}
classes:
"""
COMMANDS = {
    "modularize": "modularize source.keras --data photos --out modules "
    "--for alone --frozen --mask-from conv_2 --retention-target 0.8 "
    "--epochs 2 --overwrite",
    "refine": "refine modules source.keras --data photos --out refined "
    "--epochs 1 --overwrite",
    "compose": "compose photos.yaml --out composed --overwrite",
    "evaluate": "evaluate composed --data photos:test --json",
    "patch": "patch weak.keras --donor modules --data photos:validation "
    "--out patched --overwrite --json",
    "choose": "choose --class cat --class ship --store modules --store refined "
    "--data photos:validation --images-per-class 1000 --out chosen.yaml "
    "--compose chosen --overwrite",
    CONTROL: "modularize source.keras --data photos --out control "
    "--for alone --frozen --mask-from conv_2 --retention-target 0.8 "
    "--epochs 2 --overwrite",
}


def write_photos(folder: Path, data_dir: Path, count: int) -> dict:
    """Writes CIFAR-10 as JPEG files, in a folder for each split and class."""
    import tensorflow as tf

    from kmod.data.load import load_data

    data = load_data("cifar10", data_dir)
    written = 0
    for split in ("train", "validation", "test"):
        images, labels = vars(data)[split].images, vars(data)[split].labels
        for name in data.class_names:
            (folder / split / name).mkdir(parents=True, exist_ok=True)
        for index in range(len(labels) * count // 60_000):
            large = tf.image.resize(images[index], SIZE, "bicubic")
            large = tf.cast(tf.clip_by_value(large, 0, 255), "uint8")
            path = folder / split / data.class_names[labels[index]]
            path = path / f"{index:05d}.jpg"
            path.write_bytes(tf.io.encode_jpeg(large, quality=90).numpy())
            written += 1
    return {"images": written}


def train_sources(work: Path, seed: int) -> dict:
    """Trains the source model, and a smaller one on a few of the images."""
    import keras

    keras.utils.set_random_seed(seed)
    read = {"image_size": SIZE, "batch_size": 64, "verbose": False}
    train, test = (
        keras.utils.image_dataset_from_directory(
            work / "photos" / split, seed=seed, shuffle=split == "train", **read
        )
        for split in ("train", "test")
    )
    figures = {}
    for name, width, batches, epochs in (
        ("source", 16, train.cardinality(), 3),
        ("weak", 4, 60, 2),
    ):
        model = keras.Sequential(
            [
                keras.Input((*SIZE, 3)),
                keras.layers.Rescaling(1 / 127.5, -1),
                *(
                    keras.layers.Conv2D(
                        width * factor,
                        5 if number == 1 else 3,
                        strides=4 if number == 1 else 2,
                        padding="same",
                        activation="relu",
                        name=f"conv_{number}",
                    )
                    for number, factor in enumerate((1, 2, 4), 1)
                ),
                keras.layers.GlobalAveragePooling2D(),
                keras.layers.Dense(len(CLASSES), activation="softmax"),
            ]
        )
        loss = "sparse_categorical_crossentropy"
        model.compile(keras.optimizers.Adam(0.003), loss, metrics=["accuracy"])
        model.fit(train.take(batches), epochs=epochs, verbose=2)
        model.save(work / f"{name}.keras")
        figures[name] = model.evaluate(test, verbose=0, return_dict=True)
    return figures


def run_command(work: Path, name: str) -> dict:
    """Runs one of `COMMANDS` and watches its memory.

    Returns:
        Wall-clock `seconds`, `exit_code`, and in MiB `peak_mib`, the most
        resident at a time, with `anonymous_mib`, its largest part that no
        file backs, and `file_mib`, that of mapped files.
    """
    start = ["-c", IN_MEMORY] if name == CONTROL else ["-m", "kmod"]
    arguments = COMMANDS[name]
    began = time.perf_counter()
    with open(work / f"{name}.out", "w") as out:
        process = subprocess.Popen(
            [sys.executable, *start, *arguments.split()],
            cwd=work,
            stdout=out,
            stderr=out,
        )
        most, done = {"RssAnon": 0, "RssFile": 0}, threading.Event()
        watch = threading.Thread(target=_watch, args=(process.pid, most, done))
        watch.start()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        done.set()
        watch.join()
    return {
        "arguments": arguments,
        "exit_code": process.returncode,
        "seconds": time.perf_counter() - began,
        "peak_mib": round(usage.ru_maxrss / 2**10),
        "anonymous_mib": round(most["RssAnon"] / 2**10),
        "file_mib": round(most["RssFile"] / 2**10),
    }


def _watch(pid, most, done):
    status = Path(f"/proc/{pid}/status")
    while not done.wait(INTERVAL):
        try:
            rows = dict(
                line.split(":", 1) for line in status.read_text().splitlines()
            )
        except (FileNotFoundError, ProcessLookupError):
            return
        for name in most:
            if name in rows:
                most[name] = max(most[name], int(rows[name].split()[0]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-dir", required=True, metavar="DIR")
    parser.add_argument("--work", type=Path, default=Path("memory-work"))
    parser.add_argument("--images", type=int, default=60_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", default=NAME, help="name of the result")
    args = parser.parse_args()
    work = args.work.absolute()
    parts = work / "parts"
    photos = part(
        parts / "photos.json",
        write_photos,
        work / "photos",
        args.data_dir,
        args.images,
    )
    sources = part(parts / "sources.json", train_sources, work, args.seed)
    classes = (
        f"  - {{name: {name}, module: {{store: photos, class: {name}}}}}\n"
        for name in CLASSES
    )
    (work / "photos.yaml").write_text(SPEC + "".join(classes))
    result = {
        "command": command(args, "images", "seed"),
        "machine": machine(),
        "images": photos["images"],
        "decoded_mib": photos["images"] * math.prod((*SIZE, 3)) // 2**20,
        "bar_mib": round(BAR_MIB),
        "sources": sources,
        "commands": {},
    }
    for name in COMMANDS:
        path = parts / f"{name}.json"
        row = part(path, run_command, work, name)
        print(name, json.dumps(row), flush=True)
        if row["exit_code"]:
            path.unlink()
            raise SystemExit(f"`kmod {name}` failed, see {work / name}.out")
        result["commands"][name] = row
        write_result(args.out, result)


if __name__ == "__main__":
    main()
