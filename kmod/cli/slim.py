"""`kmod slim`: makes a classifier physically smaller."""

import argparse
import dataclasses
from pathlib import Path

from kmod.cli import console
from kmod.cli.models import NO_RUN
from kmod.cli.models import add_batch_size_argument
from kmod.cli.models import add_data_arguments
from kmod.cli.models import add_output_argument
from kmod.cli.models import add_seed_argument
from kmod.cli.models import how_to_resume
from kmod.cli.models import positive_integer
from kmod.errors import UsageError


def add_parser(subparsers) -> None:
    parser = subparsers.add_parser(
        "slim",
        help="make any classifier physically smaller",
        description="Removes kernels of the whole of MODEL, trains the rest to "
        "answer as before, and the labels where images have them, saves the "
        "smaller model and prints what both cost.",
    )
    parser.add_argument(
        "model",
        metavar="MODEL",
        help="Keras file, or directory of a composed model",
    )
    parser.add_argument(
        "--macs-target",
        type=float,
        metavar="R",
        help="multiply-accumulates to come down to, as a multiple of the "
        "model's (default, if there is no other target: 0.5, or 0.25 where "
        "--only keeps a third of the classes or fewer)",
    )
    parser.add_argument(
        "--parameters-target",
        type=float,
        metavar="R",
        help="the same of its parameters",
    )
    parser.add_argument(
        "--bytes-target",
        type=float,
        metavar="R",
        help="the same of the bytes of its Keras file",
    )
    parser.add_argument(
        "--latency-target",
        type=float,
        metavar="R",
        help="the same of the time of one image, measured on this machine",
    )
    parser.add_argument(
        "--only",
        action="append",
        metavar="CLASS",
        help="class to keep; give two or more (default: all)",
    )
    add_data_arguments(
        parser,
        "images such as the model will see; labels of the model's classes, by "
        "name, are learned as well",
        split=False,
    )
    parser.add_argument(
        "--unlabelled",
        action="store_true",
        help="--data are images alone, a folder of them at any depth or an "
        ".npz file; --classes then names the outputs of a Keras file",
    )
    parser.add_argument(
        "--test",
        metavar="NAME:SPLIT",
        help="labelled images to measure both on, such as photos:test",
    )
    add_output_argument(parser, "MODEL")
    parser.add_argument(
        "--out", required=True, metavar="DIR", help="directory to make"
    )
    parser.add_argument(
        "--augment",
        action="store_true",
        help="mirror and move images at random; not for digits or letters",
    )
    parser.add_argument(
        "--epochs",
        type=positive_integer,
        metavar="N",
        help="epochs of training (default: 20, or as many as show 100,000 "
        "images, up to 100)",
    )
    add_batch_size_argument(parser)
    add_seed_argument(parser)
    parser.add_argument(
        "--overwrite",
        action="store_true",
        help="replace a composed model at DIR",
    )
    parser.add_argument(
        "--json", action="store_true", help="print the figures as JSON"
    )
    parser.add_argument(
        "--resume",
        action="store_true",
        help="go on with a run cut short, which needs the same model, data "
        "and options; without one, a new run begins",
    )
    parser.set_defaults(run=run, how_to_resume=how_to_resume)


def run(args: argparse.Namespace) -> int:
    from kmod.cli.models import are_learned_from
    from kmod.cli.models import check_out
    from kmod.cli.models import check_path
    from kmod.composition.composition_manifest import COMPOSITION_FILE
    from kmod.composition.composition_manifest import list_composition
    from kmod.data.own_images import own_path

    out = check_out(args.out, args.overwrite, list_composition)
    check_path(args.model, takes_calls=True)
    own_path(args.data, args.data_dir)
    is_composed = (Path(args.model) / COMPOSITION_FILE).exists()
    if args.classes is not None and args.unlabelled and is_composed:
        raise UsageError(
            "With `--unlabelled`, `--classes` names the outputs of a Keras "
            "file; a composed model knows its own. Received: --classes "
            f"{','.join(args.classes)} for '{args.model}'. Leave it out; "
            "`--only` keeps some of its classes."
        )
    if args.test is not None:
        splits = None if args.unlabelled else ("train", "validation")
        if are_learned_from(args.test, args.data, splits, args.data_dir):
            raise UsageError(
                "A slim model is measured on images that it did not learn "
                f"from. Received: --data {args.data} --test {args.test}. Give "
                "the test images of a data set with splits."
            )

    from kmod.cli.models import load_classifier
    from kmod.cli.models import model_name
    from kmod.composition.saving import save
    from kmod.files.run_directory import directory_beside
    from kmod.files.run_directory import discard_run
    from kmod.files.run_directory import run_digest
    from kmod.graph import channel_graph
    from kmod.graph import rebuild
    from kmod.slimming.slim import slim

    run_directory = directory_beside(out)
    if args.resume and run_digest(run_directory) is None:
        console.print_note(NO_RUN.format(run_directory))
    model = load_classifier(args.model, args.output)
    images, validation, class_names = _images(model, args)
    test = _test_data(model, images, class_names, args)
    if not hasattr(model, "manifest"):
        model.name = model_name(args.model)
    slimmed = slim(
        model,
        images,
        macs_target=args.macs_target,
        parameters_target=args.parameters_target,
        bytes_target=args.bytes_target,
        latency_target=args.latency_target,
        only=args.only,
        class_names=class_names,
        validation=validation,
        epochs=args.epochs,
        batch_size=args.batch_size,
        augment=args.augment,
        seed=args.seed,
        run_directory=run_directory,
        resume=args.resume,
        verbose=console.training_verbosity(),
    )
    whole = rebuild(channel_graph(model, input_shape=slimmed.input_shape[1:]))
    with console.status("measuring"):
        figures = _figures(whole, slimmed, class_names, test)
    accuracies = {
        name: row["accuracy"]
        for name, row in figures.items()
        if "accuracy" in row
    }
    save(
        slimmed,
        args.out,
        metrics=accuracies and {"test accuracy": accuracies},
        overwrite=args.overwrite,
    )
    discard_run(run_directory)
    figures["learned"] = dict(slimmed.composition.manifest.slimmed)
    figures["kernels"] = _kernels(whole, slimmed)
    if args.json:
        console.print_json(figures)
    else:
        _print(figures, args.out)
    return 0


