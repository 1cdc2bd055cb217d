"""`kmod choose`: chooses modules of several stores for a new model."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from kmod.cli import console
from kmod.files import short_names

if TYPE_CHECKING:
    from kmod.selection.composition_choice import CompositionChoice

MOST_WEAK = 3  # Classes that are shown.


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
        type=int,
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
        type=float,
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
        "--overwrite",
        action="store_true",
        help="replace what kmod wrote there and nobody changed",
    )
    parser.add_argument(
        "--json", action="store_true", help="print the choice as JSON"
    )
    parser.set_defaults(run=run, arguments=None)


def run(args: argparse.Namespace) -> int:
    choice = choose_given(args)
    if args.json:
        console.print_json(choice.as_dict())
    else:
        _print(choice, args)
    return 0


def choose_given(args: argparse.Namespace) -> CompositionChoice:
    """Writes the spec that the arguments ask for, and may compose it.

    Returns:
        What was chosen.
    """
    from kmod.cli.models import check_out
    from kmod.composition.composition_manifest import list_composition
    from kmod.files import check_output_file
    from kmod.modules.module_store import load_store

    check_output_file(args.out, args.overwrite)
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
    if args.compose is not None:
        with console.status("composing"):
            model = compose(spec, args.data_dir)
            save(
                model,
                args.compose,
                arguments=args.arguments,
                overwrite=args.overwrite,
            )
    return choice


def _data(args):
    from kmod.data.load import parse_split
    from kmod.data.own_images import own_path
    from kmod.errors import UsageError
    from kmod.spec.model import DataRef

    if args.data is None:
        if args.macs_budget is not None:
            raise UsageError(
                "A budget is kept by comparing models on labelled images. "
                "Received: --macs-budget without --data. Give --data, or "
                "leave the budget out."
            )
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


def _print(choice, args):
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
        _print_expected(choice.expected)
    console.print_note(f"Wrote '{args.out}'.")
    if args.compose is not None:
        console.print_note(f"Composed to '{args.compose}'.")


def _print_options(choice):
    """Shows accuracy against cost of all that was compared."""
    rows = []
    paths = [store.place for store in choice.stores]
    names = short_names(paths)
    for option in choice.options:
        low, high = option.expected.accuracy_interval()
        own = dict.fromkeys(option.chosen.values())
        rows.append(
            [
                ", ".join(names[paths[index]] for index in own),
                len(option.auxiliary),
                f"{option.sizes.parameters:,}",
                f"{option.sizes.macs:,}",
                f"{option.expected.accuracy:.4f}",
                f"{low:.4f} to {high:.4f}",
                "yes" if choice.is_taken(option) else "",
            ]
        )
    columns = ["modules of", "auxiliary", "parameters", "MACs", "expected"]
    console.print_table(
        [*columns, "95 % interval", "chosen"], rows, "accuracy against cost"
    )


def _print_expected(evaluation):
    """Says how good the model will be, and which classes are the problem."""
    from kmod.metrics.evaluate import weak_classes
    from kmod.metrics.evaluate import worst_confusion

    low, high = evaluation.accuracy_interval()
    figure = f"{evaluation.accuracy:.4f}"
    rows = [["accuracy", figure, f"{low:.4f} to {high:.4f}", ""]]
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
