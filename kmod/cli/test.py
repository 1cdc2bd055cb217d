"""`kmod test`: tests what kmod saved."""

import argparse
import dataclasses

from kmod.cli import console
from kmod.errors import CheckError


def add_parser(subparsers) -> None:
    parser = subparsers.add_parser(
        "test",
        help="test that a store or composed model is what its manifest says",
        description="Checks digests, compares every saved form with the "
        "model on real images, and measures the figures in the manifest "
        "again where the data are at hand.",
    )
    parser.add_argument(
        "path", metavar="PATH", help="module store or composed model"
    )
    parser.add_argument(
        "--data-dir", metavar="DIR", help="prepared TensorFlow Datasets"
    )
    parser.add_argument(
        "--json", action="store_true", help="print what was found as JSON"
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    from kmod.cli.models import check_path

    check_path(args.path)

    from kmod.composition.checks import run_tests

    with console.status("testing"):
        results = list(run_tests(args.path, args.data_dir))
    rows = [dataclasses.asdict(result) for result in results]
    if args.json:
        console.print_json(rows)
    else:
        console.print_table(
            ["test", "outcome", "detail"], [row.values() for row in rows]
        )
    failed = [row["test"] for row in rows if row["outcome"] == "failed"]
    if failed:
        console.print_message(
            f"kmod: '{args.path}' failed {len(failed)} of {len(rows)} "
            f"tests: {', '.join(failed)}.",
            style="red",
        )
        return CheckError.exit_code
    return 0
