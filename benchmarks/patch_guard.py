"""How often a patch harms the other classes on images it has not seen.

Usage, from the root of the project:

    python benchmarks/patch_guard.py [--seeds 10] [--out DIR]

For every seed, a donor and three weak models (trained for two epochs, on 80
images, and on few images of one class) are trained on handwritten digits.
Each of the ten classes is patched by the donor's unmasked module, fitted on
validation images and measured on test images: with the safety margin that
`kmod` keeps, and without one. Writes `patch_guard.json`.
"""

import argparse
import json
import os
import platform
from pathlib import Path

import keras
import numpy as np

from kmod.composition import coefficients
from kmod.composition.coefficients import Scores
from kmod.composition.coefficients import figures_after
from kmod.composition.coefficients import figures_before
from kmod.composition.coefficients import fit_coefficients
from kmod.data.digits import load_digits
from kmod.data.image_data import ImageData
from kmod.files import atomic_write
from kmod.training.calibration import fit_log_odds

RESULTS = Path(__file__).parent / "results"
# Images, epochs, and whether a class is rare, of each kind of weak model.
WEAK = {
    "two epochs": (300, 2, False),
    "80 images": (80, 15, False),
    "a rare class": (400, 8, True),
}


def train(data: ImageData, seed: int, count: int, epochs: int, rare=None):
    """Trains a small classifier; returns its logits of both held-out parts."""
    keras.utils.set_random_seed(seed)
    width = 16 if count >= len(data.train) else 8
    model = keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            keras.layers.Rescaling(1 / 255),
            keras.layers.Conv2D(width, 3, activation="relu"),
            keras.layers.Conv2D(2 * width, 3, activation="relu"),
            keras.layers.Flatten(),
            keras.layers.Dense(10),
        ]
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(0.005), loss)
    random = np.random.default_rng(seed)
    chosen = random.permutation(len(data.train))[:count]
    if rare is not None:
        is_rare = data.train.labels[chosen] == rare
        chosen = chosen[~is_rare | (random.random(len(chosen)) < 0.1)]
    images = data.train.take(chosen)
    model.fit(images.images, images.labels, 32, epochs=epochs, verbose=0)
    return {
        part: model.predict(getattr(data, part).images, verbose=0)
        for part in ("validation", "test")
    }


def patch_all(data: ImageData, donor: dict, weak: dict) -> list[dict | None]:
    """Patches every class; `None` where the patch is declined."""
    rows = []
    for target in range(10):
        raw = {
            part: logits[:, target] - np.delete(logits, target, 1).mean(1)
            for part, logits in donor.items()
        }
        labels = data.validation.labels
        scale, shift = fit_log_odds(raw["validation"], labels == target)
        scores = {
            part: Scores(
                weak[part],
                scale * raw[part] + shift,
                raw[part],
                getattr(data, part).labels,
                target,
            )
            for part in donor
        }
        rows.append(_compare(scores))
    return rows


def _compare(scores):
    fitted = fit_coefficients(scores["validation"])
    before, after = (
        {part: figures(part) for part in scores}
        for figures in (
            lambda part: figures_before(scores[part]),
            lambda part: figures_after(fitted, scores[part]),
        )
    )
    if after["validation"].f1 <= before["validation"].f1:
        return None
    return {
        "f1": after["test"].f1 - before["test"].f1,
        "others": after["test"].other_accuracy - before["test"].other_accuracy,
    }


def summary(rows: list[dict | None]) -> dict:
    """Adds up what patches did on test images."""
    kept = [row for row in rows if row is not None]
    others = np.array([row["others"] for row in kept])
    f1 = np.array([row["f1"] for row in kept])
    return {
        "patches": len(rows),
        "kept": len(kept),
        "harmed_others": int(np.sum(others < 0)),
        "worst_loss_of_others": float(min(others.min(), 0)),
        "mean_gain_of_others": float(others.mean()),
        "mean_gain_of_f1": float(f1.mean()),
        "f1_fell": int(np.sum(f1 < 0)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--out", type=Path, default=RESULTS)
    args = parser.parse_args()
    kept_margin = coefficients.SAFETY_MARGIN
    rows = {0.0: [], kept_margin: []}
    for seed in range(args.seeds):
        data = load_digits(0.2, seed)
        donor = train(data, seed, len(data.train), 15)
        for count, epochs, is_rare in WEAK.values():
            rare = seed % 10 if is_rare else None
            weak = train(data, seed + 100, count, epochs, rare)
            for margin in rows:
                coefficients.SAFETY_MARGIN = margin
                rows[margin] += patch_all(data, donor, weak)
        print(seed, {m: summary(found) for m, found in rows.items()})
    results = {
        "machine": f"{platform.platform()}, {os.cpu_count()} cores",
        "keras": keras.__version__,
        "seeds": args.seeds,
        "weak_models": list(WEAK),
        "by_margin": {str(m): summary(found) for m, found in rows.items()},
    }
    args.out.mkdir(parents=True, exist_ok=True)
    text = json.dumps(results, indent=1) + "\n"
    atomic_write(args.out / "patch_guard.json", text)


if __name__ == "__main__":
    main()
