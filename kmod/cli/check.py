"""`kmod check`: validates composition specs."""

import argparse
import dataclasses
from typing import Any

from kmod.cli import console

_MISSING = 3


def add_parser(subparsers) -> None:
    parser = subparsers.add_parser(
        "check",
        help="validate composition specs without building anything",
        description="Checks each SPEC and prints one line per fault, as "
        "file:line:column: message. Stores and models are not opened.",
    )
    parser.add_argument("specs", nargs="+", metavar="SPEC", help="YAML file")
    parser.add_argument(
        "--json", action="store_true", help="print what was found as JSON"
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    rows = [_check(path) for path in args.specs]
    if args.json:
        console.print_json(rows)
    else:
        for row in rows:
            if row["exit_code"] == 0:
                count = len(row["classes"])
                console.print_data(f"{row['spec']}: ok, {count} classes")
    return max(row["exit_code"] for row in rows)


def _check(path: str) -> dict[str, Any]:
    from kmod.cli.faults import print_faults
    from kmod.spec.faults import InvalidSpecError
    from kmod.spec.spec_file import load_spec

    row = {"spec": path, "exit_code": 0, "classes": [], "faults": []}
    row["warnings"] = []
    try:
        spec = load_spec(path)
    except InvalidSpecError as error:
        print_faults(error)
        row["exit_code"] = error.exit_code
        row["faults"] = [dataclasses.asdict(f) for f in error.faults]
    except OSError as error:
        console.print_message(f"{path}: {error.strerror}.")
        row["exit_code"] = _MISSING
    else:
        row["classes"] = list(spec.class_names)
        row["warnings"] = list(spec.warnings)
        for warning in spec.warnings:
            console.print_message(warning)
    return row
