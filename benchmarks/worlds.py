"""Composes sources that never saw each other's images, without labels.

    python benchmarks/worlds.py --data-dir DIR [--seeds 0 1 2] [--work DIR]
        [--kinds distilled latency ...]

Far sources are CIFAR-10, Fashion-MNIST and MNIST, each with an architecture of
its own; near ones are animals and vehicles of CIFAR-10, and five random splits
of its classes. Module stores come from `world_sources.py`; what is missing is
made. Every cell composes the modules of a team of sources by a spec and
measures on test images:

- `perfect`: the modules' answer if it were known which source an image is of,
- `stored`: familiarity tells the sources apart, without any label,
- `blind`: the same stores without familiarity,
- `fit` and `joint` on 5, 20 and 50 labelled images of each class, with and
  without familiarity,
- `kmod choose` among two modules for each class, without a label and on 1 to 50
  labelled images of each,
- a weak model of ten classes, patched by modules of six of them, without a
  label and on 1 to 50 labelled images of each class,
- baselines of the literature that route an image to a source by the source's
  own network: max softmax, energy, ReAct, Mahalanobis distance of the last
  features, nearest neighbours, and the papers' highest sigmoid of all modules.

Finished cells are read from `--work`, others from the committed results. Writes
`worlds.json` and the section `worlds` of `summary.json`. Test images are used
for no choice.
"""

import argparse
import dataclasses
import tempfile
from pathlib import Path

import keras
import numpy as np
import twins
import world_sources
import yaml
from common import command
from common import interval_of_mean
from common import machine
from common import part
from common import read_result
from common import update_summary
from common import write_result

import kmod
from kmod.composition.composer import compose
from kmod.composition.patched_model import Patch
from kmod.data.image_data import LabelledImages
from kmod.graph.sizes import model_sizes
from kmod.metrics.calibration import fit_scores
from kmod.metrics.evaluate import auroc_of_unseen
from kmod.metrics.latency import measure_latency
from kmod.modules.adaptation import adapt_images
from kmod.modules.adaptation import plan_adaptation
from kmod.modules.cut import log_odds_model
from kmod.modules.manifest import FAMILIARITY_FILE
from kmod.modules.manifest import InputContract
from kmod.modules.manifest import write_store_manifest
from kmod.modules.module_store import add_familiarity
from kmod.modules.module_store import load_store
from kmod.patching.donors import module_answers
from kmod.patching.patch_fit import ValidationScores
from kmod.patching.patch_fit import fit_rule
from kmod.patching.patch_fit import patch_predictions
from kmod.zoo.build import build
from kmod.zoo.train import train_source

CONTRACT = InputContract((32, 32, 3), "float32", (0.0, 255.0))
TESTS = 200  # Test images of each class.
LABELLED = (5, 20, 50)
CHOSEN_ON = (0, 1, 5, 20, 50)
NEIGHBOURS = 10
REACT = 0.9  # Share of own activations that are not clipped.
OTHER = {"name": "none of these", "reject": 0.05}
UNLIKE = 2000
# Of weak models, as CIFAR-10 numbers its classes: cat, dog, horse.
TARGETS, TARGET_IMAGES, WEAK_IMAGES, WEAK_EPOCHS = (3, 5, 7), 40, 300, 14
# Rounds and predictions of each, by the images of a batch.
TIMED = {1: (120, 20), 64: (10, 5)}


def store_of(args, source, seed: int):
    """Opens a source's store, with familiarity of all images it was made on."""
    store = load_store(world_sources.store_of(args, source, seed))
    if store.familiarity is None:
        data = world_sources.images_of(source, args.data_dir, seed)
        parts = (data.train, data.validation)
        store = add_familiarity(store, *((p.images, p.labels) for p in parts))
    return store


def without_familiarity(store, folder: Path):
    """Copies a store as it was before there was familiarity."""
    path = folder / f"{store.path.name}-blind"
    path.mkdir()
    for record in store.manifest.modules:
        (path / record.directory).symlink_to(store.path / record.directory)
    manifest = dataclasses.replace(store.manifest, familiarity=None)
    write_store_manifest(path, manifest)
    assert not (path / FAMILIARITY_FILE).exists()
    return load_store(path, verify=False)


