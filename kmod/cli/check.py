"""`kmod check`: validates composition specs."""

import argparse
import dataclasses
import itertools
from pathlib import Path
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
    from kmod.spec.faults import InvalidSpecError
    from kmod.spec.loader import load_spec

    found = {"spec": path, "exit_code": 0, "classes": [], "faults": []}
    try:
        spec = load_spec(path)
    except InvalidSpecError as error:
        _show_faults(path, error)
        found["exit_code"] = error.exit_code
        found["faults"] = [dataclasses.asdict(f) for f in error.faults]
    except OSError as error:
        console.print_message(f"{path}: {error.strerror}.")
        found["exit_code"] = _MISSING
    else:
        found["classes"] = list(spec.class_names)
        for warning in spec.warnings:
            console.print_message(warning)
    return found


def _show_faults(path: str, error) -> None:
    if not console.is_interactive():
        console.print_message(str(error))
        return
    text = Path(path).read_bytes().decode("utf-8-sig", errors="replace")
    source = text.split("\n")
    messages = str(error).splitlines()
    shown = error.faults[: len(messages)]
    for message, fault in itertools.zip_longest(messages, shown):
        console.print_message(message, style="bold")
        if fault is not None:
            console.print_message(
                console.point_at(source[fault.line - 1], fault.column),
                style="dim",
            )
