"""`kmod patch`: improves the classes that a model gets wrong."""

import argparse
from pathlib import Path
from typing import Any

from kmod.cli import console
from kmod.cli.models import add_data_arguments
from kmod.cli.models import add_output_argument
from kmod.cli.ways import measured_way
from kmod.cli.ways import recorded_way
from kmod.errors import ArtifactError
from kmod.errors import UsageError
from kmod.files import short_names
from kmod.files import slug
from kmod.patching.acceptance import MAX_LOSS
from kmod.patching.acceptance import Acceptance

_SPEC_FILE = "spec.yaml"
_ROWS = {
    "precision": "precision",
    "recall": "recall",
    "F1": "f1",
    "others' accuracy": "other_classes_accuracy",
}
_OVERALL_ROWS = {"accuracy over all": "accuracy", "mean F1": "macro_f1"}


def add_parser(subparsers) -> None:
    parser = subparsers.add_parser(
        "patch",
        help="let modules of better models answer for weak classes",
        description="Finds the weak classes, tries the donors' modules on "
        "SPLIT, saves the patched model with its spec, and prints what it does "
        "on the test images. Where no module helps, nothing is saved and the "
        "exit code is 5, unless `--take` is given.",
    )
    parser.add_argument("weak", metavar="WEAK.keras", help="model to patch")
    parser.add_argument(
        "--donor",
        required=True,
        action="append",
        dest="donors",
        metavar="STORE",
        help="module store of a better model; several are compared. "
        "STORE:CLASS takes a class of another name than the target's",
    )
    add_data_arguments(
        parser,
        "what the patch is fitted on, such as digits:validation, not the test "
        "split",
    )
    add_output_argument(parser, "the weak model")
    parser.add_argument(
        "--out", required=True, metavar="DIR", help="directory to make"
    )
    parser.add_argument(
        "--target-class",
        action="append",
        dest="target_classes",
        metavar="C",
        help="class to patch; may be given several times (default: those of "
        "an F1 more than 0.1 below the mean, at least the weakest)",
    )
    parser.add_argument(
        "--combine",
        choices=("calibrated", "divided", "minmax", "raw"),
        help=argparse.SUPPRESS,  # The last two replicate the papers.
    )
    parser.add_argument(
        "--no-auxiliary",
        action="store_false",
        dest="auxiliary",
        help="take the target's module only; otherwise the donor's other "
        "modules may be auxiliary to it, which makes the model larger",
    )
    parser.add_argument(
        "--judge",
        choices=("accuracy", "macro-f1"),
        default="accuracy",
        help="what must not fall over all classes for a patch to be taken: the "
        "accuracy (default), or the mean F1, where rare classes count as much",
    )
    parser.add_argument(
        "--max-loss",
        type=float,
        default=MAX_LOSS,
        metavar="SHARE",
        help="how much accuracy on the other classes a patch may cost, 0 to 1 "
        f"(default: {MAX_LOSS})",
    )
    parser.add_argument(
        "--take",
        metavar="WAY",
        help="save this way of the table that needs no patch, in place of the "
        "patched model, also where no module helps: bias-moved, "
        "last-layer-fitted-again, regression-on-both or donor-instead",
    )
    parser.add_argument(
        "--overwrite",
        action="store_true",
        help="replace a composed model at DIR",
    )
    parser.add_argument(
        "--json", action="store_true", help="print the figures as JSON"
    )
    parser.set_defaults(run=run, arguments=None)


def run(args: argparse.Namespace) -> int:
    figures = patch_given(args)
    if args.json:
        console.print_json(figures)
    else:
        _print(figures, args)
    return 0


def patch_given(args: argparse.Namespace) -> dict[str, Any]:
    """Saves the patched model that the arguments ask for.

    Returns:
        Its figures on test images.
    """
    from kmod.cli.models import image_contract
    from kmod.cli.models import image_shape
    from kmod.cli.models import images_for
    from kmod.cli.models import load_images
    from kmod.cli.models import load_model

    name, split = _check(args)

    from kmod.composition.saving import save
    from kmod.patching.donors import read_donor

    weak = load_model(args.weak, args.output)
    donors = [read_donor(text) for text in dict.fromkeys(args.donors)]
    data = load_images(name, args, image_shape(weak), [split, "test"])
    data.images_of("test")  # The patch is measured on them.
    validation = images_for(weak, data, split)
    weak.class_names = data.class_names
    contract = image_contract(data)
    _check_shown(data, args.target_classes or ())
    choice = _choose(weak, donors, validation, contract, args)
    tried = choice.chosen or choice.tried
    _check_shown(data, [each.target_class for each in tried])
    with console.status("composing and measuring"):
        taken = _taken(choice, weak, contract, args)
        patched, figures = None, {"patches": []}
        if choice.chosen:
            spec = _spec(choice, contract, args)
            figures, patched = _build(weak, spec, data)
        ways = _ways(choice, patched, figures, data.test, args)
        metrics = {"test": figures, "ways": list(map(recorded_way, ways))}
        if taken is not None:
            way = next(way for way in ways if way["key"] == args.take)
            metrics["test"] = recorded_way(way)
        save(
            patched if taken is None else taken,
            args.out,
            metrics=metrics,
            arguments=args.arguments,
            overwrite=args.overwrite,
        )
        figures["tried"] = [each.as_dict() for each in choice.tried]
        figures["ways"] = ways
    return figures


