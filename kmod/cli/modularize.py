"""`kmod modularize`: takes a model apart into a module store."""

import argparse
import dataclasses
import shutil
from pathlib import Path

from kmod.cli import console
from kmod.cli.module_table import print_store


def add_parser(subparsers) -> None:
    parser = subparsers.add_parser(
        "modularize",
        help="take a trained model apart into one module per class",
        description="Searches for each class's kernels, cuts the modules out "
        "and saves them as a store. A run that was cut short goes on with "
        "--resume.",
    )
    parser.add_argument("source", metavar="SOURCE.keras", help="trained model")
    parser.add_argument("--data", required=True, metavar="NAME")
    parser.add_argument(
        "--data-dir", metavar="DIR", help="prepared TensorFlow Datasets"
    )
    parser.add_argument("--out", required=True, metavar="STORE")
    parser.add_argument(
        "--method",
        choices=("gradsplitter",),
        default="gradsplitter",
        help="how masks are found (default: gradsplitter)",
    )
    parser.add_argument(
        "--recipe", choices=("default", "paper"), default="default"
    )
    parser.add_argument("--epochs", type=int, metavar="N")
    parser.add_argument("--batch-size", type=int, default=64, metavar="N")
    parser.add_argument(
        "--retention-target",
        type=float,
        metavar="R",
        help="share of kernels to come down to, default recipe only",
    )
    parser.add_argument(
        "--mask-from",
        metavar="LAYER",
        help="first layer whose kernels may go; `kmod inspect` lists them",
    )
    parser.add_argument("--seed", type=int, default=0, metavar="N")
    parser.add_argument(
        "--license", metavar="SPDX", help="licence of the modules"
    )
    parser.add_argument(
        "--overwrite", action="store_true", help="replace a store at STORE"
    )
    parser.add_argument(
        "--resume", action="store_true", help="go on with a run cut short"
    )
    parser.add_argument("--json", action="store_true")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    from kmod.cli.models import check_out
    from kmod.cli.models import load_model
    from kmod.data.load import load_data
    from kmod.store.decompose import decompose
    from kmod.training.gradsplitter import modularize

    out = check_out(args.out, args.overwrite)
    source = load_model(args.source)
    data = load_data(args.data, args.data_dir)
    run_directory = out.with_name(f".{out.name}.run")
    modular = modularize(
        source,
        (data.train.images, data.train.labels),
        (data.validation.images, data.validation.labels),
        class_names=data.class_names,
        recipe=_recipe(args),
        mask_from=args.mask_from,
        epochs=args.epochs,
        batch_size=args.batch_size,
        seed=args.seed,
        run_directory=run_directory,
        resume=args.resume,
        verbose="auto" if console.is_interactive() else 0,
    )
    store = decompose(
        modular,
        out,
        data=(data.validation.images, data.validation.labels),
        source_name=Path(args.source).stem,
        value_range=data.value_range,
        facts={
            "name": data.name,
            "version": data.version,
            "split": "validation",
        },
        license=args.license,
        overwrite=args.overwrite,
    )
    shutil.rmtree(run_directory)
    print_store(store, args.json)
    return 0


def _recipe(args):
    from kmod.errors import UsageError
    from kmod.masks.recipe import recipe_of

    recipe = recipe_of(args.recipe)
    if args.retention_target is None:
        return recipe
    if recipe.retention_target is None:
        raise UsageError(
            "`--retention-target` belongs to the default recipe. Received: "
            f"--recipe {args.recipe}. Leave one of them out."
        )
    return dataclasses.replace(recipe, retention_target=args.retention_target)
