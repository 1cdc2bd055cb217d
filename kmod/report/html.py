"""The HTML report: one page, no scripts, nothing fetched."""

from collections.abc import Iterable
from collections.abc import Mapping
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

from kmod.files import atomic_write

FIGURES = ("precision", "recall", "f1")


class Cell(str):
    """A table's cell that is HTML already."""


def tile(figure: str, label: str) -> str:
    """Returns a large figure with a label."""
    return (
        f'<div class="tile"><b>{escape(figure)}</b>'
        f"<span>{escape(label)}</span></div>"
    )


def bar(share: float) -> Cell:
    """Returns a cell with a bar for a share from 0 to 1, and its percentage."""
    percent = f"{100 * share:.0f}"
    return Cell(
        f'<td><span class="bar"><i style="width:{percent}%"></i></span> '
        f"{percent} %</td>"
    )


def heat(share: float) -> Cell:
    """Returns a cell with a share from 0 to 1 in percent, darker for more."""
    ink = "#fff" if share > 0.6 else "inherit"
    shade = f"background:rgba(47,111,179,{share:.2f});color:{ink}"
    return Cell(f'<td class="heat" style="{shade}">{100 * share:.0f}</td>')


def figure(value: float | None) -> str:
    """Returns a figure from 0 to 1, or a dash where nothing was measured."""
    return "–" if value is None else f"{value:.3f}"


