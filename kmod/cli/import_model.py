"""`kmod import`: makes modules of a model as it is."""

import argparse

from kmod.cli.models import add_data_arguments
from kmod.cli.models import add_output_argument
from kmod.cli.models import license_expression
from kmod.cli.module_table import print_store
from kmod.errors import ArtifactError
from kmod.errors import UsageError


def add_parser(subparsers) -> None:
    parser = subparsers.add_parser(
        "import",
        help="make modules of a model as it is, with all its kernels",
        description="Calibrates a classifier on validation images and saves "
        "it as a store of modules that share all its layers but the last. With "
        "--class, a model of one output, or of two, becomes one module. Stores "
        "make one classifier by a composition spec.",
    )
    parser.add_argument("source", metavar="MODEL.keras", help="trained model")
    parser.add_argument(
        "--class",
        dest="class_name",
        metavar="NAME",
        help="the one class that the model recognises, named as in the data; "
        "images of all other classes are of the rest (default: the model "
        "tells all classes of the data apart)",
    )
    add_data_arguments(parser, "images to calibrate on", split=False)
    parser.add_argument(
        "--out", required=True, metavar="STORE", help="directory to make"
    )
    parser.add_argument(
        "--class-index",
        type=int,
        choices=(0, 1),
        help="with --class, which of two outputs is the class's (default: 1, "
        "the second)",
    )
    add_output_argument(parser, "MODEL.keras")
    parser.add_argument(
        "--license",
        type=license_expression,
        metavar="SPDX",
        help="licence of the module",
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
    from kmod.cli.models import images_for
    from kmod.cli.models import load_images
    from kmod.cli.models import load_model
    from kmod.cli.models import model_name
    from kmod.data.own_images import own_path
    from kmod.modules.module_store import list_store

    if args.class_name is None and args.class_index is not None:
        raise UsageError(
            "`--class-index` says which output is that of `--class`. Received: "
            f"--class-index {args.class_index} without it. Leave it out, or "
            "name the class."
        )
    out = check_out(args.out, args.overwrite, list_store)
    own_path(args.data, args.data_dir)
    check_path(args.source, takes_calls=True)

    from kmod.export.write import check_backend
    from kmod.graph.sources import functional_of
    from kmod.modules.from_model import module_from_model
    from kmod.modules.from_model import modules_from_model

    check_backend()
    model = load_model(args.source)
    data = load_images(args.data, args, image_shape(model))
    if args.class_name is not None:
        save, given = module_from_model, {
            "class_name": args.class_name,
            "data": _one_against_rest(data, args.class_name),
            "class_index": 1 if args.class_index is None else args.class_index,
        }
    else:
        save, given = modules_from_model, {
            "data": images_for(
                functional_of(model, args.output), data, "validation"
            ),
            "class_names": data.class_names,
        }
    store = save(
        model,
        path=out,
        output=args.output,
        value_range=data.value_range,
        source_name=model_name(args.source),
        data_source={"name": data.name, "version": data.version},
        license=args.license,
        overwrite=args.overwrite,
        **given,
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
