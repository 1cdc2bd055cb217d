"""`kmod choose`: chooses modules of several stores for a new model."""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import TYPE_CHECKING

from kmod.cli import console
from kmod.cli.models import positive_integer
from kmod.files import short_names
from kmod.files.plain_yaml import shorten

if TYPE_CHECKING:
    from kmod.selection.module_choice import ModuleChoice

MOST_WEAK = 3  # Classes that are shown.
COST = "multiply-accumulates of one image"
BEST = "*"  # Marks what no other beats that costs no more.


def add_parser(subparsers) -> None:
    parser = subparsers.add_parser(
        "choose",
        help="choose the modules of a new model among several stores",
        description="Tries every store's module of each class on a few "
        "labelled images and writes the spec of the best ones. Without "
        "images, those count that do best on their source's own. With "
        "`--compose`, the model is built as well.",
    )
    parser.add_argument(
        "--class",
        required=True,
        action="append",
        dest="class_names",
        metavar="C",
        help="class of the new model, named as in the stores; at least twice",
    )
    parser.add_argument(
        "--store",
        required=True,
        action="append",
        dest="stores",
        metavar="STORE",
        help="module store to choose from; may be given several times",
    )
    parser.add_argument(
        "--data",
        action="append",
        metavar="NAME:SPLIT",
        help="labelled images of the classes, such as cifar10:validation or "
        "photos:validation; several data sets if no single one shows all. A "
        "spec can name folders and files, but no function. Without, modules "
        "are chosen by the figures that stores hold",
    )
    parser.add_argument(
        "--images-per-class",
        type=positive_integer,
        default=50,
        metavar="N",
        help="how many of them are used, at most (default: 50)",
    )
    parser.add_argument(
        "--no-auxiliary",
        action="store_false",
        dest="auxiliary",
        help="take the classes' own modules only; otherwise auxiliary modules "
        "of the stores may join, which makes the model larger",
    )
    parser.add_argument(
        "--macs-budget",
        type=_budget,
        metavar="N",
        help="multiply-accumulates for one image that all modules may have "
        "together, such as 5e6 (default: no limit)",
    )
    parser.add_argument(
        "--data-dir", metavar="DIR", help="prepared TensorFlow Datasets"
    )
    parser.add_argument(
        "--out", required=True, metavar="SPEC.yaml", help="spec to write"
    )
    parser.add_argument(
        "--compose", metavar="DIR", help="compose it, too, in this directory"
    )
    parser.add_argument(
        "--take",
        metavar="WAY",
        help="compose this way of the table in place of the modules chosen: "
        "side-by-side, best-source-with-a-new-last-layer or "
        "regression-on-all-features; with `--compose` and `--data`",
    )
    parser.add_argument(
        "--plot",
        metavar="FILE.svg",
        help="picture of accuracy against cost to write; with `--data`",
    )
    parser.add_argument(
        "--overwrite",
        action="store_true",
        help="replace what kmod wrote there and nobody changed",
    )
    parser.add_argument(
        "--json", action="store_true", help="print the choice as JSON"
    )
    parser.set_defaults(run=run, arguments=None)


def _budget(text):
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not value > 0:
        raise argparse.ArgumentTypeError(
            f"must be a number above 0, such as 5e6. Received: {shorten(text)}"
        )
    return value


def run(args: argparse.Namespace) -> int:
    choice = choose_given(args)
    with console.status("measuring"):
        times = _times(choice)
    if args.json:
        figures = choice.as_dict()
        rows = figures["options"] + figures["plain"]
        for model, row in zip([*choice.options, *choice.plain], rows):
            row["milliseconds"] = times.get(model)
        console.print_json(figures)
    else:
        _print(choice, times, args)
    return 0


def choose_given(args: argparse.Namespace) -> ModuleChoice:
    """Writes the spec that the arguments ask for, and may compose it.

    Returns:
        What was chosen.
    """
    from kmod.cli.models import check_out
    from kmod.composition.composition_manifest import list_composition
    from kmod.files import check_output_file
    from kmod.modules.module_store import load_store

    check_output_file(args.out, args.overwrite)
    _check_plain(args)
    if args.compose is not None:
        check_out(args.compose, args.overwrite, list_composition)
    paths = {}  # One store may be given twice, in other spellings.
    for path in args.stores:
        paths.setdefault(Path(path).resolve(), path)
    with console.status("opening stores"):
        stores = [load_store(path, verify=False) for path in paths.values()]
    data = _data(args)

    from kmod.composition.composer import compose
    from kmod.composition.saving import save
    from kmod.selection.composition_choice import choose_composition
    from kmod.selection.plain_ways import WAYS
    from kmod.selection.plain_ways import take_way

    if args.take is not None:
        _check_way(args.take, WAYS)
    choice, spec = choose_composition(
        tuple(args.class_names),
        stores,
        data,
        args.out,
        images_per_class=args.images_per_class,
        data_dir=args.data_dir,
        auxiliary=args.auxiliary,
        macs_budget=args.macs_budget,
        overwrite=args.overwrite,
        track=lambda items: console.track(items, "trying stores"),
    )
    if choice.expected is None and (args.plot or args.take):
        raise _nothing_to_compare(args)
    if args.plot is not None:
        _draw(choice, args.plot, args.overwrite)
    if args.compose is not None:
        metrics = {"ways": _recorded(choice)} if choice.plain else {}
        with console.status("composing"):
            if args.take is None:
                model = compose(spec, args.data_dir)
            else:
                ways = {way.key: way for way in choice.plain}
                _check_way(args.take, ways)
                way = ways[args.take]
                model = take_way(way, spec.name, choice.contract)
                metrics["expected"] = {
                    "accuracy": way.evaluation.accuracy,
                    "num_labelled": way.num_labelled,
                }
            save(
                model,
                args.compose,
                metrics=metrics,
                arguments=args.arguments,
                overwrite=args.overwrite,
            )
    return choice


