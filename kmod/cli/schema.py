"""`kmod schema`: prints the JSON Schema of composition specs."""

import argparse

from kmod.cli import console


def add_parser(subparsers) -> None:
    parser = subparsers.add_parser(
        "schema",
        help="print the JSON Schema of composition specs",
        description="Prints the JSON Schema of composition specs, for editors "
        "and other tools.",
    )
    parser.add_argument(
        "--markdown",
        action="store_true",
        help="print tables of all keys, for people",
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    from kmod.spec.reference import reference_markdown
    from kmod.spec.schema import read_schema

    if args.markdown:
        console.print_data(reference_markdown().rstrip("\n"))
    else:
        console.print_json(read_schema())
    return 0
