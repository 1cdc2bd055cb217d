"""`kmod evaluate`: measures a classifier on a data set."""

import argparse
from pathlib import Path

from kmod.cli import console
from kmod.cli.models import add_data_arguments
from kmod.cli.models import add_output_argument

MOST_UNSEEN = 10_000  # Of each data set; more tell nothing new.


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
    add_output_argument(parser, "the model")
    parser.add_argument(
        "--unseen",
        action="append",
        default=[],
        metavar="DATA",
        help="images of none of the model's classes, a folder or a data set; "
        "prints how well the model tells them from its own (AUROC). May be "
        "given several times",
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
    from kmod.cli.models import load_unlabelled_images
    from kmod.data.load import parse_split
    from kmod.data.own_images import own_path

    name, split = parse_split(args.data)
    own_path(name, args.data_dir)
    check_path(args.model, takes_calls=True)

    import numpy as np

    from kmod.composition.labelled_images import ImageReader
    from kmod.composition.labelled_images import reader_of_manifest
    from kmod.metrics.evaluate import auroc_of_unseen
    from kmod.metrics.evaluate import confusions
    from kmod.metrics.evaluate import evaluate
    from kmod.modules.manifest import InputContract

    model, other = load_classifier(args.model, args.output), None
    manifest = getattr(model, "manifest", None)  # Of a composed model.
    if manifest is not None:
        data = load_images(name, args, manifest.input.shape, [split])
        reader = reader_of_manifest(manifest)
        images, other = reader.read(data, split), reader.other
        class_names = manifest.class_names
    else:
        data = load_images(name, args, image_shape(model), [split])
        images = images_for(model, data, split)
        class_names = data.class_names
        shape = images.images.shape[1:]
        contract = InputContract(shape, "float32", tuple(data.value_range))
        reader = ImageReader(contract, "resize", class_names)
    evaluation = evaluate(model, images, class_names)
    _warn_of_guesses(evaluation, Path(args.model).name)
    own = images.take(np.flatnonzero(images.labels != other))
    unseen = {}
    for given in args.unseen:
        found = load_unlabelled_images(given, reader.input, args, MOST_UNSEEN)
        strange = reader.adapt_unlabelled(found)
        unseen[given] = auroc_of_unseen(model, own, strange, other)
    if args.json:
        found = {"confusions": confusions(evaluation)}
        if unseen:
            found["auroc_of_unseen"] = unseen
        console.print_json(evaluation.as_dict() | found)
    else:
        _print(evaluation, unseen)
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


def _print(evaluation, unseen):
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
    for name, auroc in unseen.items():
        console.print_data(f"AUROC against {name} {auroc:.4f}")
