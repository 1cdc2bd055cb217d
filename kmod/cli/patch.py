"""`kmod patch`: improves the class that a model gets wrong."""

import argparse
from pathlib import Path

from kmod.cli import console
from kmod.errors import UsageError

_SPEC_FILE = "spec.yaml"


def add_parser(subparsers) -> None:
    parser = subparsers.add_parser(
        "patch",
        help="let a module of a better model answer for a weak class",
        description="Fits a patch on SPLIT, saves the patched model with its "
        "spec, and prints what it does on the test images.",
    )
    parser.add_argument("weak", metavar="WEAK.keras", help="model to patch")
    parser.add_argument(
        "--donor",
        required=True,
        action="append",
        dest="donors",
        metavar="STORE",
        help="module store of a better model; one in this version",
    )
    parser.add_argument(
        "--data",
        required=True,
        metavar="NAME:SPLIT",
        help="what the patch is fitted on, such as digits:validation; not "
        "the test split",
    )
    parser.add_argument(
        "--data-dir", metavar="DIR", help="prepared TensorFlow Datasets"
    )
    parser.add_argument(
        "--out", required=True, metavar="DIR", help="directory to make"
    )
    parser.add_argument(
        "--target-class",
        metavar="C",
        help="class to patch (default: the one of lowest F1)",
    )
    parser.add_argument(
        "--combine",
        choices=("calibrated", "minmax", "raw"),
        default="calibrated",
        help="how the two scores become one (default: calibrated)",
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
    from kmod.cli.models import image_contract
    from kmod.cli.models import images_for
    from kmod.cli.models import load_model
    from kmod.data.load import load_data
    from kmod.store.module_store import load_store

    name, split = _check(args)
    weak = load_model(args.weak)
    (donor,) = args.donors
    store = load_store(donor, verify=False)
    data = load_data(name, args.data_dir)
    validation = images_for(weak, data, split)
    weak.class_names = data.class_names
    contract = image_contract(data)
    with console.status("patching"):
        spec = _fit(weak, store, validation, contract, args)
        figures = _build(weak, spec, data, args)
    if args.json:
        console.print_json(figures)
    else:
        _print(figures, args.out)
    return 0


def _check(args):
    from kmod.cli.models import check_out
    from kmod.data.load import parse_split

    if len(args.donors) > 1:
        raise UsageError(
            "This version patches with one donor. Received: "
            f"{len(args.donors)} of them. Give `--donor` once."
        )
    check_out(args.out, args.overwrite)
    name, split = parse_split(args.data)
    if split == "test":
        raise UsageError(
            "A patch is fitted on validation images, because the test images "
            f"measure it. Received: --data {args.data}. Give "
            f"{name}:validation."
        )
    return name, split


def _fit(weak, store, validation, contract, args):
    """Chooses the class, fits the patch and returns the spec."""
    from kmod.composition.adaptation import plan_adaptation
    from kmod.composition.patcher import fit_patch
    from kmod.composition.patcher import patch_spec
    from kmod.composition.patcher import target_index
    from kmod.evaluation.metrics import evaluate
    from kmod.evaluation.weak_classes import weakest_class
    from kmod.spec.model import InputSpec

    names = weak.class_names
    if args.target_class is None:
        target = names[weakest_class(evaluate(weak, validation, names))]
    else:
        target = names[target_index(args.target_class, len(names), names)]
    fitted = fit_patch(
        weak,
        target,
        store[target],
        validation,
        combine=args.combine,
        adaptation=plan_adaptation(contract, store.manifest.input),
    )
    is_same = contract == store.manifest.input
    return patch_spec(
        args.weak,
        names,
        fitted,
        store.path,
        Path(args.out) / _SPEC_FILE,
        None if is_same else InputSpec(contract.shape, contract.range),
    )


def _build(weak, spec, data, args):
    """Composes the spec, measures and saves it; returns the figures."""
    from kmod.composition.composer import compose_plan
    from kmod.composition.patcher import compare_patch
    from kmod.composition.plan import plan
    from kmod.composition.saving import save_composition
    from kmod.evaluation.metrics import evaluate

    planned = plan(spec)
    patched = compose_plan(planned)
    before, after = (
        evaluate(model, data.test, spec.class_names)
        for model in (weak, patched)
    )
    figures = compare_patch(before, after, spec.patches[0].class_name)
    save_composition(
        patched,
        planned,
        args.out,
        metrics={"test": figures},
        overwrite=args.overwrite,
    )
    return figures


def _print(figures, out):
    others = figures["other_classes_accuracy"]
    rows = [
        [name, *(f"{figures[when][key]:.4f}" for when in ("before", "after"))]
        for name, key in (
            ("precision", "precision"),
            ("recall", "recall"),
            ("F1", "f1"),
        )
    ]
    rows.append(
        ["others' accuracy", *(f"{others[w]:.4f}" for w in ("before", "after"))]
    )
    title = f"class {figures['target_class']}, on test images"
    console.print_table(["", "before", "after"], rows, title)
    console.print_message(f"Saved to '{out}'.")
