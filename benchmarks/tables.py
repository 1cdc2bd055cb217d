"""Writes the tables of README.md and docs/benchmarks.md from `results/`.

    python benchmarks/tables.py

What stands between a mark `<!-- figures: NAME -->` and the next
`<!-- figures: end -->` is replaced; a test compares it with the results.
"""

import re
from fractions import Fraction
from pathlib import Path

import numpy as np
from common import SUMMARY
from common import read_result

ROOT = Path(__file__).parents[1]
PAGES = (
    ROOT / "README.md",
    ROOT / "docs" / "benchmarks.md",
    ROOT / "docs" / "devices.md",
    ROOT / "docs" / "planning.md",
)
MARKED = re.compile(
    r"(?<=<!-- figures: )(?!end )(\w+) -->\n.*?(?=<!-- figures: end -->)", re.S
)
NETWORKS = {
    "simcnn": "SimCNN",
    "rescnn": "ResCNN",
    "incecnn": "InceCNN",
}
CELLS = {
    "composed": "cheapest to compose",
    "frozen": "kernels frozen",
    "close": "kernels frozen, more kept",
    "smallest": "smallest modules",
    "paper": "the paper's recipe, {epochs} of 145 epochs",
}
DATA = {
    "cifar10": "CIFAR-10",
    "fashion_mnist": "Fashion-MNIST",
    "mnist": "MNIST",
}
GAINS = ("precision", "recall", "f1")
METHODS = {
    "gradsplitter": "GradSplitter (`default` recipe)",
    "cnnsplitter": "CNNSplitter",
    "importance": "top kernels by importance, no search",
    "random": "random kernels",
}
RULES = {
    "calibrated": "`calibrated`",
    "one_module": "`calibrated`, no auxiliary modules",
    "minmax": "`minmax`",
    "raw": "`raw`",
    "no_module": "control: the layer without any module",
    "wrong_class": "control: the module of a wrong class",
    "random_kernels": "control: modules of random kernels",
    "whole_model": "control: the whole strong model",
}
REUSE = {
    "gap_to_scratch": "modules with auxiliary ones (`kmod choose`)",
    "alone_gap": "no auxiliary modules",
    "team_gap": "no auxiliary modules, up to two for each class",
    "fit_gap": "no auxiliary modules, each class calibrated alone (`fit`)",
    "last_layer_gap": "the best source with a new last layer",
    "wrong_class_control_gap": "control: modules of wrong classes",
}
COMPOSITIONS = {
    "all ten": "ten classes of one source",
    "five": "five of them",
    "two sources": "ten classes of two sources",
}
FREQUENCIES = {
    "even": "equally frequent",
    "as learned": "as frequent as learned",
}
PRIORS = {
    "none": "raw",
    "calibrated": "`calibrated`",
    "even": "`even`",
    "shares": "own shares",
}
OWN_PHOTOS = (
    "source_accuracy accuracy source_accuracy_many accuracy_many "
    "retention_rate patched seconds peak_mib"
).split()
COSTS = {
    ("search", "seconds"): "a step of the search, 32 images",
    ("search", "mib"): "the same, memory in MiB",
    ("validate", "seconds"): "all modules answer",
    ("store", "seconds"): "cut, compare and store",
    ("store", "mib"): "a store on disk, MiB",
    ("compose", "seconds"): "compose",
    ("refine", "start_seconds"): "start of `refine`",
    ("refine", "seconds"): "a step of `refine`, 32 images",
    ("open", "seconds"): "open a store",
    ("plan", "seconds"): "plan a composition, with the command's start",
}
FEATURES = {
    "gmacs": "billion MACs",
    "mega_scores": "million mask scores",
    "mega_sorted": "million mask scores sorted",
    "mega_activations": "million activations",
    "mega_parameters": "million parameters",
    "modules": "module",
    "layers": "layer",
    "classes": "class",
    "stores": "store",
}
DEVICES = {
    "tensorflow": "`MirroredStrategy`",
    "jax": "`keras.distribution`, JAX",
}
WIDTHS = "12 16 17 24 31 32 33 48 64".split()
SHOTS = {"new_task": "20", "new_task-50": "50"}


def main():
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        page.write_text(rendered(text), encoding="utf-8")


def rendered(text: str) -> str:
    """Returns a page with all that is marked made anew from the results."""
    return MARKED.sub(
        lambda mark: f"{mark[1]} -->\n\n{FIGURES[mark[1]]()}\n", text
    )