def _images(model, args):
    """Returns images to learn from, images to choose on, and class names."""
    from kmod.cli.models import image_shape
    from kmod.cli.models import images_for
    from kmod.cli.models import load_images
    from kmod.cli.models import load_images_alone
    from kmod.cli.models import say_if_unscaled

    shape = image_shape(model)
    class_names = getattr(model, "class_names", None)
    if args.unlabelled:
        found = load_images_alone(args.data, args, shape)
        if class_names is None:
            class_names = args.classes
            say_if_unscaled(model, found.images, found.name)
        return found, None, class_names
    data = load_images(args.data, args, shape, ["train", "validation"])
    if class_names is None:
        class_names = data.class_names
        images_for(model, data, "train")
    held_out = dataclasses.replace(data, train=data.images_of("validation"))
    return data, held_out, class_names


def _test_data(model, images, class_names, args):
    """Loads the data of `--test`, before anything is trained.

    Returns:
        Data and split; `None` without `--test`.
    """
    from kmod.cli.models import image_shape
    from kmod.cli.models import load_images
    from kmod.composition.labelled_images import check_shown
    from kmod.composition.labelled_images import reader_of_manifest
    from kmod.data.load import parse_split
    from kmod.data.load import unlabelled_of
    from kmod.graph import channel_graph
    from kmod.modular.modular_model import checked_names

    if args.test is None:
        return None
    name, split = parse_split(args.test)
    sizes = zip(image_shape(model), unlabelled_of(images).images.shape[1:])
    shape = tuple(own or given for own, given in sizes)
    data = load_images(name, args, shape, [split])
    labels = data.images_of(split).labels
    if data.class_names is not None:
        count = channel_graph(model, input_shape=shape).num_classes
        kept = args.only or checked_names(class_names, count)
        known = set(kept)
        if hasattr(model, "manifest"):
            reader = reader_of_manifest(model.manifest)
            known |= {*reader.aliases, *reader.renamed}
        check_shown(labels, data.class_names, known, kept)
    return data, split


def _figures(model, slimmed, class_names, test):
    """Measures the model, restricted to the classes kept, and the slim one."""
    from kmod.composition.composition_manifest import total_sizes
    from kmod.composition.labelled_images import reader_of_manifest
    from kmod.data.streaming import predict
    from kmod.export.keras_file import file_bytes
    from kmod.metrics.latency import measure_latency
    from kmod.modular.modular_model import checked_names

    names = checked_names(class_names, model.output_shape[1])
    columns = [names.index(name) for name in slimmed.class_names]
    if test is not None:
        test = reader_of_manifest(slimmed.composition.manifest).read(*test)
    figures = {}
    for name, each in {"before": model, "slimmed": slimmed}.items():
        figures[name] = total_sizes([each])
        figures[name]["bytes"] = file_bytes(each)
        figures[name]["milliseconds"] = round(1000 * measure_latency(each), 3)
        if test is not None:
            scores = predict(each, test.images)
            if name == "before":
                scores = scores[:, columns]
            right = scores.argmax(axis=1) == test.labels
            figures[name]["accuracy"] = float(right.mean())
    return figures


def _kernels(model, slimmed):
    """Counts the kernels of each layer before and after."""
    from kmod.graph import channel_graph

    before, after = (
        dict(zip(kernels.layers, kernels.counts.tolist()))
        for kernels in (channel_graph(m).kernels for m in (model, slimmed))
    )
    return {
        layer: {"before": count, "slimmed": after.get(layer, 0)}
        for layer, count in before.items()
    }


def _print(figures, out):
    from kmod.composition.composition_manifest import learned_images

    rows = {name: figures[name] for name in ("before", "slimmed")}
    columns = [
        "",
        "accuracy",
        "parameters",
        "bytes",
        "MACs",
        "ms for one image",
    ]
    if "accuracy" not in figures["before"]:
        columns.remove("accuracy")
    console.print_table(
        columns,
        [
            [
                name,
                *([f"{row['accuracy']:.4f}"] if "accuracy" in row else []),
                f"{row['parameters']:,}",
                f"{row['bytes']:,}",
                f"{row['macs']:,}",
                f"{row['milliseconds']:.2f}",
            ]
            for name, row in rows.items()
        ],
    )
    console.print_table(
        ["kernels of layer", "before", "slimmed"],
        [[name, *row.values()] for name, row in figures["kernels"].items()],
    )
    learned = figures["learned"]
    console.print_note(
        f"It learned from {learned_images(learned)}; of "
        f"{learned['num_held_out']:,} others it answers "
        f"{learned['agreement']:.1%} as before."
    )
    console.print_note(f"Saved to '{out}'.")