def _draw(choice, path, overwrite):
    """Draws accuracy against cost of all that was compared."""
    from kmod.report.drawings import draw_frontier
    from kmod.report.page import write_drawing
    from kmod.report.parts import Frontier
    from kmod.report.parts import Point

    best, points = choice.frontier, []
    models = [(option, option.expected) for option in choice.options]
    models += [(way, way.evaluation) for way in choice.plain]
    for model, found in models:
        is_plain = model in choice.plain
        name = choice.name_of(model)
        if not is_plain and model.auxiliary:
            name = f"{name}, {len(model.auxiliary)} auxiliary"
        points.append(
            Point(
                *(name, model.sizes.macs, found.accuracy),
                found.accuracy_interval(),
                is_plain,
                is_chosen=model is choice.taken,
                is_best=model in best,
            )
        )
    drawing = draw_frontier(Frontier(COST, points))
    title = "Accuracy against cost of " + ", ".join(choice.chosen)
    write_drawing(drawing, title, path, overwrite)


def _recorded(choice):
    """What the manifest holds of the choice and the ways beside it."""
    models = [("chosen", choice.taken, choice.num_images, choice.expected)]
    models += [
        (way.name, way, way.num_labelled, way.evaluation)
        for way in choice.plain
    ]
    return [
        {
            "name": name,
            "accuracy": found.accuracy,
            "parameters": model.sizes.parameters,
            "macs": model.sizes.macs,
            "num_labelled": num_labelled,
        }
        for name, model, num_labelled, found in models
    ]


def _check_plain(args):
    """Refuses what takes other options, before any work."""
    from kmod.errors import UsageError
    from kmod.files import check_output_file

    if args.take is not None and None in (args.compose, args.data):
        raise UsageError(
            "A way without a composition is fitted on labelled images and "
            f"saved where the model would be. Received: --take {args.take} "
            f"without {'--data' if args.data is None else '--compose'}. Give "
            "both `--data NAME:SPLIT` and `--compose DIR`."
        )
    if args.macs_budget is not None and args.data is None:
        raise UsageError(
            "A budget is kept by comparing models on labelled images. "
            "Received: --macs-budget without --data. Give --data, or leave the "
            "budget out."
        )
    if args.plot is None:
        return
    if args.data is None:
        raise UsageError(
            "Accuracies are compared on labelled images. Received: --plot "
            f"{args.plot} without --data. Give `--data NAME:SPLIT`."
        )
    if Path(args.plot).suffix.lower() != ".svg":
        raise UsageError(
            "The picture is an SVG file. Received: --plot "
            f"{args.plot}. Give a name that ends in `.svg`."
        )
    check_output_file(args.plot, args.overwrite)
    plot, model = (
        Path(each or "").resolve() for each in (args.plot, args.compose)
    )
    if args.compose is not None and model in plot.parents:
        raise UsageError(
            "A picture lies outside of the model's directory, which holds "
            f"what `kmod.save` writes. Received: --plot {args.plot} in "
            f"--compose {args.compose}. Choose another place."
        )


def _check_way(key, known):
    from kmod.errors import UsageError

    if key not in known:
        raise UsageError(
            "`--take` must be a way that there is without a composition, one "
            f"of {list(known)}. Received: --take {key}. Leave it out to take "
            "the modules chosen."
        )


def _nothing_to_compare(args):
    from kmod.errors import UsageError

    received = [
        f"--{name} {value}"
        for name, value in (("take", args.take), ("plot", args.plot))
        if value is not None
    ]
    return UsageError(
        "To compare accuracies takes two images of each class. Received: "
        f"{' '.join(received)}, with a single image of a class. The spec "
        f"'{args.out}' is written. Give more images, or leave this out."
    )


def _data(args):
    from kmod.data.load import parse_split
    from kmod.data.own_images import own_path
    from kmod.errors import UsageError
    from kmod.spec.model import DataRef

    if args.data is None:
        return None
    found = []
    for name, split in map(parse_split, args.data):
        path = own_path(name, args.data_dir)
        found.append(DataRef(path.resolve() if path else name, split))
    if any(data.split == "test" for data in found):
        given = " --data ".join(args.data)
        raise UsageError(
            "Modules are chosen on validation images, because the test images "
            f"measure the model. Received: --data {given}. "
            "Give NAME:validation."
        )
    return found