def headline():
    """The rows of the README."""
    summary = read_result(SUMMARY)
    cells = [summary["efficiency"][name] for name in NETWORKS]
    composed = [cell["composed"] for cell in cells]
    slim = summary["slim"]["three"]
    patches, task = summary["patching"], summary["new_task"]
    better = summary["more_accurate"]
    worlds = summary["worlds"]
    known = patches["papers_weakness"]
    rows = [
        [
            "all ten modules composed, three networks on CIFAR-10",
            f"{_span(composed, 'macs_ratio', '{:.2f}x')} the source model's "
            "multiply-accumulates, "
            f"{_span(composed, 'latency_ratio_1', '{:.2f}x')} its latency, "
            f"accuracy {_change(composed)} points",
        ],
        [
            "three networks that learned from 10,000 images of CIFAR-10, "
            "slim for three of its classes",
            f"{slim['macs_ratio']['mean']:.2f}x the multiply-accumulates, "
            f"{slim['litert_ratio']['mean']:.2f}x the latency (LiteRT), "
            f"accuracy {_points(slim, 'slim_loss')} points on average",
        ],
        [
            f"{patches['num_patches']} weak classes patched",
            f"F1 {patches['f1_gain']:+.1f} points on average, lower in "
            f"{patches['f1_falls'] or 'none'}; {known['f1_gain']:+.1f} for the "
            f"{known['num_patches']} whose F1 was 35 to 76",
        ],
        [
            f"{task['num_tasks']} new tasks, composed",
            f"accuracy {task['gap_to_scratch']:+.2f} points on average against "
            "training from scratch with early stopping, in "
            f"{task['time_ratio']:.1%} of its time",
        ],
        [
            "30 classes of three sources that never saw each other's images, "
            "no label",
            f"accuracy {worlds['far']['stored']:.1%}; "
            f"{worlds['far']['perfect']:.1%} if the source of each image were "
            "known. Sources of like images (halves of CIFAR-10): "
            f"{worlds['split']['stored']:.1%} and "
            f"{worlds['split']['perfect']:.1%}",
        ],
        [
            "one model from the best modules of five sources",
            f"accuracy {better['gain']:+.1f} points over the best source, "
            f"{better['gain_over_soft_vote']:+.1f} over their soft vote; less "
            "with stronger sources",
        ],
    ]
    return table(["measured", "result"], rows)


def _points(found, key):
    return f"{-100 * found[key]['mean']:+.1f}"


def _span(cells, key, form):
    values = [cell[key] for cell in cells]
    return f"{form.format(min(values))} to {form.format(max(values))}"


def _change(cells):
    losses = [cell["accuracy_loss"] for cell in cells]
    return f"{-max(losses):+.2f} to {-min(losses):+.2f}"


def demo():
    words = {
        "digits": "`kmod demo` (digits), mean of seeds 0 to 4",
        "cifar10": "`kmod demo --data cifar10`, seed 0",
    }
    rows = []
    for data, name in words.items():
        row = read_result(f"demo-{data}")["mean"]
        rows.append(
            [
                name,
                f"{row['source_accuracy']:.1%}",
                f"{row['composed_accuracy']:.1%}",
                f"{row['retention_rate']:.0%}",
                f"{row['composed_macs_ratio']:.2f}x",
            ]
        )
    head = [
        "demo",
        "source",
        "composed",
        "kernels kept",
        "MACs of all ten",
    ]
    return table(head, rows)


def recipes():
    found = read_result("recipes-cifar10")
    rows = [
        [
            f"`{name}`, {row['epochs']} of {row['of_epochs']} epochs",
            f"{row['test_accuracy']:.1%}",
            f"{row['retention_rate']:.0%}",
            f"{row['seconds_per_epoch']:.0f}",
        ]
        for name, row in found["recipes"].items()
    ]
    source = found["source"]
    head = [
        f"recipe, {source['network']} on CIFAR-10 "
        f"(source {source['test_accuracy']:.1%})",
        "accuracy",
        "kernels kept",
        "seconds an epoch",
    ]
    return table(head, rows)


def networks():
    section = read_result(SUMMARY)["efficiency"]
    rows = [
        [
            _network(network, cell["width"]),
            title.format(**cell),
            f"{cell['accuracy_loss']:+.2f}",
            f"{cell['retention_rate']:.0%}",
            f"{cell['macs_ratio']:.2f}x",
            _pair(cell),
            *_times(cell),
        ]
        for network in NETWORKS
        for key, title in CELLS.items()
        if (cell := section.get(network, {}).get(key))
    ]
    head = [
        "network, CIFAR-10",
        "modules",
        "points lost",
        "kernels kept",
        "MACs of all ten",
        "latency of all ten, 1 / 64 images",
        "time ÷ source's training",
        "time ÷ paper recipe",
    ]
    thirty, hundred = section["classes_30"], section["classes_100"]
    return table(head, rows) + (
        "\nThirty classes (CIFAR-10, Fashion-MNIST, MNIST in one model): "
        f"{thirty['accuracy_loss']:+.2f} points lost; a step takes "
        f"{thirty['step_ratio']:.2f}x that of ten classes. A hundred (pairs "
        f"of a digit and a garment): {hundred['accuracy_loss']:+.2f} points "
        f"and {hundred['step_ratio']:.2f}x.\n"
        "\nA step of the paper recipe takes "
        f"{section['step_ratio_torch']:.2f}x what the same arithmetic "
        "takes in PyTorch (SimCNN at full size, 64 images).\n"
    )


def _network(name, width):
    """Names a network; `width` is its share of the paper's."""
    share = Fraction(width).limit_denominator(100)
    return f"{NETWORKS[name]}, {share} of its width"


def _pair(cell):
    if "latency_ratio_1" not in cell:
        return ""
    return f"{cell['latency_ratio_1']:.2f}x / {cell['latency_ratio_64']:.2f}x"