def table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Returns a table; what is in its rows are texts or `Cell`s."""
    head = "".join(f"<th>{escape(column)}</th>" for column in columns)
    body = "".join(f"<tr>{''.join(map(_cell, row))}</tr>" for row in rows)
    return f'<div class="wide"><table><tr>{head}</tr>{body}</table></div>'


def _cell(cell):
    return cell if isinstance(cell, Cell) else f"<td>{escape(cell)}</td>"


STYLE = """
:root { --ink: #1c2430; --soft: #5b6675; --line: #dde3ea; --tint: #2f6fb3; }
body { font: 16px/1.5 system-ui, sans-serif; color: var(--ink);
  max-width: 62rem; margin: 2rem auto; padding: 0 1rem; }
h1 { margin-bottom: 0; } h2 { margin-top: 2.5rem; }
p.lead { color: var(--soft); margin-top: .3rem; }
.tiles { display: grid; gap: 1rem;
  grid-template-columns: repeat(auto-fit, minmax(11rem, 1fr)); }
.tile { border: 1px solid var(--line); border-radius: .5rem; padding: 1rem; }
.tile b { display: block; font-size: 1.7rem; }
.tile span { color: var(--soft); font-size: .9rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: .92rem; }
th, td { padding: .3rem .7rem; text-align: right;
  border-bottom: 1px solid var(--line); white-space: nowrap; }
th:first-child, td:first-child { text-align: left; }
.bar { display: inline-block; width: 7rem; height: .7rem; background: #edf1f5;
  border-radius: .35rem; vertical-align: middle; overflow: hidden; }
.bar i { display: block; height: 100%; background: var(--tint); }
td.heat { text-align: center; }
"""


def write_report(directory: str | Path, results: Mapping[str, Any]) -> Path:
    """Writes the report of a demo.

    Args:
        directory: Directory for `report.html`.
        results: What the demo's `results.json` holds.

    Returns:
        Path of the page.
    """
    path = Path(directory) / "report.html"
    atomic_write(path, _page(results))
    return path


def _page(results):
    name = escape(results["data"]["name"])
    sections = [_headline, _modules, _layers, _overlap]
    sections += [_sizes, _patch, _classes, _seconds]
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width">\n'
        f"<title>kmod: {name}</title>\n<style>{STYLE}</style></head><body>\n"
        f"<h1>{name}: a classifier taken apart</h1>\n"
        '<p class="lead">Accuracies are of test images, which no choice of '
        f"this run has seen. Seed {results['seed']}.</p>\n"
        + "\n".join(section(results) for section in sections)
        + "\n</body></html>\n"
    )


def _headline(results):
    patch = results["patch"]
    tiles = [
        tile(f"{results['source_accuracy']:.1%}", "source model's accuracy"),
        tile(
            f"{results['composed_accuracy']:.1%}",
            "accuracy of all modules composed",
        ),
        tile(f"{results['retention_rate']:.0%}", "of the kernels in a module"),
        tile(
            f"{results['composed_macs_ratio']:.2f}x",
            "the source's MACs, all modules composed",
        ),
        tile(
            f"{patch['before']['f1']:.2f} → {patch['after']['f1']:.2f}",
            f"F1 of the patched class “{patch['target_class']}”",
        ),
    ]
    return f'<div class="tiles">{"".join(tiles)}</div>'


def _modules(results):
    rows = [
        [name, bar(module["retention_rate"]), f"{module['macs_ratio']:.2f}"]
        + [figure(module.get(key)) for key in FIGURES]
        for name, module in results["modules"].items()
    ]
    columns = ["module", "kernels kept", "MACs ÷ source's"]
    columns += ["precision", "recall", "F1"]
    return (
        "<h2>Modules</h2><p>Each module alone, on validation images: it "
        "answers yes where its probability is above one half.</p>"
        + table(columns, rows)
    )


def _layers(results):
    counts = results["kernels_by_layer"]
    rows = [
        [name, *(heat(module["kept_by_layer"][k] / counts[k]) for k in counts)]
        for name, module in results["modules"].items()
    ]
    return (
        "<h2>Kernels kept by layer</h2><p>Share of each layer's kernels, in "
        "percent; number of kernels beside the layer's name.</p>"
        + table(["", *(f"{k} ({n})" for k, n in counts.items())], rows)
    )


def _overlap(results):
    names = results["class_names"]
    rows = [
        [name, *map(heat, row)] for name, row in zip(names, results["overlap"])
    ]
    return (
        "<h2>Overlap of kernels</h2><p>Kernels that two modules share ÷ "
        "kernels that either has (Jaccard index), in percent.</p>"
        + table(["", *names], rows)
    )


def _sizes(results):
    sizes = results["sizes"]
    rows = [
        [
            label,
            _number(sizes[key].get("kernels")),
            _number(sizes[key]["parameters"]),
            _number(sizes[key]["macs"]),
            f"{sizes[key]['bytes'] / 1024:,.0f}",
            f"{sizes[key]['latency_ms']:.2f}",
        ]
        for key, label in [
            ("source", "source model"),
            ("module", "one module (mean)"),
            ("composed", "all modules composed"),
        ]
    ]
    columns = ["model", "kernels", "parameters", "MACs", "KiB on disk"]
    columns += ["ms for one image"]
    return "<h2>Sizes before and after</h2>" + table(columns, rows)


def _number(value):
    return "" if value is None else f"{value:,.0f}"


def _patch(results):
    patch = results["patch"]
    rows = [
        [when, *(figure(patch[when][key]) for key in FIGURES)]
        + [figure(patch["other_classes_accuracy"][when])]
        for when in ("before", "after")
    ]
    columns = ["", "precision", "recall", "F1", "accuracy on other classes"]
    return (
        "<h2>A weak model, patched</h2><p>A smaller model trained on "
        f"{results['settings']['weak_images']} images was weakest in class "
        f"“{escape(patch['target_class'])}”; a module answers for it now.</p>"
        + table(columns, rows)
    )


def _classes(results):
    before, after = (results[key]["classes"] for key in ("source", "composed"))
    rows = [
        [name]
        + [
            f"{figure(before[name][key])} → {figure(after[name][key])}"
            for key in FIGURES
        ]
        for name in results["class_names"]
    ]
    columns = ["class", "precision", "recall", "F1"]
    return "<h2>Source model and composed model</h2>" + table(columns, rows)


def _seconds(results):
    rows = [[step, f"{s:,.1f}"] for step, s in results["seconds"].items()]
    return "<h2>Time</h2>" + table(["step", "seconds"], rows)