def adapted(source, images: np.ndarray, args) -> np.ndarray:
    """Brings images of a source's data set to the composition's."""
    data = world_sources.load(source.data, args.data_dir)
    values = tuple(map(float, data.value_range))
    own = InputContract(images.shape[1:], "float32", values)
    adaptation = plan_adaptation(own, CONTRACT)
    return adapt_images(images.astype("float32"), adaptation)


def team_images(
    team, args, split: str, each: int, seed: int = 0
) -> LabelledImages:
    """Images of all classes of a team, labelled in their order."""
    found, labels, first = [], [], 0
    for source in team:
        data = world_sources.load(source.data, args.data_dir)
        # Those that sources were validated on come first, by the seed.
        skip = world_sources.VALIDATION if split == "validation" else 0
        part = twins.some(getattr(data, split), each, seed, skip)
        part = twins.of_classes(part, list(source.classes))
        found.append(adapted(source, part.images, args))
        labels.append(part.labels + first)
        first += len(source.classes)
    return LabelledImages(np.concatenate(found), np.concatenate(labels))


def composed(stores, folder: Path, data=None, **scores) -> keras.Model:
    """Composes all modules of stores, as a spec does."""
    links = {}
    for number, store in enumerate(stores):
        link = folder / f"store-{number}"
        link.unlink(missing_ok=True)
        link.symlink_to(store.path)
        links[f"source-{number}"] = {"path": link.name}
    classes = [
        {"name": f"{name}: {c}", "module": {"store": name, "class": c}}
        for name, store in zip(links, stores)
        for c in store.class_names
    ]
    if data is not None:
        scores["data"] = {"name": "in-memory", "split": "validation"}
    spec = {
        "version": 1,
        "name": "worlds",
        "input": {"shape": [32, 32, 3], "range": [0, 255]},
        "stores": links,
        "classes": classes,
        "scores": {"output": "logits", **scores},
    }
    path = folder / "spec.yaml"
    path.write_text(yaml.safe_dump(spec))
    return compose(path, data=data)


def log_odds_of(model: keras.Model, images: np.ndarray) -> np.ndarray:
    return model.predict(images, batch_size=256, verbose=0)


def right(scores: np.ndarray, labels: np.ndarray) -> float:
    return float(np.mean(scores.argmax(axis=1) == labels))


def cell(args, team, seed: int) -> dict:
    """Figures of one team of sources."""
    keras.backend.clear_session()
    stores = [store_of(args, source, seed) for source in team]
    sizes = [len(store.class_names) for store in stores]
    of_source = np.repeat(np.arange(len(team)), sizes)
    test = team_images(team, args, "test", TESTS)
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        blind_stores = [without_familiarity(s, folder) for s in stores]
        model = composed(stores, folder)
        blind = composed(blind_stores, folder)
        scores, odds = (
            log_odds_of(each, test.images) for each in (model, blind)
        )
        is_own = of_source[None] == of_source[test.labels][:, None]
        figures = {
            "perfect": right(np.where(is_own, odds, -np.inf), test.labels),
            "stored": right(scores, test.labels),
            "blind": right(odds, test.labels),
            "retention": float(
                np.mean(
                    [
                        store.sizes(c).retention_rate
                        for store in stores
                        for c in store
                    ]
                )
            ),
            "macs_ratio": model_sizes(model).macs / model_sizes(blind).macs,
            "familiarity_bytes": max(
                store.manifest.familiarity["size"] for store in stores
            ),
        }
        for count in LABELLED:
            few = team_images(team, args, "validation", count, seed)
            given = (few.images, few.labels)
            for kind in ("fit", "joint"):
                for name, own in (("", stores), ("blind_", blind_stores)):
                    fitted = composed(own, folder, given, calibration=kind)
                    figures[f"{name}{kind}_{count}"] = right(
                        log_odds_of(fitted, test.images), test.labels
                    )
    return figures | baselines(args, team, stores, seed, test)