def _times(cell):
    """Returns the time as a share of the source's and of the paper recipe's."""
    if "time_ratio_source" not in cell:
        return ["", f"1/{1 / cell['time_ratio_paper']:.1f}"]
    return [
        f"{cell['time_ratio_source']:.2f}x",
        f"1/{1 / cell['time_ratio_paper']:.0f}",
    ]


def full_size():
    section = read_result(SUMMARY)["full_size"]
    rows = [
        [
            NETWORKS[network],
            f"{recipe}, {cell['epochs']} epochs",
            f"{round(cell['validation_loss'], 2) + 0:+.2f}",
            f"{cell['accuracy_loss']:+.2f}",
            f"{cell['retention_rate']:.0%}",
            f"{cell['macs_ratio']:.2f}x",
            f"{cell['seconds']:.0f}",
        ]
        for network in NETWORKS
        for recipe, cell in section.get(network, {}).items()
    ]
    head = [
        "full size, the papers' uneven data",
        "recipe",
        "points lost, validation",
        "test",
        "kernels kept",
        "MACs of all ten",
        "seconds",
    ]
    return table(head, rows)


def ablation():
    found = read_result("ablation")
    rows = [
        [
            title,
            f"{100 * row['validation']:.1f}",
            f"{100 * row['test']:.1f}",
            f"{row['seconds']:.0f}",
        ]
        for title, row in found["cells"].items()
    ]
    return table(["changed", "validation", "test", "seconds"], rows)


def methods():
    section = read_result(SUMMARY)["methods"]
    rows = [
        [
            title,
            f"{row['accuracy_loss']:+.2f}",
            f"{row['accuracy_loss_own']:+.2f}",
            f"{row['retention_rate']:.0%}",
            f"{row['macs_ratio']:.2f}x",
            f"{row['jaccard_distance']:.2f}",
            f"{row['seconds']:.0f}",
        ]
        for key, title in METHODS.items()
        if (row := section.get(key))
    ]
    head = [
        "method, mean of three networks and two data sets",
        "points lost",
        "with each module's own calibration",
        "kernels kept",
        "MACs of all modules",
        "Jaccard distance",
        "seconds",
    ]
    return table(head, rows)


def patching():
    section = read_result(SUMMARY)["patching"]
    known = section["papers_weakness"]
    parts = {
        f"all {section['num_patches']} patches": section,
        "without underfit models": section["without_underfit"],
        f"{known['num_patches']} weak models of F1 35 to 76": known,
        "all, the papers' split": section["papers_split"],
    }
    for name, row in section["by_data"].items():
        parts[f"{DATA[name]} (F1 {row['weak_f1']:.0f} before)"] = row
    gains = [
        [title, *(f"{row[f'{key}_gain']:+.2f}" for key in GAINS)]
        for title, row in parts.items()
    ]
    rules = [
        [
            title,
            *(f"{row[key]:+.2f}" for key in (*GAINS, "other_accuracy")),
            str(row["f1_falls"]),
            str(row["recall_falls"]),
            f"{row['other_classes_worst']:+.2f}",
        ]
        for key, title in RULES.items()
        if (row := section["by_rule"][key])
    ]
    head = [
        "rule",
        "precision",
        "recall",
        "F1",
        "others' accuracy",
        "F1 falls",
        "recall falls",
        "others' accuracy at worst",
    ]
    return (
        table(["patched class", "precision", "recall", "F1"], gains)
        + f"\n{table(head, rules)}"
        + "\n![F1 of each patched class before and after, by rule]"
        "(../benchmarks/results/patching.png)\n"
    )


def new_task():
    found = {count: read_result(name) for name, count in SHOTS.items()}
    kinds = [
        [
            count,
            f"{row['gap_to_scratch']:+.2f} "
            f"({row['gap_interval'][0]:+.2f} to {row['gap_interval'][1]:+.2f})",
            f"{row['by_kind']['pair']['gap_to_scratch']:+.2f}",
            f"{row['by_kind']['within']['gap_to_scratch']:+.2f}",
            f"{row['worst_gap']:+.2f}",
            f"{row['time_ratio']:.1%}",
        ]
        for count, row in found.items()
    ]
    head = [
        "labelled images a class",
        f"all {found['20']['num_tasks']} (95 % interval)",
        "pairs",
        "within a data set",
        "worst",
        "time ÷ scratch",
    ]
    ways = [
        [title, *(f"{row[key]:+.2f}" for row in found.values())]
        for key, title in REUSE.items()
    ]
    return (
        table(head, kinds)
        + f"\n{table(['all tasks', *(f'{n} images' for n in found)], ways)}"
        + "\n![Accuracy of each new task, from modules and from scratch]"
        "(../benchmarks/results/new_task.png)\n"
    )


