"""`kmod export`: writes a model in a form that can be deployed."""

import argparse

from kmod.cli import console

_FORMATS = ("savedmodel", "litert", "onnx")


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
    from kmod.cli.models import check_path
    from kmod.composition.composition_manifest import list_export
    from kmod.data.load import parse_split
    from kmod.data.own_images import own_path
    from kmod.files import check_output

    if not args.serving:
        check_output(args.out, args.overwrite, list_export)
    check_path(args.model)
    if args.data is not None:
        own_path(parse_split(args.data)[0], args.data_dir)

    from kmod.composition.exporting import export_model
    from kmod.composition.exporting import load_exportable

    exportable = load_exportable(args.model)
    images = None if args.data is None else _images(exportable, args)
    with console.status("exporting"):
        path = export_model(
            exportable,
            args.form,
            args.out,
            images=images,
            serving=args.serving,
            overwrite=args.overwrite,
        )
    if args.json:
        console.print_json({"format": args.form, "path": str(path)})
    console.print_message(f"Saved to '{path}'.")
    return 0


def _images(exportable, args):
    """Loads a batch of the images that `--data` names."""
    from kmod.composition.labelled_images import ImageReader
    from kmod.data.load import load_data
    from kmod.data.load import parse_split
    from kmod.data.own_images import file_options

    name, split = parse_split(args.data)
    options = file_options(name, exportable.input.shape, args.data_dir)
    data = load_data(name, args.data_dir, splits=[split], **options)
    reader = ImageReader(exportable.input, "resize", exportable.class_names)
    return reader.first_images(data, split)
