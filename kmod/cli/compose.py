"""`kmod compose`: builds the model that a spec declares."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from kmod.cli import console
from kmod.cli.module_table import calibrated_on

if TYPE_CHECKING:
    from kmod.composition.plan import CompositionPlan

_FORMATS = ("savedmodel", "keras", "litert", "onnx")
_DEFAULT_FORMATS = _FORMATS[:2]
_COLUMNS = (
    *("class", "from", "kernels kept", "kernels", "parameters", "MACs"),
    *("calibrated on", "shift"),
)
_STORE_COLUMNS = ("store", "licence", "adapter", "path")


def add_parser(subparsers) -> None:
    parser = subparsers.add_parser(
        "compose",
        help="build a classifier from modules, as a spec declares it",
        description="Builds the model of SPEC and saves it with its spec, "
        "lock, manifest and model card, if it passes the spec's checks. "
        "--dry-run only reads manifests and prints the plan.",
    )
    parser.add_argument("spec", metavar="SPEC", help="YAML file")
    target = parser.add_mutually_exclusive_group(required=True)
    target.add_argument("--out", metavar="DIR", help="directory to make")
    target.add_argument(
        "--dry-run", action="store_true", help="print the plan, build nothing"
    )
    parser.add_argument(
        "--format",
        nargs="+",
        choices=_FORMATS,
        default=list(_DEFAULT_FORMATS),
        dest="formats",
        help=f"forms to save (default: {' '.join(_DEFAULT_FORMATS)})",
    )
    parser.add_argument(
        "--data-dir",
        metavar="DIR",
        help="prepared TensorFlow Datasets, for the data that SPEC names",
    )
    parser.add_argument(
        "--locked",
        action="store_true",
        help="fail if anything differs from what `kmod lock` wrote",
    )
    parser.add_argument(
        "--overwrite",
        action="store_true",
        help="replace a composed model at DIR",
    )
    parser.add_argument(
        "--json", action="store_true", help="print the figures as JSON"
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    from kmod.composition.composition_manifest import list_composition
    from kmod.composition.lock import check_lock
    from kmod.files import check_output

    if args.out is not None:
        check_output(args.out, args.overwrite, list_composition)
    planned = load_plan(args.spec)
    if args.locked:
        check_lock(planned)
    figures = planned.as_dict()
    if not args.dry_run:
        figures["composed"] = _build(planned, args)
    if args.json:
        console.print_json(figures)
    else:
        _print(figures, args.out)
    return 0


def load_plan(path: str) -> CompositionPlan:
    """Loads a spec and plans it, printing its warnings.

    Raises:
        SpecError: If the spec is not valid.
        ArtifactError: If what it names is missing or does not fit.
    """
    from kmod.composition.plan import plan
    from kmod.spec.spec_file import load_spec

    spec = load_spec(path)
    for warning in spec.warnings:
        console.print_message(warning)
    planned = plan(spec)
    for warning in planned.warnings:
        console.print_message(warning)
    return planned


def _build(planned, args):
    from kmod.composition.composer import compose_plan
    from kmod.composition.composition_manifest import read_composition_manifest
    from kmod.composition.saving import save

    with console.status("composing"):
        model = compose_plan(planned, args.data_dir)
        save(model, args.out, formats=args.formats, overwrite=args.overwrite)
    manifest = read_composition_manifest(args.out)
    return {**manifest.sizes, "checks": manifest.metrics.get("checks", [])}


def _print(figures, out):
    from kmod.composition.composition_manifest import CHECK_COLUMNS
    from kmod.composition.composition_manifest import check_row
    from kmod.composition.plan import prior_in_words

    rows = [
        [
            row["class"],
            f"{row['store']}: {row['module']}",
            f"{row['retention_rate']:.1%}",
            *_counts(row),
            *_calibration(row),
        ]
        for row in figures["classes"]
    ]
    rows.append(["all modules", "", "", *_counts(figures["total"])])
    rows.append(["estimate", "", "", "", *_counts(figures["estimate"])])
    if "composed" in figures:
        rows.append(["composed", "", "", "", *_counts(figures["composed"])])
    width = max(map(len, rows))
    rows = [[*row, *[""] * (width - len(row))] for row in rows]
    console.print_table(_COLUMNS[:width], rows)
    if figures["prior"] is not None:
        words = prior_in_words(figures["prior"])
        console.print_note(f"Scores take classes to be {words}.")
    if figures["routed"]:
        console.print_note("Familiarity tells which source an image is of.")
    console.print_table(_STORE_COLUMNS, _stores(figures))
    if "composed" in figures and figures["composed"]["checks"]:
        rows = map(check_row, figures["composed"]["checks"])
        console.print_table(CHECK_COLUMNS, rows)
    if out is not None:
        console.print_note(f"Saved to '{out}'.")


def _counts(row):
    keys = ("kernels", "parameters", "macs")
    return [f"{row[key]:,}" for key in keys if key in row]


def _calibration(row):
    """How many images a score rests on, and what `prior` adds to it."""
    if row["calibrated_on"] is None:
        return []
    return [calibrated_on(row["calibrated_on"]), f"{row['shift']:+.2f}"]


def _stores(figures):
    return [
        [
            name,
            store["license"] or "none",
            ", ".join(store["adapter"]) or "none",
            store["path"],
        ]
        for name, store in figures["stores"].items()
    ]