def more_accurate():
    found = read_result("more_accurate")
    low, high = found["gain_interval"]
    gains = {
        "modules with auxiliary ones": f"{found['gain']:+.2f} "
        f"({low:+.1f} to {high:+.1f})",
        "no auxiliary modules": f"{found['alone_gain']:+.2f}",
        "no auxiliary modules, up to two for each class": (
            f"{found['team_gain']:+.2f}"
        ),
        "the best source with a new last layer": (
            f"{found['last_layer_gain']:+.2f}"
        ),
        "modules with auxiliary ones, 50 labelled images of each class": (
            f"{found['few_images_gain']:+.2f}"
        ),
        "chosen on 100 test images of each class, as the paper does": (
            f"{found['papers_split_gain']:+.2f}"
        ),
        "sources of all three architectures together, fifteen": (
            f"{found['gain_of_all_architectures']:+.2f}"
        ),
        "modules with auxiliary ones over the soft vote of all sources": (
            f"{found['gain_over_soft_vote']:+.2f}"
        ),
    }
    count = found["images_of_each_class"]
    head = [
        f"one model from five sources, {count} labelled images of each class",
        "points over the best source",
    ]
    return table(head, [list(row) for row in gains.items()])


def priors():
    found = read_result("priors")["mean"]
    rows = [
        [
            f"{title}, images {frequency}",
            *(
                f"{found[split][name][key][prior]:.1f}"
                for split in ("validation", "test")
                for prior in PRIORS
            ),
        ]
        for name, title in COMPOSITIONS.items()
        for key, frequency in FREQUENCIES.items()
    ]
    head = [
        "composition",
        *(f"{title}, validation" for title in PRIORS.values()),
        *(f"{title}, test" for title in PRIORS.values()),
    ]
    return table(head, rows)


def memory():
    found = read_result("memory")
    rows = [
        [
            (
                "control: `kmod modularize`, all in memory"
                if name == "control"
                else f"`kmod {name}`"
            ),
            *(
                f"{cell[key] * 2**20 / 1e9:.2f}"
                for key in ("peak_mib", "anonymous_mib")
            ),
        ]
        for name, cell in found["commands"].items()
    ]
    head = [
        f"{found['images']:,} JPEG files of 96x96x3, "
        f"{found['decoded_mib'] * 2**20 / 1e9:.1f} GB decoded",
        "most memory, GB",
        "of it without a file, GB",
    ]
    return table(head, rows)


def own_photos():
    found = read_result(SUMMARY)["own_photos"]
    head = [
        "seed",
        "source → composed, 120 test images",
        "4,000 test images",
        "kernels kept",
        "F1 of the patched class",
        "`modularize`",
        "most memory",
    ]
    rows = []
    for number, seed in enumerate(found["seed"]):
        run = {key: found[key][number] for key in OWN_PHOTOS}
        rows.append(
            [
                seed,
                _to(run["source_accuracy"], run["accuracy"]),
                _to(run["source_accuracy_many"], run["accuracy_many"]),
                f"{run['retention_rate']:.0%}",
                _to(*run["patched"]) if run["patched"] else "no help",
                f"{run['seconds'] / 60:.1f} min",
                f"{run['peak_mib'] / 1024:.1f} GiB",
            ]
        )
    return table(head, rows)


REAL = {
    "mobile_net": "MobileNetV2, alpha 0.35",
    "residual_net": "residual network, 27 convolutions",
}
STEPS = {
    "inspect": "inspect",
    "modularize": "modularize",
    "compose": "compose",
    "evaluate": "evaluate",
    "patch": "patch",
    "export --format litert": "export_litert",
    "test": "test",
}


def real_networks():
    found = read_result(SUMMARY)["real_networks"]
    head = ["", *(REAL[name] for name in found)]
    lines = {
        "source → all ten composed, test images": lambda cell: _to(
            cell["source_accuracy"], cell["accuracy"]
        ),
        "composed of three classes": lambda cell: f"{cell['few_accuracy']:.1%}",
        "kernels kept": lambda cell: f"{cell['retention_rate']:.0%}",
        "MACs of all ten": lambda cell: f"{cell['macs_ratio']:.2f}x",
        "F1 of the patched class": lambda cell: ", ".join(
            _to(each["before"], each["after"]) for each in cell["patched"]
        ),
        "plain `fit`, minutes": lambda cell: (
            f"{cell['training_seconds'] / 60:.0f}"
        ),
        **{
            f"`{name}`, seconds and MiB": lambda cell, step=step: (
                f"{cell['seconds'][step]:.0f}, {cell['peak_mib'][step]:,}"
            )
            for name, step in STEPS.items()
        },
    }
    rows = [
        [words, *(line(cell) for cell in found.values())]
        for words, line in lines.items()
    ]
    return table(head, rows)


WORLDS = {
    "far": "far: CIFAR-10, Fashion-MNIST, MNIST",
    "kinds": "near: animals, vehicles",
    "split": "near: random halves of CIFAR-10",
}
WAYS = {
    "perfect": "perfect routing",
    "stored": "familiarity, no label",
    "blind": "`stored` without familiarity",
    "joint_5": "`joint`, 5 images of each class",
    "joint_20": "`joint`, 20",
    "joint_50": "`joint`, 50",
    "blind_joint_5": "`joint` without familiarity, 5",
    "blind_joint_20": "`joint` without familiarity, 20",
    "blind_joint_50": "`joint` without familiarity, 50",
    "fit_20": "`fit`, 20",
    "blind_fit_20": "`fit` without familiarity, 20",
    "max_softmax": "routed by max softmax",
    "energy": "routed by energy",
    "react": "routed by ReAct",
    "mahalanobis": "routed by Mahalanobis distance, last features",
    "neighbours": "routed by nearest neighbours, last features",
    "sigmoids": "highest sigmoid of all modules (the papers)",
}