def _check(args):
    from kmod.cli.models import check_out
    from kmod.cli.models import check_path
    from kmod.cli.models import fetched
    from kmod.composition.composition_manifest import list_composition
    from kmod.data.load import parse_split
    from kmod.data.own_images import own_path
    from kmod.modules.manifest import read_store_manifest
    from kmod.modules.module_store import split_class
    from kmod.patching.way_names import way_names

    Acceptance(_judge(args), args.max_loss)  # Refuses what is no share.
    check_out(args.out, args.overwrite, list_composition)
    name, split = parse_split(args.data)
    own_path(name, args.data_dir)
    check_path(args.weak)
    if Path(args.weak).is_dir():
        raise ArtifactError(
            "The weak model is a `.keras` file, which the spec names. "
            f"Received: '{args.weak}', a directory. Save the model with "
            "`model.save('name.keras')`."
        )
    donors = [split_class(text) for text in dict.fromkeys(args.donors)]
    if args.take is not None:
        _check_way(args.take, map(slug, way_names(len(donors))))
    num_targets = len(args.target_classes or ())
    if num_targets != 1 and any(name is not None for _, name in donors):
        raise UsageError(
            "STORE:CLASS names the module for one target. Received: "
            f"{num_targets} times `--target-class`. Give it once."
        )
    for path, _ in donors:
        read_store_manifest(Path(fetched(path)))
    if split == "test":
        raise UsageError(
            "A patch is fitted on validation images, because the test images "
            f"measure it. Received: --data {args.data}. Give "
            f"{name}:validation."
        )
    return name, split


def _check_shown(data, targets):
    """Refuses test images that do not show a class to patch."""
    import numpy as np

    counts = np.bincount(data.test.labels, minlength=len(data.class_names))
    absent = [
        name
        for name, count in zip(data.class_names, counts)
        if name in targets and not count
    ]
    if absent:
        raise ArtifactError(
            "A patch is measured on test images, which must show its class. "
            f"Received: test images of {data.name!r} without any of {absent}. "
            "Add some."
        )


def _check_way(key, known):
    known = list(known)
    if key not in known:
        raise UsageError(
            "`--take` must be a way that there is without a patch, one of "
            f"{known}. Received: --take {key}. Leave it out to take the patch."
        )


def _judge(args):
    return args.judge.replace("-", "_")


def _choose(weak, donors, validation, contract, args):
    from kmod.patching.search import NoPatchError
    from kmod.patching.search import choose_patches

    try:
        return choose_patches(
            weak,
            donors,
            validation,
            target_classes=args.target_classes,
            combine=args.combine,
            contract=contract,
            auxiliary=args.auxiliary,
            judge=_judge(args),
            max_loss=args.max_loss,
            track=lambda items: console.track(items, "trying donors"),
        )
    except NoPatchError as error:
        if args.take is None:
            raise
        return error.choice


def _spec(choice, contract, args):
    from kmod.patching.patcher import patch_spec
    from kmod.spec.model import InputSpec

    stores = [each.donor.store for each in choice.chosen]
    is_same = all(contract == store.manifest.input for store in stores)
    return patch_spec(
        args.weak,
        choice.evaluation.class_names,
        [each.fit.patch for each in choice.chosen],
        [store.location for store in stores],
        Path(args.out) / _SPEC_FILE,
        None if is_same else InputSpec(contract.shape, contract.range),
        args.output,
    )


def _taken(choice, weak, contract, args):
    """Returns the model of the way that is asked for, `None` for the patch."""
    from kmod.graph import channel_graph
    from kmod.graph import rebuild
    from kmod.patching.plain_ways import take_way

    if args.take is None:
        return None
    ways = {way.key: way for way in choice.plain}
    _check_way(args.take, ways)
    logits = rebuild(channel_graph(weak, input_shape=contract.shape))
    name = Path(args.weak).stem
    return take_way(ways[args.take], logits, name, contract)


