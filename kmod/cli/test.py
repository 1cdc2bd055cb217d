"""`kmod test`: tests what kmod saved."""

import argparse
import os
from pathlib import Path

from kmod.cli import console
from kmod.errors import UsageError

_XML = '<?xml version="1.0" encoding="utf-8"?>\n'
_JUNIT_START = f'{_XML}<testsuites name="kmod test"'


def add_parser(subparsers) -> None:
    parser = subparsers.add_parser(
        "test",
        help="test that a store or composed model is what its manifest says",
        description="Checks digests, compares every saved form with the "
        "model on real images, and measures what the contract in the manifest "
        "promises, where the data are at hand. Prints a line for each.",
    )
    parser.add_argument(
        "path", metavar="PATH", help="module store or composed model"
    )
    parser.add_argument(
        "--data-dir", metavar="DIR", help="prepared TensorFlow Datasets"
    )
    parser.add_argument(
        "--contract",
        metavar="FILE.yaml",
        help="further checks: `version` and `checks` as in a spec",
    )
    parser.add_argument(
        "--source",
        action="append",
        default=[],
        metavar="SOURCE.keras",
        help="source model that latency is compared with (default: where the "
        "manifest says it is)",
    )
    parser.add_argument(
        "--junit", metavar="FILE.xml", help="write what was found as JUnit XML"
    )
    parser.add_argument(
        "--json", action="store_true", help="print what was found as JSON"
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    from kmod.cli.models import check_path
    from kmod.cli.models import fetched
    from kmod.spec.spec_file import load_checks

    if args.junit is not None:
        _check_junit(Path(args.junit))
    path = fetched(args.path)
    check_path(path)
    for source in args.source:
        check_path(source)
    if args.contract is not None:
        load_checks(args.contract)  # Its mistakes are told at once.

    from kmod.composition.checks import run_tests

    with console.status("testing"):
        results = list(
            run_tests(
                path,
                args.data_dir,
                contract=args.contract,
                sources=args.source,
            )
        )
    rows = [
        {"test": each.test, "outcome": each.outcome, "detail": each.detail}
        for each in results
    ]
    if args.junit is not None:
        _write_junit(rows, Path(args.junit), args.path)
    if args.json:
        console.print_json(rows)
    else:
        console.print_table(
            ["test", "outcome", "detail"], [row.values() for row in rows]
        )
    failed = [row["test"] for row in rows if row["outcome"] == "failed"]
    if not failed:
        return 0
    console.print_message(
        f"kmod: '{args.path}' failed {len(failed)} of {len(rows)} "
        f"tests: {', '.join(failed)}.",
        style="red",
    )
    return min(each.exit_code for each in results if each.exit_code)


def _check_junit(path):
    """Refuses to replace anything but what was written so before."""
    if not os.path.lexists(path):
        return
    start = b""
    if path.is_file():
        with open(path, "rb") as file:
            start = file.read(len(_JUNIT_START))
    if start.decode("utf-8", "replace") != _JUNIT_START:
        raise UsageError(
            "`--junit` replaces only what `kmod test` wrote. Received: "
            f"'{path}', which is something else. Choose another name."
        )


def _write_junit(rows, path, name):
    """Writes results as servers for continuous integration read them."""
    from xml.etree import ElementTree

    from kmod.files import atomic_write

    outcomes = [row["outcome"] for row in rows]
    counts = {
        "tests": len(rows),
        "failures": outcomes.count("failed"),
        "skipped": outcomes.count("skipped"),
        "errors": 0,
    }
    counts = {key: str(count) for key, count in counts.items()}
    suites = ElementTree.Element("testsuites", name="kmod test", **counts)
    suite = ElementTree.SubElement(suites, "testsuite", name=name, **counts)
    for row in rows:
        case = ElementTree.SubElement(
            suite, "testcase", classname=name, name=row["test"]
        )
        detail = "".join(c if c.isprintable() else " " for c in row["detail"])
        if row["outcome"] == "failed":
            ElementTree.SubElement(case, "failure", message=detail)
        elif row["outcome"] == "skipped":
            ElementTree.SubElement(case, "skipped", message=detail)
        else:
            ElementTree.SubElement(case, "system-out").text = detail
    text = ElementTree.tostring(suites, encoding="unicode")
    atomic_write(path, f"{_XML}{text}\n".encode())