def worlds():
    found = read_result("worlds")["summary"]
    groups = [name for name in WORLDS if name in found]
    rows = [
        [title, *(_with_interval(found[name][way]) for name in groups)]
        for way, title in WAYS.items()
    ]
    return table(["accuracy, %", *(WORLDS[name] for name in groups)], rows)


def distilled():
    """A composition and the student that learned from it."""
    found = read_result("worlds")["summary"]
    rows = []
    for name in ("far", "kinds"):
        own = found[f"{name}_distilled"]
        both = [own[f"{each}_accuracy"] for each in ("composition", "student")]
        accuracy = [100 * each["mean"] for each in both]
        macs, seconds = (
            own[f"composition_{key}"]["mean"] / own[f"student_{key}"]["mean"]
            for key in ("macs", "milliseconds")
        )
        rows.append(
            [
                WORLDS[name],
                f"{own['images']['mean']:,.0f}",
                f"{own['epochs']['mean']:.0f}",
                *(f"{each:.1f}" for each in accuracy),
                f"{accuracy[1] - accuracy[0]:+.1f}",
                f"{macs:.1f}",
                f"{seconds:.1f}",
            ]
        )
    head = ["sources", "images", "epochs", "composition", "student", "gap"]
    return table([*head, "MACs ÷", "latency ÷"], rows)


def few_labels():
    """Accuracy of `kmod choose` and of patches, by labelled images."""
    found = read_result("worlds")["summary"]
    chosen, patched = found["kinds_chosen"], found["kinds_patched"]
    ways = {
        "`kmod choose`, accuracy": (chosen, "choose_{}"),
        "the same without familiarity": (chosen, "blind_choose_{}"),
        "patch `divided`, F1 of the class": (patched, "divided_{}_f1"),
        "patch `calibrated`": (patched, "calibrated_{}_f1"),
        "regression on both models' scores": (patched, "regression_{}_f1"),
        "patch `divided`, accuracy over all": (patched, "divided_{}_accuracy"),
        "patch `calibrated`, over all": (patched, "calibrated_{}_accuracy"),
        "regression, over all": (patched, "regression_{}_accuracy"),
    }
    counts = (0, 1, 5, 20, 50)
    rows = [
        [
            title,
            *(
                (
                    f"{100 * group[key.format(count)]['mean']:.1f}"
                    if key.format(count) in group
                    else ""
                )
                for count in counts
            ),
        ]
        for title, (group, key) in ways.items()
    ]
    return table(["labelled images of each class", *map(str, counts)], rows)


def pairs():
    found = read_result("pairs")
    ways = {
        "familiarity, no label": "unlabelled",
        "the same modules without familiarity": "blind",
        "20 labelled images of each class (`kmod choose`)": "labelled",
        "trained from scratch": "scratch",
    }
    rows = [
        [
            title,
            f"{found['accuracy'][way]:.2f}",
            f"{found[way + '_gap']:+.2f}" if way + "_gap" in found else "",
        ]
        for title, way in ways.items()
    ]
    return table(["models of two classes", "accuracy, %", "gap"], rows)


def unseen():
    found = read_result("worlds")["summary"]["far_unseen"]
    pairs = {
        "mnist_fashion_mnist": ("MNIST", "Fashion-MNIST"),
        "mnist_noise": ("MNIST", "noise"),
        "cifar10_coloured_digits": ("CIFAR-10", "coloured digits"),
        "cifar10_noise": ("CIFAR-10", "noise"),
    }
    rows = [
        [
            *names,
            f"{found[key]['mean']:.4f}",
            f"{found[key + '_max_softmax']['mean']:.4f}",
            f"{found[key.split('_')[0] + '_refused']['mean']:.1%}",
        ]
        for key, names in pairs.items()
    ]
    head = [
        *("modules of", "fed with", "AUROC, `reject: 0.05`"),
        *("AUROC, max softmax", "own images refused"),
    ]
    return table(head, rows)


PATCH_WAYS = {
    "patched": "`kmod patch`, the donor as it is",
    "weak model": "the weak model",
    "bias moved": "its bias of the class moved",
    "last layer fitted again": "its last layer fitted again",
    "regression on both": "regression on both models' scores",
    "donor instead": "the donor in its place",
}
PATCH_FIGURES = ("f1", "accuracy", "macs")


def pays_patched():
    """Patches beside what needs none."""
    found = read_result("pays")["summary"]
    rows = []
    for way, title in PATCH_WAYS.items():
        row = [title]
        for kind in ("others", "all"):
            own = {k: found[kind].get(f"{way}: {k}") for k in PATCH_FIGURES}
            if own["f1"] is None:
                row += [""] * 3
                continue
            macs = found[kind]["weak model: macs"]["mean"]
            row += [f"{100 * own[k]['mean']:.1f}" for k in ("f1", "accuracy")]
            row.append(f"{own['macs']['mean'] / macs:.2f}x")
        rows.append(row)
    head = ["F1 of the class", "accuracy", "MACs"]
    others = [f"donor of other classes: {head[0]}", *head[1:]]
    return table(["", *others, f"donor of all: {head[0]}", *head[1:]], rows)


