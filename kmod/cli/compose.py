"""`kmod compose`: builds the model that a spec declares."""

from __future__ import annotations

import argparse
import dataclasses
from typing import TYPE_CHECKING

from kmod.cli import console
from kmod.cli.models import check_out
from kmod.cli.models import positive_integer
from kmod.cli.models import seed
from kmod.cli.module_table import calibrated_on
from kmod.cli.ways import measured_way
from kmod.cli.ways import recorded_way
from kmod.errors import UsageError

if TYPE_CHECKING:
    from kmod.composition.plan import CompositionPlan

_FORMATS = ("savedmodel", "keras", "litert", "onnx")
_DEFAULT_FORMATS = _FORMATS[:2]
_COLUMNS = (
    *("class", "from", "kernels kept", "kernels", "parameters", "MACs"),
    *("calibrated on", "shift"),
)
_WAY_COLUMNS = (
    *("way", "parameters", "MACs", "ms", "labelled images"),
    *("accuracy", "95 % interval"),
)
_STORE_COLUMNS = ("store", "licence", "adapter", "path")


def add_parser(subparsers) -> None:
    parser = subparsers.add_parser(
        "compose",
        help="build a classifier from modules, as a spec declares it",
        description="Builds the model of SPEC and saves it with its spec, "
        "lock, manifest and model card, if it passes the spec's checks. "
        "--slim makes it smaller first, by what images such as it will see "
        "need; the checks are then the slim model's. "
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
        dest="formats",
        help=f"forms to save (default: {' '.join(_DEFAULT_FORMATS)})",
    )
    parser.add_argument(
        "--data-dir",
        metavar="DIR",
        help="prepared TensorFlow Datasets, for the data that are named",
    )
    slimming = parser.add_argument_group("slimming")
    slimming.add_argument(
        "--slim",
        dest="macs_target",
        type=float,
        metavar="R",
        help="multiply-accumulates to come down to, as a multiple of the "
        "composed model's, such as 0.5 (default: as it is composed)",
    )
    slimming.add_argument(
        "--data",
        metavar="NAME",
        help="images such as the model will see, of the classes of SPEC or of "
        "its modules if they name any; labels of the classes of SPEC are "
        "learned as well: a data set, folder or file",
    )
    slimming.add_argument(
        "--unlabelled",
        action="store_true",
        help="--data are images alone, a folder of them at any depth or an "
        ".npz file",
    )
    slimming.add_argument(
        "--epochs",
        type=positive_integer,
        metavar="N",
        help="epochs of training (default: 20, or as many as show 100,000 "
        "images, up to 100)",
    )
    slimming.add_argument(
        "--augment",
        action="store_true",
        help="mirror and move images at random; not for digits or letters",
    )
    slimming.add_argument(
        "--seed",
        type=seed,
        metavar="N",
        help="seed of all that is drawn (default: 0)",
    )
    parser.add_argument(
        "--test",
        metavar="NAME:SPLIT",
        help="labelled images to measure the model on, beside what needs no "
        "composition, such as photos:test",
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

    _check_options(args)
    if args.out is not None:
        check_out(args.out, args.overwrite, list_composition)
    _check_slimming(args)
    planned = load_plan(args.spec)
    _check_test(args, planned.spec)
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


def _check_options(args):
    """Refuses options that would change nothing."""
    building = {
        "--slim": args.macs_target is not None,
        "--format": args.formats is not None,
        "--test": args.test is not None,
    }
    slimming = {
        "--unlabelled": args.unlabelled,
        "--epochs": args.epochs is not None,
        "--augment": args.augment,
        "--seed": args.seed is not None,
    }
    for option, is_given in building.items():
        if is_given and args.dry_run:
            raise UsageError(
                f"`{option}` is for the model, which `--dry-run` does not "
                f"build. Received: {option} with --dry-run. Leave one of them "
                "out."
            )
    for option, is_given in slimming.items():
        if is_given and args.macs_target is None:
            raise UsageError(
                f"`{option}` says how `--slim` makes the model smaller. "
                f"Received: {option} without --slim. Leave it out, or give "
                "`--slim` as well."
            )


def _check_slimming(args):
    """Refuses what can not be, before anything is composed."""
    from kmod.data.own_images import own_path

    if (args.macs_target is None) != (args.data is None):
        raise UsageError(
            "`--slim` and `--data` go together: a model is made smaller by "
            "images such as it will see. Give both, or neither."
        )
    if args.macs_target is None:
        return
    if not 0 < args.macs_target < 1:
        raise UsageError(
            "`--slim` must be above 0 and below 1, a multiple of what the "
            f"composed model costs. Received: --slim {args.macs_target:g}. "
            "Give 0.5 for half of it."
        )
    own_path(args.data, args.data_dir)


def _check_test(args, spec):
    """Refuses what can not be measured, before anything is composed."""
    from kmod.cli.models import are_learned_from
    from kmod.data.load import parse_split
    from kmod.data.own_images import own_path
    from kmod.spec.model import DataRef

    if args.test is None:
        return
    if spec.base is not None:
        raise UsageError(
            "`--test` compares a composition of modules. Received: "
            f"'{args.spec}', which patches a model. `kmod patch` compares "
            "patches, `kmod evaluate` measures any model."
        )
    name, split = parse_split(args.test)
    path = own_path(name, args.data_dir)
    data = DataRef(path.resolve() if path else name, split)
    if data in spec.scores.data:
        raise UsageError(
            "A composition is measured on images that it is not fitted on. "
            f"Received: --test {args.test}, which '{args.spec}' names in "
            "`scores.data`. Give another split."
        )
    splits = None if args.unlabelled else ("train",)
    if args.data is not None and are_learned_from(
        args.test, args.data, splits, args.data_dir
    ):
        raise UsageError(
            "A slim model is measured on images that it did not learn from. "
            f"Received: --data {args.data} --test {args.test}. Give the test "
            "images of a data set with splits."
        )


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
    with console.status("opening stores"):
        planned = plan(spec)
    for warning in planned.warnings:
        console.print_message(warning)
    return planned


def _build(planned, args):
    from kmod.cli.models import load_test_images
    from kmod.composition.composer import compose_plan
    from kmod.composition.composer import manifest_of
    from kmod.composition.composition_manifest import read_composition_manifest
    from kmod.composition.saving import save

    test = load_test_images(args, manifest_of(planned))
    with console.status("composing"):
        model = compose_plan(planned, args.data_dir)
    if args.macs_target is not None:
        model = _slimmed(model, planned, args)
    ways = []
    if test is not None:
        with console.status("measuring"):
            ways = _ways(model, planned, test, args.data_dir)
    with console.status("saving"):
        save(
            model,
            args.out,
            formats=args.formats or _DEFAULT_FORMATS,
            metrics={"ways": list(map(recorded_way, ways))} if ways else {},
            overwrite=args.overwrite,
        )
    manifest = read_composition_manifest(args.out)
    figures = {
        **manifest.sizes,
        "checks": manifest.metrics.get("checks", []),
    }
    if ways:
        figures["ways"] = ways
    if manifest.slimmed:
        figures["slimmed"] = dict(manifest.slimmed)
    return figures


def _ways(model, planned, test, data_dir):
    """Measures the model and what needs no composition on test images."""
    from kmod.composition.composer import images_to_fit_on
    from kmod.metrics.evaluate import evaluate
    from kmod.selection.plain_ways import ways_beside

    slimmed = model.composition.manifest.slimmed or {}
    images, num_labelled = None, slimmed.get("num_labelled", 0)
    if planned.spec.scores.is_fitted:
        images = images_to_fit_on(planned, data_dir)
        num_labelled += len(images)
        images = _of_classes(images, planned)
    # What needs no composition knows no other class.
    test = _of_classes(test, planned)
    found = evaluate(model, test, model.class_names)
    rows = [_way("composed", model, found, num_labelled)]
    rows += [
        _way(way.name, way.laid_out, evaluation, way.num_labelled)
        for way, evaluation in ways_beside(planned, images, test)
    ]
    return rows


def _of_classes(images, planned):
    return images.take(images.labels < len(planned.classes))


def _way(name, model, found, num_labelled):
    return measured_way(
        *(name, model, num_labelled),
        accuracy=found.accuracy,
        accuracy_interval=list(found.accuracy_interval()),
    )


def _slimmed(model, planned, args):
    """Makes a model smaller, and checks it again."""
    from kmod.composition.checks import run_checks
    from kmod.slimming.slim import slim

    small = slim(
        model,
        _images(model.composition.manifest, args),
        macs_target=args.macs_target,
        epochs=args.epochs,
        augment=args.augment,
        seed=args.seed or 0,
        verbose=console.training_verbosity(),
    )
    checks = run_checks(small, planned, args.data_dir)
    if checks:
        composition = small.composition
        metrics = {"checks": [check.as_dict() for check in checks]}
        manifest = dataclasses.replace(composition.manifest, metrics=metrics)
        small.composition = dataclasses.replace(composition, manifest=manifest)
    return small


def _images(manifest, args):
    """Loads images to learn from."""
    from kmod.cli.models import load_unlabelled_images
    from kmod.data.load import load_data
    from kmod.data.own_images import file_options

    if args.unlabelled:
        return load_unlabelled_images(args.data, manifest.input, args)
    options = file_options(args.data, manifest.input.shape, args.data_dir)
    return load_data(args.data, args.data_dir, splits=["train"], **options)


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
    if "ways" in figures.get("composed", {}):
        console.print_table(
            _WAY_COLUMNS,
            [
                [
                    way["name"],
                    *(f"{way[key]:,}" for key in ("parameters", "macs")),
                    f"{way['milliseconds']:.1f}",
                    f"{way['num_labelled']:,}",
                    f"{way['accuracy']:.4f}",
                    "{:.4f} to {:.4f}".format(*way["accuracy_interval"]),
                ]
                for way in figures["composed"]["ways"]
            ],
            "the composition and what needs none, on test images",
        )
    if slimmed := figures.get("composed", {}).get("slimmed"):
        console.print_note(
            f"It was slimmed, from {slimmed['before']['macs']:,} MACs and "
            f"{slimmed['before']['parameters']:,} parameters; of "
            f"{slimmed['num_held_out']:,} images that it did not learn from "
            f"it answers {slimmed['agreement']:.1%} as before."
        )
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