def baselines(args, team, stores, seed: int, test: LabelledImages) -> dict:
    """Routes images by what each source's own network says of them."""
    sureness, answers, sigmoids, first = [], [], [], 0
    for source, store in zip(team, stores):
        contract = store.manifest.input
        images = adapt_images(test.images, plan_adaptation(CONTRACT, contract))
        path = args.work / f"{source.name}-{seed}.keras"
        found = _of_network(args, source, seed, path, images)
        sureness.append(found)
        outputs = [log_odds_model(store[c].model).output for c in store]
        odds = np.concatenate(
            [
                log_odds_model(store[c].model).predict(
                    images, batch_size=256, verbose=0
                )
                for c in store
            ],
            axis=1,
        )
        assert len(outputs) == odds.shape[1]
        sigmoids.append(1 / (1 + np.exp(-odds)))
        answers.append(odds.argmax(axis=1) + first)
        first += odds.shape[1]
    figures = {"sigmoids": right(np.concatenate(sigmoids, 1), test.labels)}
    answers = np.stack(answers, axis=1)
    for name in sureness[0]:
        # Each source's is compared in deviations of its own images'.
        chosen = np.stack([each[name] for each in sureness], 1).argmax(1)
        routed = answers[np.arange(len(answers)), chosen]
        figures[name] = float(np.mean(routed == test.labels))
    return figures


def _of_network(args, source, seed, path, images):
    """How familiar images look to a source's network, by each baseline."""
    network = keras.models.load_model(path)
    logits = network.get_layer("logits")
    model = keras.Model(network.input, [logits.input, logits.output])
    data = world_sources.images_of(source, args.data_dir, seed)
    (own, own_logits), (new, new_logits) = (
        model.predict(x.astype("float32"), batch_size=256, verbose=0)
        for x in (data.validation.images, images)
    )
    labels = data.validation.labels
    half = np.arange(len(own)) % 2 == 0  # Fitted on; the rest scales.
    limit = np.quantile(own, REACT)
    weights, bias = logits.get_weights()
    kernel = {
        "max_softmax": lambda x, z: _log_softmax(z).max(axis=1),
        "energy": lambda x, z: np.logaddexp.reduce(z, axis=1),
        "react": lambda x, z: np.logaddexp.reduce(
            np.minimum(x, limit) @ weights + bias, axis=1
        ),
        "mahalanobis": _mahalanobis(own[half], labels[half]),
        "neighbours": _neighbours(own[half]),
    }
    found = {}
    for name, score in kernel.items():
        known = score(own[~half], own_logits[~half])
        found[name] = (score(new, new_logits) - known.mean()) / known.std()
    return found


def _log_softmax(z):
    return z - np.logaddexp.reduce(z, axis=1, keepdims=True)


def _mahalanobis(features, labels):
    means = np.stack([features[labels == c].mean(0) for c in np.unique(labels)])
    residuals = features - means[np.searchsorted(np.unique(labels), labels)]
    covariance = residuals.T @ residuals / len(residuals)
    covariance = 0.95 * covariance + 0.05 * np.diag(covariance.diagonal())
    covariance += 1e-6 * np.eye(len(covariance))
    inverse = np.linalg.inv(covariance)

    def score(x, _):
        apart = x[:, None] - means[None]
        return -np.einsum("nki,ij,nkj->nk", apart, inverse, apart).min(1)

    return score


def _neighbours(features):
    own = features / np.linalg.norm(features, axis=1, keepdims=True)

    def score(x, _):
        x = x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-6)
        return np.sort(x @ own.T, axis=1)[:, -NEIGHBOURS]

    return score


def coloured_digits(images: np.ndarray, seed: int = 0) -> np.ndarray:
    """Paints MNIST digits on backgrounds, somewhat like house numbers.

    Args:
        images: MNIST images `(n, 28, 28, 1)`.
        seed: Of colours and backgrounds.

    Returns:
        float32 images `(n, 32, 32, 3)`, 0 to 255: a digit of one colour on a
        background of another that changes smoothly, with some noise.
    """
    random, count = np.random.default_rng(seed), len(images)
    resize = keras.layers.Resizing(32, 32)
    digits = np.array(resize(images.astype("float32") / 255))
    front, back = random.uniform(0, 1, (2, count, 1, 1, 3))
    smooth = keras.layers.Resizing(32, 32, interpolation="bicubic")
    field = np.array(smooth(random.normal(0, 0.12, (count, 4, 4, 3))))
    painted = (back + field) * (1 - digits) + front * digits
    painted += random.normal(0, 0.02, painted.shape)
    return 255 * np.clip(painted, 0, 1).astype("float32")