def pays_new():
    """New models from two sources beside a regression on their features."""
    found = read_result("pays")["summary"]["new"]
    counts = (0, 5, 20, 50)
    ways = {
        "choose": "`kmod choose`, both sources as they are",
        "slim": "the same, slimmed to the parameters of both",
        "pooled": "regression on the pooled features of both",
    }
    rows = []
    for way, title in ways.items():
        cells = [found.get(f"{way}_{count}") for count in counts]
        if any(cells):
            cells = [_with_interval(cell) if cell else "" for cell in cells]
            rows.append([title, *cells])
    for key, title in (
        ("side_by_side", "both side by side"),
        ("perfect", "perfect routing"),
    ):
        rows.append([title, _with_interval(found[key]), "", "", ""])
    head = ["labelled images of each class", *map(str, counts)]
    return table(head, rows)


def slim():
    """Slim models beside students of the same multiply-accumulates."""
    found = read_result(SUMMARY)["slim"]
    kinds = {"all": "ten classes", "three": "three of ten classes"}
    rows = []
    for kind, title in kinds.items():
        if kind not in found:
            continue
        own = found[kind]
        mean = {key: own[key]["mean"] for key in own if key != "cells"}
        rows.append(
            [
                f"{title} ({own['cells']})",
                *(
                    _gain_with_interval(own[f"{way}_loss"])
                    for way in ("slim", "student", "torch")
                ),
                *(
                    f"{mean[key]:.2f}x"
                    for key in (
                        "macs_ratio",
                        "parameters_ratio",
                        "litert_ratio",
                        "latency_ratio_64",
                        "time_ratio",
                    )
                ),
            ]
        )
    head = ["task (cells)", "accuracy, points (95 % interval)"]
    head += ["student", "Torch-Pruning"]
    head += ["MACs", "parameters", "ms in LiteRT, 1 image"]
    head += ["ms in Keras, 64 images", "time"]
    return table(head, rows)


def slim_photos():
    """Slim models of networks of usual depth, on test photos."""
    found = read_result(SUMMARY)["slim_photos"]
    kinds = {"all": "ten classes", "three": "three of ten classes"}
    rows = []
    for name, cell in found.items():
        kind, _, network = name.partition("-")
        rows.append(
            [
                f"{REAL[network]}: {kinds[kind]}",
                _to(cell["source_accuracy"], cell["accuracy"]),
                *(
                    f"{cell[f'{key}_ratio']:.2f}x"
                    for key in ("macs", "parameters", "bytes")
                ),
            ]
        )
    head = ["network and task", "accuracy", "MACs", "parameters", "bytes"]
    return table(head, rows)


def quantized():
    """Compositions in eight bits, on test images."""
    found = read_result(SUMMARY)["quantized"]
    kinds = {
        "routed": "two sources, told apart by familiarity",
        "slim": "one source, slimmed to half of its operations",
    }
    rows = [
        [
            f"{title} ({found[kind]['cells']})",
            f"{-100 * found[kind]['loss']:+.2f}",
            f"{found[kind]['bytes_ratio']:.2f}x",
        ]
        for kind, title in kinds.items()
        if kind in found
    ]
    return table(["composition (models)", "accuracy, points", "bytes"], rows)


def defaults():
    """What the commands make as they stand, a row for each network and way."""
    # Title, what it is compared with, and the command that makes it.
    ways = {
        "cut": ("the source, its last layer cut to three outputs", "cut", None),
        "three": (
            "`kmod modularize`, then `kmod compose` of three classes",
            *("cut", "modularize"),
        ),
        "slim": (
            "`kmod slim --only` of the source, a quarter of its MACs",
            *("cut", "slim"),
        ),
        "source": ("the source, all ten classes", "source", None),
        "all": (
            "`kmod modularize`, then `kmod compose` of all ten",
            *("source", "modularize"),
        ),
    }
    cells, rows = read_result("defaults")["cells"], []
    for network, name in NETWORKS.items():
        own = [cells[key] for key in cells if key.startswith(network)]
        for key, (title, plain, command) in ways.items():
            rows.append(
                [
                    f"{name} ({len(own)})",
                    title,
                    f"{_mean(own, f'{key}_accuracy'):.1%}",
                    f"{_mean(own, f'{key}_parameters'):,.0f}",
                    f"{_mean(own, f'{key}_macs') / 1e6:.1f} M",
                    f"{_mean(own, f'{key}_ms_1', f'{plain}_ms_1'):.2f}x",
                    f"{_time(own, command):.2f}x" if command else "",
                ]
            )
    head = ["network (sources)", "way", "accuracy", "parameters", "MACs"]
    return table([*head, "ms, 1 image", "time"], rows)


def _time(cells, command):
    return _mean(cells, f"{command}_seconds", "source_training_seconds")


def _mean(cells, name, divisor=None):
    """Returns the mean of a figure, or of its ratio to another."""
    return np.mean([cell[name] / cell.get(divisor, 1) for cell in cells])


