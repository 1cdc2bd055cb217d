"""The option `--negatives` of the commands that train modules."""

from __future__ import annotations

import argparse
import dataclasses
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kmod.data.image_data import UnlabelledImages
    from kmod.modules.manifest import InputContract

MOST_IMAGES = 20_000  # Training hardly ever draws more.


def add_negatives_argument(parser: argparse.ArgumentParser) -> None:
    """Adds `--negatives` to the parser of a command."""
    parser.add_argument(
        "--negatives",
        metavar="NAME[:SPLIT]",
        help="images of anything but the classes, on which modules learn to "
        "answer no: a folder of images at any depth, an .npz file of images "
        "alone, or data as for --data, whose labels are left out",
    )


def load_negatives(
    args: argparse.Namespace, contract: InputContract
) -> UnlabelledImages | None:
    """Loads the images that `--negatives` names, as a source takes them.

    Args:
        args: Arguments of the command.
        contract: What images the source takes.

    Returns:
        The images, `None` if the option is not given.

    Raises:
        ArtifactError, UsageError: If they can not be read, or not be brought
            to what the source takes.
    """
    from kmod.cli.models import load_unlabelled_images
    from kmod.composition.labelled_images import ImageReader
    from kmod.errors import ArtifactError

    if args.negatives is None:
        return None
    images = load_unlabelled_images(args.negatives, contract, args, MOST_IMAGES)
    reader = ImageReader(contract, "resize", ())
    try:
        adapted = reader.adapt_unlabelled(images)
    except ArtifactError as error:
        raise ArtifactError(
            "`--negatives` must be grey or RGB images, or have as many "
            f"channels as those that the source takes, {contract.shape[-1]}. "
            f"Received: '{args.negatives}' with images of shape "
            f"{images.images.shape[1:]}. Save them as grey or RGB ones."
        ) from error
    return dataclasses.replace(
        images, images=adapted, value_range=contract.range
    )
