"""`kmod dependence`: how the classes of a store depend on each other."""

import argparse
import math

from kmod.cli import console
from kmod.cli.models import add_data_arguments


def add_parser(subparsers) -> None:
    parser = subparsers.add_parser(
        "dependence",
        help="say how the classes of a store depend on each other",
        description="Prints how much the modules of STORE overlap, what the "
        "others lose without each, what it is expected to cost to exchange "
        "one for a module of another model, and so which can be replaced "
        "alone and which had better move together.",
    )
    parser.add_argument("store", metavar="STORE", help="module store")
    add_data_arguments(
        parser,
        "images that no module learned from; without a split, its validation "
        "images",
    )
    parser.add_argument(
        "--limit",
        type=_limit,
        default=0.002,
        metavar="LOSS",
        help="accuracy on all images that a safe exchange may cost, 0 to 1 "
        "(default: 0.002)",
    )
    parser.add_argument(
        "--out", metavar="FILE", help="write all figures as YAML to this file"
    )
    parser.add_argument(
        "--overwrite",
        action="store_true",
        help="replace what kmod wrote at FILE and nobody changed",
    )
    parser.add_argument(
        "--json", action="store_true", help="print all figures as JSON"
    )
    parser.set_defaults(run=run)


def _limit(text):
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(
            f"must be a number from 0 to 1. Received: {text!r}"
        )
    return value


def run(args: argparse.Namespace) -> int:
    from kmod.cli.models import check_path
    from kmod.cli.models import fetched
    from kmod.cli.models import load_images
    from kmod.data.load import split_name
    from kmod.data.own_images import own_path
    from kmod.files import atomic_write
    from kmod.files import check_output_file
    from kmod.files import seal
    from kmod.files.plain_yaml import to_yaml
    from kmod.modules.module_store import load_store

    if args.out is not None:
        check_output_file(args.out, args.overwrite)
    name, split = split_name(args.data)
    own_path(name, args.data_dir)
    path = fetched(args.store)
    check_path(path)
    store = load_store(path)

    from kmod.analysis.dependence import check_store
    from kmod.analysis.dependence import dependence

    check_store(store, args.limit)
    split = split or "validation"
    shape = store.manifest.input.shape
    images = load_images(name, args, shape, [split])
    found = dependence(
        store,
        images,
        split=split,
        limit=args.limit,
        track=lambda names: console.track(names, "measuring"),
    )
    if args.out is not None:
        atomic_write(args.out, seal(to_yaml(found.as_dict())))
    if args.json:
        console.print_json(found.as_dict())
    else:
        _print(found)
    if args.out is not None:
        console.print_message(f"Wrote '{args.out}'.")
    return 0


def _print(found):
    figures = found.as_dict()
    rows = []
    for name, own in figures["classes"].items():
        cohesion, exchange = own["cohesion"], own["exchange"]
        losses = own["left_out"], exchange["accuracy"], exchange["f1"]
        rows.append(
            [
                name,
                "–" if cohesion is None else f"{cohesion:.2f}",
                f"{own['coupling']:.2f}",
                own["own_kernels"],
                *(f"{round(-100 * loss, 2) + 0.0:.2f}" for loss in losses),
                f"{100 * exchange['broken']:.2f}",
                ", ".join(own["move_with"]) or "alone",
            ]
        )
    columns = ["class", "cohesion", "coupling", "own kernels"]
    columns += ["others without", "exchanged", "own F1", "broken"]
    console.print_table(
        [*columns, "replace with"],
        rows,
        f"{figures['images']:,} images, accuracy {figures['accuracy']:.4f}",
    )
    console.print_message(
        "In points: what others gain without the module, and what all images "
        "and the F1 of its class are expected to gain if it is exchanged for "
        "one of another model that is as good. Broken: right answers that "
        "then become wrong, in percent of all images."
    )
