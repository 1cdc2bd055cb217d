"""Makes module stores of files, for `kmod modularize` and `kmod jobs`."""

from __future__ import annotations

import argparse
import dataclasses
import os
from collections.abc import Mapping
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING
from typing import Any

from kmod.cli import console
from kmod.modular.recipe import BUDGETS

if TYPE_CHECKING:
    import keras

    from kmod.data.image_data import ImageData
    from kmod.data.image_data import UnlabelledImages
    from kmod.modular.cnnsplitter.options import SearchOptions
    from kmod.modular.modular_model import ModularModel
    from kmod.modules.module_store import StoreContent

# The options that belong to one method; all others belong to both.
OPTIONS_OF = {
    "gradsplitter": (
        "recipe",
        "purpose",
        "epochs",
        "macs_target",
        "accuracy_budget",
    ),
    "cnnsplitter": (
        "population",
        "generations",
        "patience",
        "images",
        "head_epochs",
        "figures",
    ),
}


@dataclasses.dataclass(frozen=True)
class Given:
    """What a store is made of.

    Attributes:
        source: The source model.
        data: Its images.
        negatives: Images of anything but the classes, if there are any.
    """

    source: keras.Model
    data: ImageData
    negatives: UnlabelledImages | None

    @property
    def train(self) -> tuple:
        """Images to train on, and their labels."""
        return self.data.train.images, self.data.train.labels

    @property
    def validation(self) -> tuple:
        """Images to choose and to calibrate on, and their labels."""
        return self.data.validation.images, self.data.validation.labels


def read_given(args: argparse.Namespace) -> Given:
    """Loads what the arguments of `kmod modularize` name.

    Raises:
        ArtifactError, UsageError: If something is missing or does not fit.
    """
    from kmod.cli.models import image_contract
    from kmod.cli.models import image_shape
    from kmod.cli.models import images_for
    from kmod.cli.models import load_images
    from kmod.cli.models import load_model
    from kmod.cli.negatives import load_negatives

    source = load_model(args.source, args.output)
    data = load_images(args.data, args, image_shape(source))
    images_for(source, data, "train")
    return Given(source, data, load_negatives(args, image_contract(data)))


def find_masks(
    args: argparse.Namespace, given: Given, run_directory: Path, resume: bool
) -> tuple[ModularModel, dict[str, Any]]:
    """Trains masks by the method that the arguments name.

    Returns:
        The modular model, calibrated, and what its manifest says of the
        method.
    """
    from kmod.modular.negatives import negatives_record

    by_method = _train_masks if args.method == "gradsplitter" else _search
    modular, arguments = by_method(
        args,
        given.source,
        given.train,
        given.validation,
        class_names=given.data.class_names,
        mask_from=args.mask_from,
        value_range=given.data.value_range,
        run_directory=run_directory,
        resume=resume,
        **_training(args, given),
    )
    if given.negatives is not None:
        arguments["negatives"] = negatives_record(given.negatives)
    return modular, arguments


def cut_given(
    args: argparse.Namespace,
    given: Given,
    modular: ModularModel,
    arguments: Mapping[str, Any],
    out: Path,
    part: Sequence[int] | None = None,
) -> StoreContent:
    """Cuts all modules and refines them, if the arguments do not forbid it.

    Args:
        args: Arguments of `kmod modularize`.
        given: What they name.
        modular: What `find_masks` made.
        arguments: What the manifest says of the method.
        out: Where the store will be.
        part: As `cut_modules` takes it.
    """
    from kmod.cli.models import is_call
    from kmod.cli.models import model_name
    from kmod.modules.decompose import cut_modules
    from kmod.modules.refine import refine_modules

    content = cut_modules(
        modular,
        data=given.validation,
        train=given.train,
        source_name=model_name(args.source),
        value_range=given.data.value_range,
        data_source=_data_source(given.data, out),
        method=args.method,
        arguments=arguments,
        license=args.license,
        part=part,
    )
    if not is_call(args.source):
        content = dataclasses.replace(content, source_path=Path(args.source))
    if args.frozen:
        return content
    return refine_modules(
        content,
        given.source,
        given.train,
        given.validation,
        epochs=args.refine_epochs,
        **_training(args, given),
    )


def _training(args, given):
    return {
        "negatives": given.negatives,
        "batch_size": args.batch_size,
        "seed": args.seed,
        "verbose": console.training_verbosity(),
    }


def check_options(args: argparse.Namespace) -> None:
    """Refuses options that do not fit together, before anything is loaded.

    Raises:
        UsageError: If an option is of another method, or out of range.
    """
    from kmod.errors import UsageError
    from kmod.modular.recipe import recipe_of
    from kmod.modular.recipe import with_targets

    for method, names in OPTIONS_OF.items():
        given = [name for name in names if getattr(args, name) is not None]
        if given and args.method != method:
            raise UsageError(
                f"`--{given[0].replace('_', '-')}` belongs to `--method "
                f"{method}`. Received: --method {args.method}. Leave one of "
                "them out."
            )
    if not 0 <= budget_of(args) < 1:
        raise UsageError(
            "`--accuracy-budget` must be at least 0 and below 1. Received: "
            f"--accuracy-budget {args.accuracy_budget}. Give the share of all "
            "validation images that modules may lose, such as 0.01."
        )
    if args.method == "cnnsplitter":
        search_options(args)
    else:
        recipe = recipe_of(args.recipe or "default")
        with_targets(recipe, args.retention_target, args.macs_target)


def search_options(args: argparse.Namespace) -> SearchOptions:
    """Returns the options of the genetic search, its defaults filled in."""
    from kmod.modular.cnnsplitter.options import SearchOptions

    names = [field.name for field in dataclasses.fields(SearchOptions)]
    given = {name: getattr(args, name, None) for name in names}
    return SearchOptions(
        **{name: value for name, value in given.items() if value is not None}
    )


def budget_of(args: argparse.Namespace) -> float:
    """Returns the accuracy that modules may lose before they are refined."""
    if args.accuracy_budget is not None:
        return args.accuracy_budget
    purpose = args.purpose or "together"
    return BUDGETS["alone" if args.recipe == "paper" else purpose]


def _train_masks(args, source, train, validation, **options):
    from kmod.modular.modularize import modularize

    modular = modularize(
        source,
        train,
        validation,
        recipe=args.recipe or "default",
        purpose=args.purpose or "together",
        retention_target=args.retention_target,
        macs_target=args.macs_target,
        epochs=args.epochs,
        accuracy_budget=args.accuracy_budget,
        **options,
    )
    return modular, {}


def _search(args, source, train, validation, **options):
    from kmod.modular.cnnsplitter.modularize import modularize_by_search

    search = search_options(args)
    heads = {}
    if args.head_epochs is not None:
        heads["head_epochs"] = args.head_epochs
    modular = modularize_by_search(
        source,
        train,
        validation,
        options=search,
        figures=args.figures,
        **heads,
        **options,
    )
    return modular, {"search": search.as_dict(), **heads}


def _data_source(data, out):
    """What the manifest says of the data; a path as seen from the store."""
    source = {
        "name": data.name,
        "version": data.version,
        "split": "validation",
    }
    if data.path is not None:
        path = os.path.relpath(data.path, out.resolve())
        source["path"] = Path(path).as_posix()
    return source
