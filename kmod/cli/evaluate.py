"""`kmod evaluate`: measures a classifier on a data set."""

import argparse
from pathlib import Path

from kmod.cli import console
from kmod.cli.models import add_data_arguments


def add_parser(subparsers) -> None:
    parser = subparsers.add_parser(
        "evaluate",
        help="measure a classifier, overall and class by class",
        description="Prints accuracy, precision, recall and F1 of MODEL, and "
        "what each class is confused with most. A composed model is measured "
        "on the images of its own classes, which are found by their names and "
        "adapted to what the model takes.",
    )
    parser.add_argument(
        "model",
        metavar="MODEL",
        help=".keras file, or directory of a composed model",
    )
    add_data_arguments(
        parser, "data set and its split, such as digits:test or photos:test"
    )
    parser.add_argument(
        "--output",
        metavar="NAME",
        help="output of the model to take, where it has several",
    )
    parser.add_argument(
        "--json", action="store_true", help="print the figures as JSON"
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    from kmod.cli.models import check_path
    from kmod.cli.models import image_shape
    from kmod.cli.models import images_for
    from kmod.cli.models import load_classifier
    from kmod.cli.models import load_images
    from kmod.composition.composition_manifest import read_composition_manifest
    from kmod.data.load import parse_split
    from kmod.data.own_images import own_path

    name, split = parse_split(args.data)
    own_path(name, args.data_dir)
    check_path(args.model, takes_calls=True)

    from kmod.composition.labelled_images import reader_of_manifest
    from kmod.metrics.evaluate import confusions
    from kmod.metrics.evaluate import evaluate

    model = load_classifier(args.model, args.output)
    if Path(args.model).is_dir():
        manifest = read_composition_manifest(args.model)
        data = load_images(name, args, manifest.input.shape, [split])
        images = reader_of_manifest(manifest).read(data, split)
        class_names = manifest.class_names
    else:
        data = load_images(name, args, image_shape(model), [split])
        images = images_for(model, data, split)
        class_names = data.class_names
    evaluation = evaluate(model, images, class_names)
    _warn_of_guesses(evaluation, Path(args.model).name)
    if args.json:
        found = {"confusions": confusions(evaluation)}
        console.print_json(evaluation.as_dict() | found)
    else:
        _print(evaluation)
    return 0


def _warn_of_guesses(evaluation, name):
    """Says what may be wrong with data on which a model only guesses."""
    import numpy as np

    from kmod.errors import ArtifactError
    from kmod.metrics.chance import check_above_chance

    counts = evaluation.confusion
    labels, predictions = (
        np.repeat(index.ravel(), counts.ravel())
        for index in np.indices(counts.shape)
    )
    try:
        check_above_chance(predictions, labels, repr(name))
    except ArtifactError as error:
        console.print_message(f"kmod: {error}")


def _print(evaluation):
    from kmod.metrics.evaluate import worst_confusion

    figures = evaluation.as_dict()
    console.print_table(
        ["class", "precision", "recall", "F1", "images", "confused most"],
        [
            [
                name,
                *(
                    "" if row[figure] is None else f"{row[figure]:.4f}"
                    for figure in ("precision", "recall", "f1")
                ),
                row["support"],
                worst_confusion(evaluation, name),
            ]
            for name, row in figures["classes"].items()
        ],
    )
    console.print_data(f"accuracy {evaluation.accuracy:.4f}")
