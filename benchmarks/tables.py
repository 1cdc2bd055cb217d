"""Writes the README's tables of figures from `results/summary.json`.

    python benchmarks/tables.py

What stands between the two marks in README.md is replaced; a test compares
it with the summary.
"""

from fractions import Fraction
from pathlib import Path

from common import SUMMARY
from common import read_result

README = Path(__file__).parents[1] / "README.md"
START, END = "<!-- figures: begin -->\n", "<!-- figures: end -->\n"
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


def main():
    text = README.read_text()
    before, _, rest = text.partition(START)
    _, _, after = rest.partition(END)
    tables = figures(read_result(SUMMARY))
    README.write_text(f"{before}{START}\n{tables}\n{END}{after}")


def figures(summary: dict) -> str:
    """Returns the tables of all sections that the summary has."""
    parts = {
        "efficiency": efficiency,
        "full_size": full_size,
        "methods": methods,
        "patching": patching,
        "new_task": new_task,
        "more_accurate": more_accurate,
    }
    return "\n".join(
        make(summary[name]) for name, make in parts.items() if name in summary
    )


def efficiency(section):
    rows = [
        [
            _network(network, cell["width"]),
            title.format(**cell),
            f"{cell['accuracy_loss']:+.2f}",
            f"{100 * cell['retention_rate']:.0f} %",
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
    text = table(head, rows)
    if "classes_30" in section:
        text += (
            "\nThirty classes (CIFAR-10, Fashion-MNIST, MNIST in one model): "
            f"{section['classes_30']['accuracy_loss']:+.2f} points lost; a "
            f"step takes {section['classes_30']['step_ratio']:.2f}x that of "
            "ten classes.\n"
        )
    if "step_ratio_torch" in section:
        text += (
            "\nA step of the paper recipe takes "
            f"{section['step_ratio_torch']:.2f}x what the same arithmetic "
            "takes in PyTorch (SimCNN at full size, 64 images).\n"
        )
    return text


def _network(name, width):
    """Names a network; `width` is its share of the paper's, or "small"."""
    if width == "small":
        return f"small {NETWORKS[name]}"
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


def full_size(section):
    rows = [
        [
            NETWORKS[network],
            f"{recipe}, {cell['epochs']} epochs",
            f"{round(cell['validation_loss'], 2) + 0:+.2f}",
            f"{cell['accuracy_loss']:+.2f}",
            f"{100 * cell['retention_rate']:.0f} %",
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


def methods(section):
    rows = [
        [
            title,
            f"{row['accuracy_loss']:+.2f}",
            f"{100 * row['retention_rate']:.0f} %",
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
        "kernels kept",
        "MACs of all modules",
        "Jaccard distance",
        "seconds",
    ]
    return table(head, rows)


def patching(section):
    parts = {
        f"all {section['num_patches']} patches": section,
        "without underfit models": section["without_underfit"],
        "weak models of F1 35 to 76": section["papers_weakness"],
        "all, the papers' split": section["papers_split"],
    }
    for name, row in section["by_data"].items():
        parts[f"{DATA[name]} (F1 {row['weak_f1']:.0f} before)"] = row
    rows = [
        [title, *(f"{row[f'{key}_gain']:+.2f}" for key in GAINS)]
        for title, row in parts.items()
    ]
    rules = ", ".join(f"`{k}` {v:+.2f}" for k, v in section["rules"].items())
    alone, chance = (
        section["by_rule"][rule]["f1"] for rule in ("one_module", "no_module")
    )
    return table(["patched class", "precision", "recall", "F1"], rows) + (
        f"\nF1 falls in {section['f1_falls']} patches and recall in "
        f"{section['recall_falls']}; accuracy on the other classes changes by "
        f"{section['other_classes_gain']:+.2f} points in the mean and "
        f"{section['other_classes_worst']:+.2f} at worst. F1 by rule of "
        f"combination: {rules}. With the target's own module only it gains "
        f"{alone:+.2f}, with the same layer and no module {chance:+.2f}.\n"
        "\n![F1 of each patched class before and after, by rule]"
        "(benchmarks/results/patching.png)\n"
    )


def new_task(section):
    return (
        f"New tasks ({section['num_tasks']}): "
        f"{section['gap_to_scratch']:+.2f} points against training from "
        "scratch with early stopping, as the papers do, in "
        f"{100 * section['time_ratio']:.1f} % of its time "
        f"({section['alone_gap']:+.2f} without other modules that support the "
        f"choice, {section['team_gap']:+.2f} with up to two for each class "
        "instead); the best source model with a new last layer "
        f"{section['last_layer_gap']:+.2f}, modules of wrong classes "
        f"{section['wrong_class_control_gap']:+.2f}.\n"
        "\n![Accuracy of each new task, from modules and from scratch]"
        "(benchmarks/results/new_task.png)\n"
    )


def more_accurate(section):
    low, high = section["gain_interval"]
    return (
        "A model of the best modules of five sources gains "
        f"{section['gain']:+.2f} points over the best single source "
        f"(six cells, {low:+.1f} to {high:+.1f}; "
        f"{section['alone_gain']:+.2f} without modules that support them, "
        f"{section['team_gain']:+.2f} with up to two for each class instead), "
        f"a new last layer of it {section['last_layer_gain']:+.2f}, all on the "
        "same 200 labelled images of each class; "
        f"{section['gain_over_soft_vote']:+.2f} points over the soft vote of "
        "all sources.\n"
    )


def table(head, rows):
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


if __name__ == "__main__":
    main()
