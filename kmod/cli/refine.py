"""`kmod refine`: trains cut modules a little more, together."""

import argparse

from kmod.cli import console
from kmod.cli.module_table import print_store


def add_parser(subparsers) -> None:
    parser = subparsers.add_parser(
        "refine",
        help="train the modules of a store together, after they are cut",
        description="Trains all modules of STORE for a few epochs with their "
        "source model as teacher and saves them as a new store. The stem that "
        "they share stays as it is.",
    )
    parser.add_argument("store", metavar="STORE", help="module store")
    parser.add_argument("source", metavar="SOURCE.keras", help="its source")
    parser.add_argument("--data", required=True, metavar="NAME")
    parser.add_argument(
        "--data-dir", metavar="DIR", help="prepared TensorFlow Datasets"
    )
    parser.add_argument("--out", required=True, metavar="STORE")
    parser.add_argument("--epochs", type=int, default=4, metavar="N")
    parser.add_argument("--batch-size", type=int, default=64, metavar="N")
    parser.add_argument("--seed", type=int, default=0, metavar="N")
    parser.add_argument(
        "--overwrite", action="store_true", help="replace a store at --out"
    )
    parser.add_argument("--json", action="store_true")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    from kmod.cli.models import check_out
    from kmod.cli.models import load_model
    from kmod.data.load import load_data
    from kmod.modules.module_store import list_store
    from kmod.modules.module_store import load_store
    from kmod.modules.refine import refine

    out = check_out(args.out, args.overwrite, list_store)
    data = load_data(args.data, args.data_dir)
    store = refine(
        load_store(args.store),
        out,
        load_model(args.source),
        (data.train.images, data.train.labels),
        (data.validation.images, data.validation.labels),
        epochs=args.epochs,
        batch_size=args.batch_size,
        seed=args.seed,
        verbose="auto" if console.is_interactive() else 0,
        overwrite=args.overwrite,
    )
    print_store(store, args.json)
    return 0
