"""`kmod distil`: trains one network to answer as a composed model does."""

import argparse
from pathlib import Path

from kmod.cli import console
from kmod.cli.models import DATA_FORMS
from kmod.cli.models import add_batch_size_argument
from kmod.cli.models import add_seed_argument
from kmod.cli.models import positive_integer
from kmod.errors import UsageError


def add_parser(subparsers) -> None:
    parser = subparsers.add_parser(
        "distil",
        help="train one network to answer as a composed model does",
        description="Composes SPEC, trains a single network, the student, on "
        "its answers to images without labels, saves the student as a "
        "composed model and prints what both cost.",
    )
    parser.add_argument(
        "spec",
        metavar="SPEC",
        help="YAML file, or directory of a composed model",
    )
    parser.add_argument(
        "--data",
        required=True,
        action="append",
        metavar="NAME[:SPLIT]",
        help="images such as the model will see, of all its classes; their "
        "labels are left out. May be given several times. A folder of images "
        "at any depth, an .npz file of images alone, or a data set "
        f"({DATA_FORMS}), of which the images to train on are taken",
    )
    parser.add_argument(
        "--student",
        default="small",
        metavar="NAME",
        help="network to train: small (the default, about as large as one "
        "source), simcnn, rescnn, incecnn, or MODEL.keras with an output for "
        "each class",
    )
    parser.add_argument(
        "--out", required=True, metavar="DIR", help="directory to make"
    )
    parser.add_argument(
        "--test",
        metavar="NAME:SPLIT",
        help="labelled images to measure both on, such as photos:test",
    )
    parser.add_argument(
        "--limit",
        type=positive_integer,
        metavar="N",
        help="how many images of each --data to take, at most (default: all)",
    )
    parser.add_argument(
        "--augment",
        action="store_true",
        help="mirror and move images at random; not for digits or letters",
    )
    parser.add_argument(
        "--epochs",
        type=positive_integer,
        default=20,
        metavar="N",
        help="epochs of training (default: 20)",
    )
    add_batch_size_argument(parser)
    add_seed_argument(parser)
    parser.add_argument(
        "--data-dir", metavar="DIR", help="prepared TensorFlow Datasets"
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
    _check(args)

    from kmod.cli.models import load_test_images
    from kmod.cli.models import load_unlabelled_images
    from kmod.composition.composition_manifest import read_composition_manifest
    from kmod.composition.distillation import composition_of
    from kmod.composition.distillation import distil
    from kmod.composition.saving import save

    model = _composed(args)
    manifest = composition_of(model).manifest
    images = [
        load_unlabelled_images(text, manifest.input, args, args.limit)
        for text in args.data
    ]
    test = load_test_images(args, manifest)
    student = distil(
        model,
        images,
        args.student,
        epochs=args.epochs,
        batch_size=args.batch_size,
        augment=args.augment,
        seed=args.seed,
        verbose=console.training_verbosity(),
    )
    with console.status("measuring"):
        figures = {
            "composition": _figures(model, test),
            "student": _figures(student, test),
        }
    accuracies = {
        name: row["accuracy"]
        for name, row in figures.items()
        if test is not None
    }
    save(
        student,
        args.out,
        metrics=accuracies and {"test accuracy": accuracies},
        overwrite=args.overwrite,
    )
    figures["learned"] = dict(read_composition_manifest(args.out).student)
    if args.json:
        console.print_json(figures)
    else:
        _print(figures, args.out)
    return 0


def _check(args):
    """Refuses what can not be, before Keras is imported."""
    from kmod.cli.models import are_learned_from
    from kmod.cli.models import check_out
    from kmod.cli.models import check_path
    from kmod.composition.composition_manifest import list_composition
    from kmod.data.load import parse_split
    from kmod.data.load import split_name
    from kmod.data.own_images import own_path

    check_out(args.out, args.overwrite, list_composition)
    check_path(args.spec)
    if Path(args.student).suffix == ".keras":
        check_path(args.student)
    named = [split_name(text) for text in args.data]
    for name, _ in named:
        own_path(name, args.data_dir)
    if args.test is None:
        return
    _, test_split = parse_split(args.test)
    for text, (name, split) in zip(args.data, named):
        splits = None if split is None else [split]
        if are_learned_from(args.test, name, splits, args.data_dir):
            other = "train" if test_split != "train" else "validation"
            raise UsageError(
                "A student is measured on images that it did not learn from. "
                f"Received: --data {text} --test {args.test}. Give "
                f"`--data {name}:{other}`."
            )


def _composed(args):
    if Path(args.spec).is_dir():
        from kmod.composition.saving import load

        return load(args.spec)

    from kmod.cli.compose import load_plan
    from kmod.composition.composer import compose_plan

    planned = load_plan(args.spec)
    with console.status("composing"):
        return compose_plan(planned, args.data_dir)


def _figures(model, test):
    from kmod.composition.composition_manifest import total_sizes
    from kmod.metrics.evaluate import evaluate
    from kmod.metrics.latency import measure_latency

    figures = total_sizes([model])
    figures["milliseconds"] = round(1000 * measure_latency(model), 3)
    if test is not None:
        found = evaluate(model, test, model.class_names)
        figures["accuracy"] = found.accuracy
    return figures


def _print(figures, out):
    rows = [
        [
            name,
            *([f"{row['accuracy']:.4f}"] if "accuracy" in row else []),
            f"{row['parameters']:,}",
            f"{row['macs']:,}",
            f"{row['milliseconds']:.2f}",
        ]
        for name, row in figures.items()
        if name != "learned"
    ]
    columns = ["", "accuracy", "parameters", "MACs", "ms for one image"]
    if len(rows[0]) < len(columns):
        columns.remove("accuracy")
    console.print_table(columns, rows)
    learned = figures["learned"]
    console.print_note(
        f"The student ({learned['architecture']}) learned from "
        f"{learned['num_images']:,} images; of {learned['num_held_out']:,} "
        f"others it answers {learned['agreement']:.1%} as the composition."
    )
    console.print_note(f"Saved to '{out}'.")