def scale():
    found = read_result(SUMMARY)["scale"]
    killed, opening = found["killed"], found["opening"]
    planning = found["planning"]
    rows = [
        [
            f"{found['sources']} sources, two nodes of one core",
            f"{found['throughput_ratio']:.2f}x the throughput of one process "
            f"of one core ({_minutes(found['seconds']['one'])} and "
            f"{_minutes(found['seconds']['two'])} minutes)",
        ],
        [
            "one of the nodes removed",
            f"{killed['missing']} stores missing, {killed['done_twice']} tasks "
            "done twice, modules "
            + ("identical" if found["equal"] else "not identical"),
        ],
        [
            f"a store of {opening['modules']:,} modules is opened",
            f"{opening['seconds']:.2f} s, {opening['peak_mib']} MiB",
        ],
        [
            "a spec of all of them is planned",
            f"{planning['seconds']:.2f} s, {planning['peak_megabytes']} MB",
        ],
    ]
    many, faults = found["thousand_classes"], found["faults"]
    seconds, mib = many["step_seconds"], many["step_mib"]
    rows.append(
        [
            "a step of the search, 1,000 classes beside 100",
            f"{many['step_ratio']:.2f}x the time ({seconds['1000']:.2f} and "
            f"{seconds['100']:.2f} s), {many['memory_ratio']:.2f}x the memory "
            f"({mib['1000']:,} and {mib['100']:,} MiB)",
        ]
    )
    for size, name in (
        ("small", "a small SimCNN"),
        ("large", "a ResNet50"),
        ("many", "a ResNet50, 5 % of the branches' kernels kept,"),
    ):
        stored, composed = many[size]["store"], many[size]["compose"]
        rows += [
            [
                f"{stored['modules']:,} modules of {name} are cut, compared "
                "and stored",
                f"{_minutes(stored['seconds'])} minutes, "
                f"{stored['mib'] / 1024:.1f} GiB",
            ],
            [
                f"{composed['modules']} of them are composed",
                f"{_minutes(composed['seconds']['compose'])} minutes, "
                f"{composed['peak_mib_until']['compose'] / 1024:.1f} GiB of "
                f"memory; {composed['convolutions']:,} convolutions",
            ],
            [
                "the model is saved, in two forms that are compared with it",
                f"{_minutes(composed['seconds']['save'])} minutes, "
                f"{composed['peak_mib_until']['save'] / 1024:.1f} GiB of "
                "memory",
            ],
        ]
    rows += [
        [
            f"{faults['minutes']:.0f} minutes of job lists with "
            f"{sum(faults['faults'].values())} faults",
            f"{faults['calls']} calls, {len(faults['violations'])} violations",
        ],
    ]
    return table(["measured", "result"], rows)


def channel_counts():
    """Milliseconds of networks as wide as given."""
    cells = read_result("channel_counts")["cells"]
    names = {"1": "TensorFlow, 1 image", "64": "64 images", "litert": "LiteRT"}
    rows = [
        [words, *(f"{cells[kind][count]:.2f}" for count in WIDTHS)]
        for kind, words in names.items()
    ]
    return table(["ms", *WIDTHS], rows)


def cutting():
    """Seconds of a module that is cut and saved, by what they are spent on."""
    cells = read_result("cutting")["cells"]
    words = {
        "cut": "cut",
        "savedmodel written": "SavedModel written",
        "savedmodel read and run": "SavedModel read and run",
        "keras written": "Keras archive written",
        "keras read and run": "Keras archive read and run",
        "others": "digests, manifests, answers of the masked model",
    }
    rows = [
        [said, *(f"{cell[f'{part}: seconds']:.2f}" for cell in cells.values())]
        for part, said in words.items()
    ]
    wholes = [f"{cell['seconds_a_module']:.2f}" for cell in cells.values()]
    head = ["seconds of a module", *(f"of {count}" for count in cells)]
    return table(head, [*rows, ["in all", *wholes]])


def input_pipelines():
    """What an epoch takes as Keras reads images, and as kmod does."""
    rows = [
        [
            kind if kind == "arrays" else f"`{kind}`",
            f"{int(count):,}",
            f"{cell['seconds']['keras']['wall']:.2f} s",
            f"{cell['seconds']['kmod']['wall']:.2f} s",
            f"{cell['ratio']:.2f}x",
        ]
        for kind, own in read_result("input_pipelines")["cells"].items()
        for count, cell in own.items()
    ]
    head = ["read from", "images of an epoch", "Keras", "kmod", "ratio"]
    return table(head, rows)


def devices():
    """What two devices found beside what one did."""
    rows = []
    for name, cell in read_result("devices")["cells"].items():
        data, backend = name.split("-")
        one, two = (cell["runs"][run]["accuracy"] for run in ("one", "two"))
        rows.append(
            [
                f"{DEVICES[backend]}, {DATA.get(data, data)}",
                f"{cell['equal_masks']:.2%}",
                f"{one:.1%}, {two:.1%}",
                f"{cell['control']:.1%}",
            ]
        )
    head = ["devices", "equal mask entries", "test accuracy, one and two"]
    return table([*head, "control: one device, other rows drawn"], rows)


