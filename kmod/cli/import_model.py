"""`kmod import`: makes a module of a model that recognises one class."""

import argparse

from kmod.cli.models import add_data_arguments
from kmod.cli.module_table import print_store
from kmod.errors import ArtifactError


def add_parser(subparsers) -> None:
    parser = subparsers.add_parser(
        "import",
        help="make a module of a model that recognises one class",
        description="Calibrates a model of one output, or of two, on "
        "validation images and saves it as a store with that one module. "
        "Several such stores make one classifier by a composition spec.",
    )
    parser.add_argument("source", metavar="MODEL.keras", help="trained model")
    parser.add_argument(
        "--class",
        required=True,
        dest="class_name",
        metavar="NAME",
        help="class that the model recognises, named as in the data; images "
        "of all other classes are of the rest",
    )
    add_data_arguments(parser, "images to calibrate on", split=False)
    parser.add_argument("--out", required=True, metavar="STORE")
    parser.add_argument(
        "--class-index",
        type=int,
        choices=(0, 1),
        default=1,
        help="which of two outputs is the class's (default: 1, the second)",
    )
    parser.add_argument(
        "--output",
        metavar="NAME",
        help="output of MODEL.keras to take, where it has several",
    )
    parser.add_argument(
        "--license", metavar="SPDX", help="licence of the module"
    )
    parser.add_argument(
        "--overwrite", action="store_true", help="replace a store at STORE"
    )
    parser.add_argument(
        "--json", action="store_true", help="print the figures as JSON"
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    from kmod.cli.models import check_out
    from kmod.cli.models import check_path
    from kmod.cli.models import image_shape
    from kmod.cli.models import load_images
    from kmod.cli.models import load_model
    from kmod.cli.models import model_name
    from kmod.data.own_images import own_path
    from kmod.modules.module_store import list_store

    out = check_out(args.out, args.overwrite, list_store)
    own_path(args.data, args.data_dir)
    check_path(args.source, takes_calls=True)

    from kmod.modules.from_model import module_from_model

    model = load_model(args.source)
    data = load_images(args.data, args, image_shape(model))
    store = module_from_model(
        model,
        args.class_name,
        out,
        data=_one_against_rest(data, args.class_name),
        class_index=args.class_index,
        output=args.output,
        value_range=data.value_range,
        source_name=model_name(args.source),
        data_source={"name": data.name, "version": data.version},
        license=args.license,
        overwrite=args.overwrite,
    )
    print_store(store, args.json)
    return 0


def _one_against_rest(data, class_name):
    """Returns validation images, labelled by whether they show the class."""
    if class_name not in data.class_names:
        raise ArtifactError(
            "`--class` must be a class of the data. Received: --class "
            f"{class_name}, for {data.name!r} with the classes "
            f"{list(data.class_names)}. Name it as the data do."
        )
    index = data.class_names.index(class_name)
    images, labels = data.validation.images, data.validation.labels
    return images, (labels == index).astype("int64")
