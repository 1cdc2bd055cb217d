"""Draws what familiarity sees, for docs/familiarity.md.

    python benchmarks/familiarity_pictures.py --data-dir DIR

Writes `familiarity.png`: two far and two near worlds on the line that tells
them apart, distances of own and other images from CIFAR-10, and what a
threshold refuses.
"""

import argparse

import numpy as np
import twins
from common import RESULTS
from worlds import CONTRACT
from worlds import coloured_digits

from kmod.data.load import load_data
from kmod.modules.adaptation import adapt_images
from kmod.modules.adaptation import plan_adaptation
from kmod.modules.familiarity import fit_familiarity
from kmod.modules.image_statistics import statistics_model
from kmod.modules.manifest import InputContract

TRAIN, TEST = 1000, 200  # Images of each class.
ANIMALS, VEHICLES = [2, 3, 4, 5, 6, 7], [0, 1, 8, 9]
REJECTED = 0.05


def images_of(name: str, split: str, count: int, data_dir, classes=None):
    """Images of a data set as colour images of 32x32, and their labels."""
    data = load_data(name, data_dir)
    found = twins.some(getattr(data, split), count)
    if classes is not None:
        found = twins.of_classes(found, classes)
    own = InputContract(found.images.shape[1:], "float32", (0.0, 255.0))
    adaptation = plan_adaptation(own, CONTRACT)
    images = adapt_images(found.images.astype("float32"), adaptation)
    return images, found.labels


def world(name: str, data_dir, classes=None):
    """Familiarity of a data set, and the statistics of test images."""
    images, labels = images_of(name, "train", TRAIN, data_dir, classes)
    names = [str(index) for index in range(labels.max() + 1)]
    familiarity = fit_familiarity([(images, labels)], names, CONTRACT)
    test, _ = images_of(name, "test", TEST, data_dir, classes)
    return familiarity, measured(test)


def measured(images: np.ndarray) -> np.ndarray:
    model = statistics_model(CONTRACT)
    return model.predict(images, batch_size=256, verbose=0).astype("float64")


def on_a_line(first, second) -> list[np.ndarray]:
    """Half the log-likelihood ratio of two worlds' test images."""
    common = (first[0].covariance + second[0].covariance).astype("float64") / 2
    precision = np.linalg.inv(common)

    def likelihood(familiarity, x):
        apart = x[:, None] - familiarity.means[None]
        squared = np.einsum("nki,ij,nkj->nk", apart, precision, apart)
        return np.logaddexp.reduce(-squared / 4, axis=1)

    return [
        likelihood(first[0], x) - likelihood(second[0], x)
        for _, x in (first, second)
    ]


def main() -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-dir")
    args = parser.parse_args()
    cifar10, fashion, mnist = (
        world(name, args.data_dir)
        for name in ("cifar10", "fashion_mnist", "mnist")
    )
    animals, vehicles = (
        world("cifar10", args.data_dir, classes)
        for classes in (ANIMALS, VEHICLES)
    )
    figure, axes = pyplot.subplots(2, 2, figsize=(10, 6.5))
    for axis, pair, names, title in (
        (
            axes[0, 0],
            (fashion, mnist),
            ("Fashion-MNIST", "MNIST"),
            "far worlds",
        ),
        (
            axes[0, 1],
            (animals, vehicles),
            ("animals", "vehicles"),
            "near worlds",
        ),
    ):
        both = on_a_line(*pair)
        bins = np.linspace(*np.quantile(np.concatenate(both), [0.01, 0.99]), 50)
        for values, name in zip(both, names):
            axis.hist(values, bins, alpha=0.6, label=name)
        axis.axvline(0, color="black", linewidth=0.8)
        axis.set(title=title, xlabel="evidence for the first world")
        axis.legend()
    digits, _ = images_of("mnist", "test", TEST, args.data_dir)
    grey = load_data("mnist", args.data_dir).test.images[: len(digits)]
    found = {
        "CIFAR-10, test images": cifar10[1],
        "coloured digits": measured(coloured_digits(grey)),
        "Fashion-MNIST": fashion[1],
    }
    distances = {n: cifar10[0].distance(x) for n, x in found.items()}
    threshold = cifar10[0].threshold(REJECTED)
    axis, bins = axes[1, 0], np.linspace(5, 50, 70)
    for name, values in distances.items():
        axis.hist(values, bins, alpha=0.6, label=name)
    axis.axvline(threshold, color="black", linewidth=0.8)
    axis.text(threshold + 0.5, axis.get_ylim()[1] * 0.95, "reject: 0.05")
    axis.set(title="distance from CIFAR-10", xlabel="distance, nearest class")
    axis.legend(loc="upper right", bbox_to_anchor=(1, 0.93))
    shares, axis = np.linspace(0.005, 0.3, 60), axes[1, 1]
    for name, values in distances.items():
        refused = [np.mean(values > cifar10[0].threshold(s)) for s in shares]
        axis.plot(shares, refused, label=name)
    axis.plot(shares, shares, color="black", linewidth=0.8, linestyle=":")
    axis.set(title="what a threshold refuses", xlabel="reject", ylabel="share")
    axis.legend(loc="upper center", bbox_to_anchor=(0.45, 0.95))
    figure.tight_layout()
    figure.savefig(RESULTS / "familiarity.png", dpi=100)
    pyplot.close(figure)


if __name__ == "__main__":
    main()
