"""`kmod refine`: trains cut modules a little more, together."""

import argparse

from kmod.cli import console
from kmod.cli.models import add_batch_size_argument
from kmod.cli.models import add_data_arguments
from kmod.cli.models import add_output_argument
from kmod.cli.models import add_seed_argument
from kmod.cli.models import positive_integer
from kmod.cli.module_table import print_store
from kmod.cli.negatives import add_negatives_argument


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
    add_data_arguments(parser, "images to train and validate on", split=False)
    add_negatives_argument(parser)
    parser.add_argument(
        "--out", required=True, metavar="STORE", help="directory to make"
    )
    add_output_argument(parser, "SOURCE.keras")
    parser.add_argument(
        "--epochs",
        type=positive_integer,
        default=4,
        metavar="N",
        help="epochs of training (default: 4)",
    )
    add_batch_size_argument(parser)
    add_seed_argument(parser)
    parser.add_argument(
        "--overwrite", action="store_true", help="replace a store at --out"
    )
    parser.add_argument(
        "--json", action="store_true", help="print the figures as JSON"
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    from kmod.cli.models import check_out
    from kmod.cli.models import check_path
    from kmod.cli.models import load_images
    from kmod.cli.models import load_model
    from kmod.cli.negatives import load_negatives
    from kmod.data.load import select_classes
    from kmod.data.own_images import own_path
    from kmod.modules.module_store import list_store
    from kmod.modules.module_store import load_store

    out = check_out(args.out, args.overwrite, list_store)
    own_path(args.data, args.data_dir)
    check_path(args.source, takes_calls=True)
    modules = load_store(args.store)

    from kmod.export.write import check_backend
    from kmod.modules.refine import refine

    check_backend()
    shape = modules.manifest.input.shape
    data = load_images(args.data, args, shape, ["train", "validation"])
    class_names = modules.manifest.class_names
    if args.classes is None and set(class_names) <= set(data.class_names):
        data = select_classes(data, class_names)
    store = refine(
        modules,
        out,
        load_model(args.source, args.output),
        (data.train.images, data.train.labels),
        (data.validation.images, data.validation.labels),
        negatives=load_negatives(args, modules.manifest.input),
        epochs=args.epochs,
        batch_size=args.batch_size,
        seed=args.seed,
        verbose=console.training_verbosity(),
        overwrite=args.overwrite,
    )
    print_store(store, args.json)
    return 0
