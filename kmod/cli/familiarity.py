"""`kmod familiarity`: adds to a store what its source's images are like."""

import argparse

from kmod.cli import console
from kmod.cli.models import add_data_arguments
from kmod.errors import ArtifactError


def add_parser(subparsers) -> None:
    parser = subparsers.add_parser(
        "familiarity",
        help="add to a store what its source's images are like",
        description="Measures training and validation images of the data and "
        "adds to STORE what they are like, in the place of what it says of "
        "that already. Compositions with modules of other sources then know "
        "which images are this source's. `kmod modularize` does so by itself.",
    )
    parser.add_argument("store", metavar="STORE", help="module store")
    add_data_arguments(
        parser, "images like those that the source was trained on", split=False
    )
    parser.add_argument(
        "--json", action="store_true", help="print the result as JSON"
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    from kmod.cli.models import load_images
    from kmod.data.own_images import own_path
    from kmod.modules.module_store import add_familiarity
    from kmod.modules.module_store import load_store

    own_path(args.data, args.data_dir)
    store = load_store(args.store)
    shape = store.manifest.input.shape
    data = load_images(args.data, args, shape, ["train", "validation"])
    parts = _labelled_as(store.manifest.class_names, data)
    with console.status("measuring"):
        familiarity = add_familiarity(store, *parts).familiarity
    figures = {
        "store": str(store.path),
        "num_images": familiarity.num_images,
        "classes": list(familiarity.class_names),
        "threshold": familiarity.threshold(0.05),
    }
    if args.json:
        console.print_json(figures)
    else:
        console.print_note(
            f"Added what {familiarity.num_images:,} images of "
            f"{len(familiarity.class_names)} classes are like to "
            f"'{args.store}'."
        )
    return 0


def _labelled_as(class_names, data):
    """Labels training and validation images in the classes of a store."""
    from kmod.data.load import select_classes

    if len(class_names) > 1:
        data = select_classes(data, class_names)
    elif class_names[0] not in data.class_names:
        raise ArtifactError(
            "The data must show the class of the store. Received: data set "
            f"{data.name!r} of the classes {list(data.class_names)}, for a "
            f"store of {class_names[0]!r}. Give data that show it, named as "
            "in the store."
        )
    is_class = [name in class_names for name in data.class_names]
    parts = []
    for part in (data.train, data.validation):
        if len(part):
            labels = part.labels
            if len(class_names) == 1:
                labels = (labels == is_class.index(True)).astype("int64")
            parts.append((part.images, labels))
    return parts
