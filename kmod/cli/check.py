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
        "--json", action="store_true", help="print the findings as JSON"
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    findings = [_check(path) for path in args.specs]
    if args.json:
        console.print_json(findings)
    else:
        for found in findings:
            if found["exit_code"] == 0:
                count = len(found["classes"])
                console.print_data(f"{found['spec']}: ok, {count} classes")
    return max(found["exit_code"] for found in findings)


def _check(path: str) -> dict[str, Any]:
    from kmod.cli.faults import print_faults
    from kmod.spec.faults import InvalidSpecError
    from kmod.spec.loader import load_spec

    found = {"spec": path, "exit_code": 0, "classes": [], "faults": []}
    found["warnings"] = []
    try:
        spec = load_spec(path)
    except InvalidSpecError as error:
        print_faults(error)
        found["exit_code"] = error.exit_code
        found["faults"] = [dataclasses.asdict(f) for f in error.faults]
    except OSError as error:
        console.print_message(f"{path}: {error.strerror}.")
        found["exit_code"] = _MISSING
    else:
        found["classes"] = list(spec.class_names)
        found["warnings"] = list(spec.warnings)
        for warning in spec.warnings:
            console.print_message(warning)
    return found