def _times(choice):
    """Measures the milliseconds of one image, of the choice and plain ways."""
    from kmod.graph.fusion.fuse import fuse
    from kmod.metrics.latency import measure_latency

    if choice.expected is None:
        return {}
    models = {way: way.laid_out for way in choice.plain}
    models[choice.taken] = fuse(choice.build(choice.taken))
    return {key: 1000 * measure_latency(each) for key, each in models.items()}


def _print(choice, times, args):
    for way in choice.plain:
        if choice.is_better(way) and way.key != args.take:
            console.print_note(
                f"Without a composition, '{way.name}' is as good on the "
                "images, within a standard error, with fewer operations. To "
                f"save that, give `--compose DIR --take {way.key}`."
            )
    if choice.cheaper is not None and args.take is None:
        auxiliary, sizes = choice.cheaper.auxiliary, choice.cheaper.sizes
        console.print_note(
            f"With {len(auxiliary)} auxiliary modules and {sizes.macs:,} "
            "multiply-accumulates the model is as good on the images, within "
            "a standard error. For that, give `--macs-budget "
            f"{sizes.macs}`."
        )
    key, heading = ("roc_auc", "ROC AUC") if choice.roc_auc else ("f1", "F1")
    how = f"on {choice.num_images} images" if choice.num_images else "by F1"
    names = short_names(store.place for store in choice.stores)
    console.print_table(
        ["class", "module of", heading, "by store"],
        [
            [
                name,
                names[row["store"]],
                f"{row[key]:.4f}",
                ", ".join(
                    f"{names[store]} {value:.4f}"
                    for store, value in row[f"{key}_by_store"].items()
                ),
            ]
            for name, row in choice.as_dict()["classes"].items()
        ],
        f"chosen {how}",
    )
    if choice.auxiliary:
        console.print_note(
            "Auxiliary modules of these stores join: "
            f"{len(choice.auxiliary)}. `--no-auxiliary` leaves them out."
        )
    if choice.expected is not None:
        _print_options(choice)
        _print_plain(choice, times)
        _print_expected(choice.expected)
    console.print_note(f"Wrote '{args.out}'.")
    if args.plot is not None:
        console.print_note(f"Drew '{args.plot}'.")
    if args.take is not None:
        console.print_note(f"Saved '{args.take}' to '{args.compose}'.")
    elif args.compose is not None:
        console.print_note(f"Composed to '{args.compose}'.")


def _print_options(choice):
    """Shows accuracy against cost of all that was compared."""
    best, rows = choice.frontier, []
    for option in choice.options:
        is_taken = "yes" if choice.is_taken(option) else ""
        rows.append(
            [
                choice.name_of(option),
                len(option.auxiliary),
                *_costs(option.sizes),
                *_figures(option.expected),
                f"{is_taken} {BEST if option in best else ''}".strip(),
            ]
        )
    columns = ["modules of", "auxiliary", "parameters", "MACs", "expected"]
    console.print_table(
        [*columns, "95 % interval", "chosen"],
        rows,
        f"accuracy against cost ({BEST} best at its cost)",
    )


def _print_plain(choice, times):
    """Shows what needs no composition, beside what was chosen."""
    best, taken = choice.frontier, choice.taken
    name = f"chosen: {choice.name_of(taken)}"
    models = [(taken, name, choice.num_images, taken.expected)]
    models += [
        (way, choice.name_of(way), way.num_labelled, way.evaluation)
        for way in choice.plain
    ]
    rows = [
        [
            f"{name} {BEST if model in best else ''}".strip(),
            *_costs(model.sizes),
            f"{times[model]:.1f}",
            f"{num_labelled:,}",
            *_figures(found),
        ]
        for model, name, num_labelled, found in models
    ]
    columns = ["way", "parameters", "MACs", "ms", "labelled images"]
    console.print_table(
        [*columns, "expected", "95 % interval"],
        rows,
        "the choice and what needs no composition, by the same images",
    )


def _costs(sizes):
    return f"{sizes.parameters:,}", f"{sizes.macs:,}"


def _figures(found):
    low, high = found.accuracy_interval()
    return f"{found.accuracy:.4f}", f"{low:.4f} to {high:.4f}"


def _print_expected(evaluation):
    """Says how good the model will be, and which classes are the problem."""
    from kmod.metrics.evaluate import weak_classes
    from kmod.metrics.evaluate import worst_confusion

    rows = [["accuracy", *_figures(evaluation), ""]]
    for index in weak_classes(evaluation)[:MOST_WEAK]:
        name = evaluation.class_names[index]
        worst = worst_confusion(evaluation, name)
        rows.append(
            [f"F1 of {name!r}", f"{evaluation.f1[index]:.4f}", "", worst]
        )
    console.print_table(
        ["", "expected", "95 % interval", "confused most"],
        rows,
        "by images that were left out of choice and fit",
    )
