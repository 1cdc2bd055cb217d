"""`kmod modularize`: takes a model apart into a module store."""

import argparse
import dataclasses
from pathlib import Path

from kmod.cli import console
from kmod.cli.module_table import print_store

# The options that belong to one method; all others belong to both.
OPTIONS_OF = {
    "gradsplitter": ("recipe", "epochs", "macs_target"),
    "cnnsplitter": (
        "population",
        "generations",
        "patience",
        "images",
        "head_epochs",
        "figures",
    ),
}


def add_parser(subparsers) -> None:
    parser = subparsers.add_parser(
        "modularize",
        help="take a trained model apart into one module per class",
        description="Searches for each class's kernels, cuts the modules out "
        "and saves them as a store. What a run has reached is kept in the "
        "directory .STORE.run beside the store until that is saved; a run "
        "that was cut short goes on with --resume and ends as if it had not "
        "been.",
    )
    parser.add_argument("source", metavar="SOURCE.keras", help="trained model")
    parser.add_argument("--data", required=True, metavar="NAME")
    parser.add_argument(
        "--data-dir", metavar="DIR", help="prepared TensorFlow Datasets"
    )
    parser.add_argument("--out", required=True, metavar="STORE")
    parser.add_argument(
        "--method",
        choices=OPTIONS_OF,
        default="gradsplitter",
        help="how masks are found: by gradient or by genetic search (default: "
        "gradsplitter)",
    )
    parser.add_argument("--batch-size", type=int, default=64, metavar="N")
    parser.add_argument(
        "--retention-target",
        type=float,
        metavar="R",
        help="share of kernels to come down to, not with --recipe paper",
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
        "--resume",
        action="store_true",
        help="go on with a run cut short, which needs the same source, data "
        "and options; without one, a new run begins",
    )
    parser.add_argument("--json", action="store_true")
    _add_gradsplitter(parser.add_argument_group("gradsplitter"))
    _add_cnnsplitter(parser.add_argument_group("cnnsplitter"))
    parser.set_defaults(run=run)


def _add_gradsplitter(group):
    group.add_argument("--recipe", choices=("default", "paper"))
    group.add_argument("--epochs", type=int, metavar="N")
    group.add_argument(
        "--macs-target",
        type=float,
        metavar="M",
        help="limit of what all modules composed may cost, as a multiple of "
        "the source model's multiply-accumulates; with --retention-target 1 "
        "the only limit",
    )


def _add_cnnsplitter(group):
    group.add_argument(
        "--population", type=int, metavar="N", help="individuals of each class"
    )
    group.add_argument("--generations", type=int, metavar="N")
    group.add_argument(
        "--patience",
        type=int,
        metavar="N",
        help="generations without a better choice before the search stops",
    )
    group.add_argument(
        "--images",
        type=int,
        metavar="N",
        help="validation images that fitness is measured on",
    )
    group.add_argument(
        "--head-epochs",
        type=int,
        metavar="N",
        help="epochs that train heads, scales and shifts afterwards",
    )
    group.add_argument(
        "--figures", metavar="DIR", help="draw what was measured, needs viz"
    )


def run(args: argparse.Namespace) -> int:
    from kmod.cli.models import check_out
    from kmod.cli.models import load_model
    from kmod.data.load import load_data
    from kmod.files.run_directory import discard_run
    from kmod.files.run_directory import run_digest
    from kmod.modules.decompose import decompose
    from kmod.modules.module_store import list_store

    _check_options(args)
    out = Path(args.out)
    run_directory = out.parent / f".{out.name}.run"
    begun = run_digest(run_directory) if args.resume else None
    # A run that was cut short behind its store writes the same once more.
    is_written = begun is not None and _run_of(out) == begun
    overwrite = args.overwrite or is_written
    out = check_out(out, overwrite, list_store)
    if args.resume and begun is None:
        console.print_message(
            f"kmod: '{run_directory}' has no run to go on with, a new one "
            "begins."
        )
    source = load_model(args.source)
    data = load_data(args.data, args.data_dir)
    by_method = _train_masks if args.method == "gradsplitter" else _search
    modular, arguments = by_method(
        args,
        source,
        (data.train.images, data.train.labels),
        (data.validation.images, data.validation.labels),
        class_names=data.class_names,
        mask_from=args.mask_from,
        batch_size=args.batch_size,
        value_range=data.value_range,
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
        data_source={
            "name": data.name,
            "version": data.version,
            "split": "validation",
        },
        method=args.method,
        arguments={**arguments, "run": run_digest(run_directory)},
        license=args.license,
        overwrite=overwrite,
    )
    discard_run(run_directory)
    print_store(store, args.json)
    return 0


def _run_of(out):
    """Returns the digest of the run that wrote a store, if there is one."""
    from kmod.errors import ArtifactError
    from kmod.modules.module_store import load_store

    try:
        return load_store(out, verify=False).manifest.arguments.get("run")
    except ArtifactError:
        return None


def _check_options(args):
    from kmod.errors import UsageError

    for method, names in OPTIONS_OF.items():
        given = [name for name in names if getattr(args, name) is not None]
        if given and args.method != method:
            raise UsageError(
                f"`--{given[0].replace('_', '-')}` belongs to `--method "
                f"{method}`. Received: --method {args.method}. Leave one of "
                "them out."
            )


def _train_masks(args, source, train, validation, **options):
    from kmod.modular.gradsplitter import modularize

    modular = modularize(
        source,
        train,
        validation,
        recipe=args.recipe or "default",
        retention_target=args.retention_target,
        macs_target=args.macs_target,
        epochs=args.epochs,
        **options,
    )
    return modular, {}


def _search(args, source, train, validation, **options):
    from kmod.modular.cnnsplitter import SearchOptions
    from kmod.modular.cnnsplitter import modularize_by_search

    names = [field.name for field in dataclasses.fields(SearchOptions)]
    given = {name: getattr(args, name, None) for name in names}
    search = SearchOptions(
        **{name: value for name, value in given.items() if value is not None}
    )
    heads = {}
    if args.head_epochs is not None:
        heads["head_epochs"] = args.head_epochs
    modular = modularize_by_search(
        source,
        train,
        validation,
        options=search,
        figures=args.figures,
        **heads,
        **options,
    )
    return modular, {"search": search.as_dict(), **heads}