def unseen(args, team, seed: int) -> dict:
    """Modules of one source with `other`, fed images of no class of theirs."""
    cifar10, _, mnist = team
    noise = np.random.default_rng(seed).uniform(0, 255, (UNLIKE, 32, 32, 3))
    digits = world_sources.load("mnist", args.data_dir).test.images[:UNLIKE]
    fashion = world_sources.load("fashion_mnist", args.data_dir)
    grey = fashion.test.images[:UNLIKE].astype("float32")
    figures = {}
    for source, strangers in (
        (mnist, {"fashion_mnist": grey, "noise": noise[:, :28, :28, :1]}),
        (
            cifar10,
            {"coloured_digits": coloured_digits(digits, seed), "noise": noise},
        ),
    ):
        store = store_of(args, source, seed)
        data = world_sources.load(source.data, args.data_dir)
        images = data.test.images.astype("float32")
        own = LabelledImages(images, data.test.labels)
        with tempfile.TemporaryDirectory() as folder:
            model = alone(store, Path(folder), other=OTHER)
            plain = alone(store, Path(folder))
        answers = model.predict(own.images, batch_size=256, verbose=0)
        figures[f"{source.name}_refused"] = float(
            np.mean(answers.argmax(1) == 10)
        )
        for name, images in strangers.items():
            key = f"{source.name}_{name}"
            figures[key] = auroc_of_unseen(model, own, images, 10)
            figures[f"{key}_max_softmax"] = auroc_of_unseen(plain, own, images)
    return figures


def alone(store, folder: Path, **scores) -> keras.Model:
    """Composes the modules of one store for its own images."""
    link = folder / "store"
    link.unlink(missing_ok=True)
    link.symlink_to(store.path)
    spec = {
        "version": 1,
        "name": "alone",
        "stores": {"own": {"path": "store"}},
        "classes": [
            {"name": c, "module": {"store": "own", "class": c}}
            for c in store.class_names
        ],
        **({"scores": scores} if scores else {}),
    }
    path = folder / "spec.yaml"
    path.write_text(yaml.safe_dump(spec))
    return kmod.compose(path)


def shifted(args, team, seed: int) -> dict:
    """Unlabelled and test images that show classes unevenly, in one way."""
    stores = [store_of(args, source, seed) for source in team]
    random = np.random.default_rng(seed)
    shares = random.dirichlet(np.ones(sum(map(len, stores))))
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        stored = composed(stores, Path(folder))
        for split in ("validation", "test"):
            images = team_images(team, args, split, TESTS, seed)
            chance = shares[images.labels] / shares.max()
            kept = random.random(len(images)) < chance
            found[split] = images.take(np.flatnonzero(kept))
        given = found["validation"].images
        model = composed(stores, Path(folder), given, calibration="unlabelled")
    test = found["test"]
    figures = {"num_unlabelled": len(given), "num_test": len(test)}
    for name, each in (("stored", stored), ("unlabelled", model)):
        scores = log_odds_of(each, test.images)
        figures[name] = right(scores, test.labels)
    return figures


def latency(args, team, seed: int) -> dict:
    """Time of a composition with familiarity ÷ without, run in turns."""
    stores = [store_of(args, source, seed) for source in team]
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        blind_stores = [without_familiarity(s, folder) for s in stores]
        models = composed(stores, folder), composed(blind_stores, folder)
    figures = {}
    for count, (rounds, repeats) in TIMED.items():
        seconds = [[], []]
        for _ in range(rounds):
            for own, model in zip(seconds, models):
                own.append(measure_latency(model, count, repeats))
        with_it, without = map(np.median, seconds)
        figures[f"latency_ratio_{count}"] = float(with_it / without)
    return figures