def _build(weak, spec, data):
    """Composes the spec and measures it.

    Returns:
        Figures on the test images, and the patched model.
    """
    from kmod.composition.composer import compose
    from kmod.metrics.comparison import compare_classes
    from kmod.metrics.evaluate import answers

    patched = compose(spec)
    (labels, before, _), (_, after, _) = (
        answers(model, data.test) for model in (weak, patched)
    )
    targets = [patch.class_name for patch in spec.patches]
    figures = compare_classes(labels, before, after, targets, spec.class_names)
    return figures, patched


def _ways(choice, patched, figures, test, args):
    """Measures what a user could do in place of the patch, beside it."""
    from kmod.composition.plain_ways import evaluate_ways

    names = choice.evaluation.class_names
    own = [each.target_class for each in choice.chosen or choice.tried]
    targets = [names.index(name) for name in dict.fromkeys(own)]
    rows = []
    if patched is not None:
        num_labelled = int(choice.evaluation.support.sum())
        f1 = [each["figures"]["f1"]["after"] for each in figures["patches"]]
        accuracy = figures["accuracy"]["after"]
        given = sum(f1) / len(f1), accuracy, num_labelled
        rows.append(_way("patched", "patch", patched, *given))
    evaluations = evaluate_ways(choice.plain, test.images, test.labels)
    for way, found in zip(choice.plain, evaluations):
        f1 = found.f1[targets].mean()
        given = f1, found.accuracy, way.num_labelled
        row = _way(way.name, way.key, way.laid_out, *given)
        if patched is not None and row["macs"] < rows[0]["macs"]:
            # By validation images, as the patch is chosen.
            row["is_better"] = bool(choice.is_as_good(way))
        rows.append(row)
    return rows


def _way(name, key, model, f1, accuracy, num_labelled):
    figures = {"key": key, "f1": float(f1), "accuracy": float(accuracy)}
    row = measured_way(name, model, num_labelled, **figures)
    return {**row, "is_better": False}


def _print(figures, args):
    for way in figures["ways"]:
        if way["is_better"]:
            console.print_note(
                f"Without a patch, '{way['name']}' is as good on the "
                "validation images, within a standard error, with fewer "
                f"operations. To save that, give `--take {way['key']}`."
            )
    if not figures["patches"]:
        console.print_note("No module helps, so there is no patch.")
    columns = ["", "before", "after", "gain", "95 % interval of the gain"]
    for patch in figures["patches"]:
        rows = [
            [words, *_cells(patch["figures"][name])]
            for words, name in _ROWS.items()
        ]
        title = f"class {patch['target_class']}, on test images"
        console.print_table(columns, rows, title)
    if figures["patches"]:
        console.print_table(
            columns,
            [
                [words, *_cells(figures["overall"][name])]
                for words, name in _OVERALL_ROWS.items()
            ],
            "all classes, on test images",
        )
    names = short_names(each["store"] for each in figures["tried"])
    console.print_table(
        "class donor rule F1 patched others all helps".split(),
        [
            [
                each["target_class"],
                _donor(names[each["store"]], each),
                _rule(each),
                f"{each['before']['f1']:.4f}",
                f"{each['after']['f1']:.4f}",
                *(
                    f"{each['gains'][name]['gain']:+.4f}"
                    for name in ("other_classes_accuracy", "accuracy")
                ),
                "yes" if each["helps"] else "no",
            ]
            for each in figures["tried"]
        ],
        "modules tried, on validation images",
    )
    what = "the patch and what needs none"
    if not figures["patches"]:
        what = "what needs no patch"
    console.print_table(
        ["way", "F1", "all", "parameters", "MACs", "ms", "labelled images"],
        [
            [
                way["name"],
                f"{way['f1']:.4f}",
                f"{way['accuracy']:.4f}",
                f"{way['parameters']:,}",
                f"{way['macs']:,}",
                f"{way['milliseconds']:.1f}",
                f"{way['num_labelled']:,}",
            ]
            for way in figures["ways"]
        ],
        f"{what}, on test images",
    )
    what = "the patched model" if args.take is None else f"'{args.take}'"
    console.print_note(f"Saved {what} to '{args.out}'.")


def _donor(name, tried):
    is_own = tried["class"] == tried["target_class"]
    return name if is_own else f"{name}:{tried['class']}"


def _rule(tried):
    count = len(tried["auxiliary"])
    return f"{tried['combine']} +{count}" if count else tried["combine"]


def _cells(figure):
    low, high = figure["gain_interval"]
    return [
        f"{figure['before']:.4f}",
        f"{figure['after']:.4f}",
        f"{figure['gain']:+.4f}",
        f"{low:+.4f} to {high:+.4f}",
    ]
