"""`kmod export`: writes a model in a form that can be deployed."""

import argparse
from pathlib import Path

from kmod.cli import console
from kmod.cli.models import add_image_size_argument
from kmod.cli.models import add_output_argument
from kmod.errors import UsageError

_FORMATS = ("savedmodel", "litert", "onnx")
MOST_IMAGES = 2000  # To quantize by; more tell nothing new.


def add_parser(subparsers) -> None:
    parser = subparsers.add_parser(
        "export",
        help="write a model in a form that can be deployed",
        description="Exports MODEL and compares its answers with those of "
        "Keras on real images; what answers otherwise is not kept.",
    )
    parser.add_argument(
        "model",
        metavar="MODEL",
        help="directory of a composed model or module, or .keras file",
    )
    parser.add_argument(
        "--format",
        required=True,
        choices=_FORMATS,
        dest="form",
        help="form to write",
    )
    parser.add_argument(
        "--out", required=True, metavar="DIR", help="directory to make"
    )
    parser.add_argument(
        "--serving",
        action="store_true",
        help="write the next version below DIR, as TensorFlow Serving wants it",
    )
    parser.add_argument(
        "--data",
        metavar="NAME:SPLIT",
        help="what to compare on: a data set, folder or file, such as "
        "photos:test (default: a few handwritten digits)",
    )
    of_files = parser.add_argument_group("of a .keras file")
    add_output_argument(of_files, "MODEL")
    add_image_size_argument(
        of_files, "size of the images that MODEL will see, where it takes any"
    )
    of_files.add_argument(
        "--value-range",
        type=float,
        nargs=2,
        metavar=("LOW", "HIGH"),
        help="pixel values that MODEL takes, such as 0 1, which images are "
        "scaled to (default: 0 255)",
    )
    parser.add_argument(
        "--quantize",
        choices=("int8", "float16", "dynamic"),
        help="keep the numbers of a LiteRT file in fewer bits: weights and "
        "activations as bytes (int8), weights as half floats (float16) or as "
        "bytes (dynamic); needs --data",
    )
    parser.add_argument(
        "--least-agreement",
        type=float,
        metavar="SHARE",
        help="how many of the images a quantized model must give the same "
        "class, 0 to 1 (default: 0.98)",
    )
    parser.add_argument(
        "--data-dir", metavar="DIR", help="prepared TensorFlow Datasets"
    )
    parser.add_argument(
        "--overwrite", action="store_true", help="replace an export at DIR"
    )
    parser.add_argument(
        "--json", action="store_true", help="print what was written as JSON"
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    from kmod.cli.models import check_out
    from kmod.cli.models import check_path
    from kmod.cli.models import say_if_values_are_guessed
    from kmod.composition.composition_manifest import EXPORT_FILE
    from kmod.composition.composition_manifest import list_export
    from kmod.data.load import parse_split
    from kmod.data.own_images import own_path
    from kmod.files import check_outside
    from kmod.files.plain_yaml import read_yaml

    _check_options(args)
    if args.serving:  # Beside the versions that are there.
        check_outside(Path(args.out, "1"))
    else:
        check_out(args.out, args.overwrite, list_export)
    check_path(args.model)
    if args.quantize is not None and args.data is None:
        raise UsageError(
            "A model is quantized by images such as it will see. Received: "
            f"--quantize {args.quantize} without --data. Give some, such as "
            "`--data photos:validation`."
        )
    if args.data is not None:
        own_path(parse_split(args.data)[0], args.data_dir)

    from kmod.composition.exporting import export_model
    from kmod.composition.exporting import load_exportable

    exportable = load_exportable(
        args.model,
        output=args.output,
        image_size=args.image_size,
        value_range=args.value_range,
    )
    if args.value_range is None and not Path(args.model).is_dir():
        say_if_values_are_guessed(exportable.model, args.model)
    images = None if args.data is None else _images(exportable, args)
    least = args.least_agreement
    with console.status("exporting"):
        path = export_model(
            exportable,
            args.form,
            args.out,
            images=images,
            serving=args.serving,
            quantize=args.quantize,
            overwrite=args.overwrite,
            **({} if least is None else {"least_agreement": least}),
        )
    found = {"format": args.form, "path": str(path)}
    if args.quantize is not None:
        found["quantized"] = read_yaml(path / EXPORT_FILE)["quantized"]
        _print(found["quantized"])
    if args.json:
        console.print_json(found)
    console.print_note(f"Saved to '{path}'.")
    return 0


def _check_options(args):
    """Refuses options that would change nothing."""
    if args.least_agreement is not None and args.quantize is None:
        raise UsageError(
            "`--least-agreement` is for a quantized model; another one must "
            "answer as Keras does. Received: --least-agreement "
            f"{args.least_agreement:g} without --quantize. Leave it out, or "
            "quantize."
        )
    if args.serving and args.overwrite:
        raise UsageError(
            "`--serving` writes a new version beside those that are there. "
            "Received: --serving with --overwrite. Leave one of them out."
        )


def _print(quantized):
    sizes = quantized["bytes"]
    console.print_note(
        f"Of {quantized['num_images']:,} images {quantized['agreement']:.1%} "
        f"get the class of the model in full; {sizes['quantized']:,} bytes, "
        f"{sizes['quantized'] / sizes['float32']:.2f}x those of float32."
    )


def _images(exportable, args):
    """Loads the images that `--data` names, many only to quantize by."""
    import numpy as np

    from kmod.composition.labelled_images import ImageReader
    from kmod.data.image_data import UnlabelledImages
    from kmod.data.load import load_data
    from kmod.data.load import parse_split
    from kmod.data.own_images import file_options

    name, split = parse_split(args.data)
    options = file_options(name, exportable.input.shape, args.data_dir)
    data = load_data(name, args.data_dir, splits=[split], **options)
    reader = ImageReader(exportable.input, "resize", exportable.class_names)
    if args.quantize is None:
        return reader.first_images(data, split)
    found = data.images_of(split)
    step = max(len(found) // MOST_IMAGES, 1)
    images = found.take(np.arange(0, len(found), step)).images
    images = UnlabelledImages(images, tuple(data.value_range), data.name)
    return reader.adapt_unlabelled(images)