def distilled(args, team, seed: int) -> dict:
    """A composition beside a student of its first source's architecture."""
    stores = [store_of(args, source, seed) for source in team]
    data_sets = {source.data: source for source in team}
    images = [
        adapted(
            source,
            world_sources.load(name, args.data_dir).train.images,
            args,
        )[: args.distil_images]
        for name, source in data_sets.items()
    ]
    test = team_images(team, args, "test", TESTS)
    with tempfile.TemporaryDirectory() as folder:
        model = composed(stores, Path(folder))
    student = kmod.distil(
        model,
        images,
        team[0].architecture,
        epochs=args.distil_epochs,
        augment=len(data_sets) == 1,  # Digits must not be mirrored.
        seed=seed,
        verbose=0,
    )
    made = {"composition": model, "student": student}
    return {"images": sum(map(len, images)), "epochs": args.distil_epochs} | {
        f"{name}_{key}": value
        for name, each in made.items()
        for key, value in (
            ("accuracy", right(log_odds_of(each, test.images), test.labels)),
            ("macs", model_sizes(each).macs),
            ("milliseconds", 1000 * measure_latency(each)),
        )
    }


def chosen(args, team, seed: int) -> dict:
    """`kmod choose` of two modules for each class, by labelled images.

    The ten classes of CIFAR-10 are chosen from the stores of the team and of
    one more split, so that every class has two modules.
    """
    names = world_sources.load("cifar10", args.data_dir).class_names
    others = world_sources.teams(seed)[f"split{seed}"]
    stores = [store_of(args, source, seed) for source in (*team, *others)]
    whole = (dataclasses.replace(team[0], classes=world_sources.ALL),)
    test = team_images(whole, args, "test", TESTS)
    figures = {}
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        blind_stores = [without_familiarity(store, folder) for store in stores]
        for count in CHOSEN_ON:
            few = None
            if count:
                few = team_images(whole, args, "validation", count, seed)
                few = few.images, few.labels
            for name, own in (("", stores), ("blind_", blind_stores)):
                _, spec = kmod.choose_composition(
                    names, own, few, folder / f"{name}{count}.yaml"
                )
                model = kmod.compose(spec, data=few)
                scores = model.predict(test.images, batch_size=256, verbose=0)
                figures[f"{name}choose_{count}"] = right(scores, test.labels)
    return figures


def patched(args, team, seed: int) -> dict:
    """A model of ten classes, weak in one, patched by modules of six of them.

    The weak model learns `WEAK_IMAGES` images of each class of CIFAR-10, which
    no source saw, but `TARGET_IMAGES` of the target. The donor knows animals
    alone, so it can not take the weak model's place. Means over `TARGETS`.
    """
    donor = store_of(args, team[0], seed)
    found = [
        part(
            args.work / "patched" / f"{target}-{seed}.json",
            *(_patched, args, donor, target, seed),
        )
        for target in TARGETS
    ]
    return {key: float(np.mean([f[key] for f in found])) for key in found[0]}


def _patched(args, donor, target, seed):
    data = world_sources.load("cifar10", args.data_dir)
    few = twins.some(
        data.validation, LABELLED[-1], seed, world_sources.VALIDATION
    )
    test = twins.some(data.test, TESTS)
    train = twins.some(data.train, WEAK_IMAGES, seed, 2500)
    unused = np.flatnonzero(train.labels == target)[TARGET_IMAGES:]
    train = train.take(np.setdiff1d(np.arange(len(train)), unused))
    keras.utils.set_random_seed(seed)
    weak = build("simcnn", (32, 32, 3), 10)
    train_source(
        weak,
        dataclasses.replace(data, train=train, validation=few),
        WEAK_EPOCHS,
        batch_size=32,
        seed=seed,
        augment=True,
        verbose=0,
    )
    weak = keras.Model(weak.input, weak.get_layer("logits").output)
    own = data.class_names[target]
    others = [name for name in donor if name != own]
    modules = [donor[name] for name in (own, *others)]
    given, new = (
        ValidationScores.of(
            log_odds_of(weak, images.images),
            module_answers(modules, images.images.astype("float32")),
            images.labels,
            target,
            tuple(map(data.class_names.index, others)),
        )
        for images in (few, test)
    )
    figures = _of_patch("weak", new.predictions, new)
    patch = Patch(target, modules[0], others=given.others)
    for count in CHOSEN_ON:
        rows = twins.indices_of_some(given.labels, count)
        labelled = given.take(rows)
        for rule in ("divided", "calibrated"):
            fitted = dataclasses.replace(patch, combine=rule)
            if count:
                fitted = fit_rule(fitted, labelled)
            elif rule == "calibrated":
                continue
            answers = patch_predictions(fitted, new)
            figures |= _of_patch(f"{rule}_{count}", answers, new)
        if count > 1:
            both = [
                np.concatenate([s.log_probabilities, s.log_odds], axis=1)
                for s in (labelled, new)
            ]
            weights, bias = fit_scores(both[0], labelled.labels)
            answers = (both[1] @ weights + bias).argmax(axis=1)
            figures |= _of_patch(f"regression_{count}", answers, new)
    return figures