def costs():
    """What each step costs, fitted, and how far off the held-out cell is."""
    models, rows = read_result("costs")["models"], []
    for (step, kind), words in COSTS.items():
        model = models[step][kind]
        constant, *others = model["weights"].items()
        terms = [_digits(constant[1])] if constant[1] else []
        terms += [
            f"{_digits(x)} per {FEATURES[name]}" for name, x in others if x
        ]
        held_out = model["held_out"]
        rows.append(
            [
                words,
                " + ".join(terms),
                f"{model['fitted_error']:.0%}",
                f"{_digits(held_out['predicted'])}, "
                f"{_digits(held_out['measured'])}: "
                f"{round(model['error'], 2) + 0:+.0%}",
            ]
        )
    head = ["step", "cost", "largest error, fitted"]
    return table([*head, "held out: predicted, measured"], rows)


def _digits(value):
    """Writes a number by its first three digits, never as a power of ten."""
    return f"{float(f'{value:.3g}'):,g}"


def predicted_sources():
    """What one source is predicted to take, by its number of classes."""
    rows = []
    for row in read_result("costs")["prediction"]["source"]:
        hours = row["hours"]
        whole = sum(hours.values())
        shares = [
            f"{hours[step]:.3g} ({hours[step] / whole:.0%})" for step in hours
        ]
        rows.append(
            [
                f"{row['classes']:,}",
                *shares,
                f"{row['compose_hours']:.2g}",
                f"{row['open_seconds']:.2g} s",
                f"{row['mib'] / 1024:.2g} GiB",
            ]
        )
    head = ["classes", "search, hours", "validation", "cut and store"]
    return table([*head, "compose all, hours", "open", "store"], rows)


def predicted_limits():
    """What comes behind the training of very many classes."""
    found = read_result("costs")["prediction"]
    many = found["source"][-1]
    classes, sources = f"{many['classes']:,}", f"{found['sources']:,}"
    rows = [
        [
            f"start of `refine`, {classes} classes",
            f"{many['refine_start_hours']:.1f} hours",
        ],
        [
            f"a step of `refine`, {classes} classes",
            f"{many['refine_step_seconds']:.0f} s",
        ],
        [
            f"open {sources} stores of {classes} modules",
            f"{found['sources'] * many['open_seconds'] / 60:.1f} minutes",
        ],
        [
            f"plan {classes} classes of {sources} stores",
            f"{found['plan_seconds']:.1f} s",
        ],
        [f"{sources} stores on disk", f"{found['tib']:.1f} TiB"],
    ]
    return table(["predicted", "cost"], rows)


def predicted_nodes():
    """What all sources are predicted to take, by the number of nodes."""
    found = read_result("costs")["prediction"]
    rows = [
        [f"{int(count):,}", f"{row['days']:,.1f}"]
        for count, row in found["nodes"].items()
    ]
    return table(["nodes", "days"], rows)


def _minutes(seconds):
    return f"{seconds / 60:.1f}"


def dependence():
    """Rank correlations of what was foreseen with what exchanges lose."""
    summary = read_result(SUMMARY)["dependence"]
    losses = {
        "f1": "F1 of the class",
        "accuracy": "accuracy, all images",
        "others": "accuracy, other classes",
        "broken": "right answers that break",
    }
    titles = {
        "likeness 0.8": "`kmod dependence`",
        "1 - F1": "guess: 1 - F1 of the class",
        "gain of the others without it": "guess: gain of the others without it",
        "images of a small margin": "guess: images of a small margin",
        "real, on validation images": "the same exchanges, measured on "
        "validation images",
    }
    kinds = {"same": "the same network", "any": "any network"}
    rows = []
    for kind, where in kinds.items():
        found = summary[kind]
        for key, title in titles.items():
            ranks = [_rank(found[loss][key]) for loss in losses]
            rows.append([where, title, *ranks])
        means = [f"{100 * found[loss]['mean']:.2f} points" for loss in losses]
        rows.append([where, "mean real loss", *means])
    return table(["new module of", "foreseen by", *losses.values()], rows)


def _rank(found):
    low, high = found["interval"]
    return f"{found['test']:.2f} ({low:.2f} to {high:.2f})"


def _gain_with_interval(loss):
    low, high = (-100 * end for end in reversed(loss["interval"]))
    return f"{-100 * loss['mean']:+.1f} ({low:+.1f} to {high:+.1f})"


def _with_interval(found):
    mean, (low, high) = 100 * found["mean"], found["interval"]
    if low == high:
        return f"{mean:.1f}"
    return f"{mean:.1f} ({100 * low:.1f} to {100 * high:.1f})"


def _to(before, after):
    return f"{before:.1%} → {after:.1%}"


def table(head, rows):
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


FIGURES = {
    make.__name__: make
    for make in (
        headline,
        demo,
        recipes,
        networks,
        full_size,
        ablation,
        methods,
        patching,
        new_task,
        more_accurate,
        priors,
        worlds,
        distilled,
        few_labels,
        pairs,
        pays_patched,
        pays_new,
        slim,
        slim_photos,
        quantized,
        defaults,
        dependence,
        unseen,
        memory,
        own_photos,
        real_networks,
        channel_counts,
        cutting,
        input_pipelines,
        scale,
        devices,
        costs,
        predicted_sources,
        predicted_limits,
        predicted_nodes,
    )
}


if __name__ == "__main__":
    main()