def _of_patch(name, answers, scores):
    return {
        f"{name}_f1": float(scores.figures_of(answers).f1),
        f"{name}_accuracy": float(np.mean(answers == scores.labels)),
    }


def all_cells(args) -> dict[str, dict[str, dict]]:
    """Runs the cells that are asked for; finished ones are read from `--work`.

    Returns:
        For every group the figures of its cells, by name and seed, beside
        those of earlier calls.
    """
    found = read_result("worlds").get("cells", {})
    for seed in args.seeds:
        for name, team in world_sources.teams(seed).items():
            if name not in args.teams:
                continue
            for kind, function in _kinds(args, name).items():
                if args.kinds and kind not in args.kinds:
                    continue
                key = f"{name}-{kind}-{seed}" if kind else f"{name}-{seed}"
                path = args.work / "cells" / f"{key}.json"
                group = name.rstrip("0123456789")
                group = f"{group}_{kind}" if kind else group
                cells = found.setdefault(group, {})
                cells[key] = part(path, function, args, team, seed)
                print(key, cells[key], flush=True)
    return found


def _kinds(args, name):
    """What is measured of a team, by kind."""
    kinds = {"": cell}
    if name == "far":
        kinds["unseen"] = unseen
    else:
        kinds["shifted"] = shifted
    if name == "kinds":
        kinds |= {"chosen": chosen, "patched": patched}
    if not name.startswith("split"):
        kinds["latency"] = latency
        if args.distil_epochs:
            kinds["distilled"] = distilled
    return kinds


def _command(args):
    names = "seeds", "teams", "distil_epochs", "distil_images", "kinds"
    return command(args, *names)


def means_of(cells: list[dict]) -> dict:
    """Means over cells with bootstrap intervals."""
    return {
        key: {
            "mean": float(np.mean([each[key] for each in cells])),
            "interval": interval_of_mean([each[key] for each in cells]),
        }
        for key in cells[0]
        if key != "seconds"
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    world_sources.add_arguments(parser)
    names = ["far", *world_sources.near()]
    parser.add_argument("--teams", nargs="+", default=names)
    parser.add_argument(
        "--distil-epochs",
        type=int,
        default=0,
        help="train a student of every team as well (default: none)",
    )
    parser.add_argument(
        "--distil-images",
        type=int,
        help="training images of each data set to distil on (default: all)",
    )
    parser.add_argument(
        "--kinds",
        nargs="+",
        help="only these cells, such as latency (default: all)",
    )
    args = parser.parse_args()
    earlier = read_result("worlds").get("commands", [])
    found = all_cells(args)
    summary = {
        name: {"cells": len(cells), **means_of(list(cells.values()))}
        for name, cells in found.items()
    }
    write_result(
        "worlds",
        {
            "commands": list(dict.fromkeys([*earlier, _command(args)])),
            "machine": machine(),
            "summary": summary,
            "cells": found,
        },
    )
    update_summary(
        "worlds",
        {
            name: {
                key: each["mean"]
                for key, each in group.items()
                if key != "cells"
            }
            for name, group in summary.items()
        },
    )


if __name__ == "__main__":
    main()
