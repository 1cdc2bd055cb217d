"""`kmod modularize`: takes a model apart into a module store."""

import argparse
import dataclasses
import shlex
from pathlib import Path

from kmod.cli import console
from kmod.cli.determinism import add_deterministic_argument
from kmod.cli.determinism import prepare
from kmod.cli.models import NO_RUN
from kmod.cli.models import add_batch_size_argument
from kmod.cli.models import add_data_arguments
from kmod.cli.models import add_output_argument
from kmod.cli.models import add_seed_argument
from kmod.cli.models import how_to_resume
from kmod.cli.models import license_expression
from kmod.cli.models import positive_integer
from kmod.cli.module_table import module_row
from kmod.cli.negatives import add_negatives_argument
from kmod.cli.store_making import OPTIONS_OF
from kmod.cli.store_making import budget_of
from kmod.cli.store_making import check_options
from kmod.cli.store_making import cut_given
from kmod.cli.store_making import find_masks
from kmod.cli.store_making import read_given
from kmod.cli.store_making import search_options
from kmod.modular.cnnsplitter.options import HEAD_EPOCHS
from kmod.modular.cnnsplitter.options import SearchOptions
from kmod.modular.recipe import BUDGETS
from kmod.modular.recipe import DEFAULT_EPOCHS
from kmod.modular.recipe import Recipe

REFINE_EPOCHS = 4
# A network that keeps more than this hardly became smaller.
MUCH_KEPT = 0.85
# Modules that miss what was asked for by more are of little use.
MUCH_LOST = 0.05
MACS_MARGIN = 0.02
# More layers take too long to compose for the latency alone.
MAX_LAYERS = 300
NUM_LISTED, NUM_SHOWN = 12, 3


def add_parser(subparsers) -> None:
    parser = subparsers.add_parser(
        "modularize",
        help="take a trained model apart into one module per class",
        description="Searches for each class's kernels, cuts the modules out, "
        "trains them together with their source as teacher, saves them as a "
        "store and prints what they are beside their source. "
        "What a run has reached is kept in the "
        "directory .STORE.run beside the store until that is saved; a run "
        "that was cut short goes on with --resume and ends as if it had not "
        "been.",
    )
    parser.add_argument(
        "source",
        metavar="SOURCE.keras",
        help="trained model, or a call such as "
        "'MobileNetV2(weights=\"own.weights.h5\", classes=4)'",
    )
    add_data_arguments(parser, "images to train and validate on", split=False)
    add_negatives_argument(parser)
    parser.add_argument(
        "--out", required=True, metavar="STORE", help="directory to make"
    )
    parser.add_argument(
        "--method",
        choices=OPTIONS_OF,
        default="gradsplitter",
        help="how masks are found: by gradient or by genetic search (default: "
        "gradsplitter)",
    )
    add_batch_size_argument(parser)
    parser.add_argument(
        "--retention-target",
        type=float,
        metavar="R",
        help="share of kernels to come down to, not with --recipe paper "
        f"(default: {Recipe.retention_target:g}; cnnsplitter: "
        f"{SearchOptions.retention_target:g})",
    )
    parser.add_argument(
        "--mask-from",
        metavar="LAYER",
        help="first layer whose kernels may go; `kmod inspect` lists them",
    )
    refinement = parser.add_mutually_exclusive_group()
    refinement.add_argument(
        "--refine-epochs",
        type=positive_integer,
        default=REFINE_EPOCHS,
        metavar="N",
        help="epochs in which the cut modules learn together (default: "
        f"{REFINE_EPOCHS})",
    )
    refinement.add_argument(
        "--frozen",
        action="store_true",
        help="leave the kernels as they are in the source model",
    )
    add_output_argument(parser, "the model")
    add_seed_argument(parser)
    add_deterministic_argument(parser)
    parser.add_argument(
        "--license",
        type=license_expression,
        metavar="SPDX",
        help="licence of the modules",
    )
    parser.add_argument(
        "--overwrite", action="store_true", help="replace a store at STORE"
    )
    parser.add_argument(
        "--resume",
        action="store_true",
        help="go on with a run cut short, which needs the same source, data "
        "and options; without one, a new run begins",
    )
    parser.add_argument(
        "--json", action="store_true", help="print the figures as JSON"
    )
    _add_gradsplitter(parser.add_argument_group("gradsplitter"))
    _add_cnnsplitter(parser.add_argument_group("cnnsplitter"))
    parser.set_defaults(run=run, how_to_resume=how_to_resume)


def _add_gradsplitter(group):
    group.add_argument(
        "--recipe",
        choices=("default", "paper"),
        help="settings of the training: ours, or the published ones (default: "
        "default)",
    )
    group.add_argument(
        "--for",
        dest="purpose",
        choices=BUDGETS,
        help="what the modules are for: all of them shall cost no more than "
        "the source model together, or each shall be small alone (default: "
        "together)",
    )
    group.add_argument(
        "--epochs",
        type=positive_integer,
        metavar="N",
        help="epochs of the search for kernels (default: "
        f"{DEFAULT_EPOCHS}; --recipe paper has 145)",
    )
    group.add_argument(
        "--macs-target",
        type=float,
        metavar="M",
        help="limit of what all modules composed may cost, as a multiple of "
        "the source model's multiply-accumulates (default: 1 --for together)",
    )
    group.add_argument(
        "--accuracy-budget",
        type=float,
        metavar="B",
        help="accuracy that modules may lose on validation images before they "
        "learn together: the epoch of the fewest kernels within it is kept "
        f"(default: {BUDGETS['together']:g}, --for alone "
        f"{BUDGETS['alone']:g})",
    )


def _add_cnnsplitter(group):
    group.add_argument(
        "--population",
        type=int,
        metavar="N",
        help="individuals of each class, at least 4 (default: "
        f"{SearchOptions.population})",
    )
    group.add_argument(
        "--generations",
        type=int,
        metavar="N",
        help="generations at most (default: " f"{SearchOptions.generations})",
    )
    group.add_argument(
        "--patience",
        type=int,
        metavar="N",
        help="generations without a better choice before the search stops "
        f"(default: {SearchOptions.patience})",
    )
    group.add_argument(
        "--images",
        type=int,
        metavar="N",
        help="validation images that fitness is measured on (default: "
        f"{SearchOptions.images})",
    )
    group.add_argument(
        "--head-epochs",
        type=int,
        metavar="N",
        help="epochs that train heads, scales and shifts afterwards "
        f"(default: {HEAD_EPOCHS})",
    )
    group.add_argument(
        "--figures", metavar="DIR", help="draw what was measured, needs viz"
    )


def run(args: argparse.Namespace) -> int:
    from kmod.cli.models import check_out
    from kmod.cli.models import check_path
    from kmod.data.own_images import own_path
    from kmod.files.run_directory import directory_beside
    from kmod.files.run_directory import discard_run
    from kmod.files.run_directory import run_digest
    from kmod.modules.module_store import list_store
    from kmod.modules.module_store import save_store

    check_options(args)
    out = Path(args.out)
    run_directory = directory_beside(out)
    begun = run_digest(run_directory) if args.resume else None
    # A run that was cut short behind its store writes the same once more.
    is_written = begun is not None and _run_of(out) == begun
    overwrite = args.overwrite or is_written
    out = check_out(out, overwrite, list_store)
    own_path(args.data, args.data_dir)
    check_path(args.source, takes_calls=True)
    if args.resume and begun is None:
        console.print_note(NO_RUN.format(run_directory))

    from kmod.export.write import check_backend
    from kmod.modules.contract import latency_check

    check_backend()
    prepare(args)
    given = read_given(args)
    modular, arguments = find_masks(args, given, run_directory, args.resume)
    arguments["run"] = run_digest(run_directory)
    content = cut_given(args, given, modular, arguments, out)
    with console.status("measuring"):
        composed = _composition(modular.flat_source, content)
    if composed["seconds"] is not None:
        ratio = composed["seconds"] / composed["source_seconds"]
        content = dataclasses.replace(content, checks=[latency_check(ratio)])
    store = save_store(out, content, overwrite)
    discard_run(run_directory)
    figures = _figures(args, modular, store, composed)
    figures["calibration"]["num_images"] = len(given.data.validation.labels)
    figures["next"] = _next(store)
    if args.json:
        console.print_json(figures)
    else:
        _print(figures)
    return 0


def _figures(args, modular, store, composed):
    """What the modules are beside their source, and what chose them."""
    infos = [store.info(name) for name in store]
    figures = {
        "store": str(store.path),
        "metrics": store.manifest.metrics,
        "modules": [module_row(info) for info in infos],
        "chosen_epoch": _chosen(args, modular),
        "composition": composed,
        "calibration": {
            "uncalibrated": [
                info.class_name
                for info in infos
                if (info.calibration["scale"], info.calibration["shift"])
                == (1, 0)
            ]
        },
    }
    return figures | {"advice": _advice(args, modular, figures)}


def _chosen(args, modular):
    """The epoch that was restored, and why; `None` if none was trained."""
    chosen = modular.chosen_epoch
    if chosen is None:
        return None
    if args.method == "cnnsplitter":
        epochs = HEAD_EPOCHS if args.head_epochs is None else args.head_epochs
        reason = "most accurate"  # The search chose the kernels.
    else:
        epochs = args.epochs or modular.recipe.epochs or DEFAULT_EPOCHS
        least = f"{chosen.least_accuracy:.1%}"
        reason = f"most accurate, none has {least}"
        if chosen.is_within_budget:
            reason = f"fewest kernels with {least} or more"
    return {
        "epoch": chosen.epoch + 1,
        "epochs": epochs,
        "accuracy": chosen.accuracy,
        "retention_rate": chosen.retention_rate,
        "reason": reason,
    }


def _composition(source, content):
    """Sizes of all modules as one model, and how long it takes.

    Where it would take too long to build, sizes are estimated: the stem once
    and every branch.
    """
    from kmod.composition.measures import side_by_side
    from kmod.graph.sizes import model_sizes
    from kmod.metrics.latency import measure_latency

    stem = content.manifest.metrics["stem"]
    infos = [module.info for module in content.modules]
    figures = {
        key: stem[key] + sum(getattr(info, key) - stem[key] for info in infos)
        for key in ("parameters", "macs")
    }
    if len(source.layers) * len(infos) > MAX_LAYERS:
        return {**figures, "seconds": None, "source_seconds": None}
    model = side_by_side({m.info.class_name: m.model for m in content.modules})
    sizes = model_sizes(model)
    return {
        "parameters": sizes.parameters,
        "macs": sizes.macs,
        "seconds": measure_latency(model),
        "source_seconds": measure_latency(source),
    }


def _advice(args, modular, figures):
    """What helps where modules keep or cost too much, or lose much."""
    from kmod.modular.macs import mask_starts
    from kmod.modular.macs import propose_start

    proposed = propose_start(mask_starts(modular.graph, modular.flat_source))
    layers = modular.kernels.layers
    begins = layers.index(modular.mask_from) if modular.mask_from else 0
    is_earlier = begins < layers.index(proposed.layer)
    kept = figures["metrics"]["after"]["retention_rate"]
    limit = modular.recipe.macs_target
    is_cheap = limit is None or _cost(figures) <= limit + MACS_MARGIN
    if kept <= MUCH_KEPT and is_cheap:
        return _advice_on_loss(args, modular, figures, is_earlier and proposed)
    target = modular.recipe.retention_target
    if args.method == "cnnsplitter":
        target = search_options(args).retention_target
    advice = []
    if target is not None and kept <= target + 0.01:
        advice.append(
            "a lower --retention-target: the modules came down to that of "
            f"{target:g}, and no further"
        )
    elif args.method == "gradsplitter":
        chosen = figures["chosen_epoch"]
        budget = budget_of(args)
        advice += [
            f"--epochs {2 * chosen['epochs']}, so that modules recover from "
            "what they lose; epochs with fewer kernels lost more than "
            f"{budget:.1%} of accuracy",
            f"--accuracy-budget {2 * budget or BUDGETS['alone']:g}, if that "
            "is worth the size, with more --refine-epochs, which win accuracy "
            "back",
        ]
    if is_earlier:
        advice.append(
            f"--mask-from {proposed.layer} --macs-target 1, if all modules "
            "together shall be cheap: compact networks have few kernels to "
            "spare, but a stem is computed once"
        )
    return advice


def _cost(figures):
    """MACs of all modules composed ÷ those of the source model."""
    return figures["composition"]["macs"] / figures["metrics"]["before"]["macs"]


def _advice_on_loss(args, modular, figures, later_start):
    before, after = (figures["metrics"][key] for key in ("before", "after"))
    lost = before["accuracy"] - after["accuracy"]
    if args.method != "gradsplitter" or lost <= MUCH_LOST:
        return []
    epochs = args.epochs or modular.recipe.epochs or DEFAULT_EPOCHS
    advice = [
        f"--epochs {2 * epochs}, more --refine-epochs, or more images, so that "
        "modules recover from what they lose"
    ]
    target = modular.recipe.retention_target
    if target is not None:
        advice.append(f"a higher --retention-target than {target:g}")
    if later_start:
        advice.append(
            f"--mask-from {later_start.layer}, behind which fewer layers "
            "lose kernels"
        )
    return advice


def _next(store):
    """A spec of all classes, and the commands that check and compose it."""
    from kmod.files import slug
    from kmod.spec.spec_file import spec_text

    name = slug(store.path.name)
    path = store.path.with_name(f"{name}.yaml")
    classes = [
        {"name": each, "module": {"store": name, "class": each}}
        for each in store
    ]
    spec = {
        "version": 1,
        "name": name,
        "stores": {name: {"path": store.path}},
        "classes": classes,
    }
    shown = _relative(path)
    return {
        "path": shown,
        "spec": spec_text(spec, path),
        "commands": [
            shlex.join(["kmod", "check", shown]),
            shlex.join(["kmod", "compose", shown, "--out", f"built/{name}"]),
        ],
    }


def _relative(path):
    """Returns a path as a user would type it from here."""
    here = Path.cwd()
    return str(path.relative_to(here) if path.is_relative_to(here) else path)


def _shortened(spec):
    """Leaves most classes of a long spec out, which is then still valid."""
    start, *classes = spec.split("\n- ")
    if len(classes) <= NUM_LISTED:
        return spec
    shown = "\n- ".join([start, *classes[:NUM_SHOWN]])
    return f"{shown}\n# and so on, {len(classes)} classes\n"


def _print(figures):
    console.print_table(
        ["on validation images", "source", "modules", ""], _rows(figures)
    )
    advice = figures["advice"]
    if advice:
        before, after = (figures["metrics"][key] for key in ("before", "after"))
        lost = before["accuracy"] - after["accuracy"]
        if after["retention_rate"] > MUCH_KEPT:
            does = f"keep {after['retention_rate']:.0%} of the kernels"
        elif lost > MUCH_LOST:
            does = f"lose {100 * lost:.1f} points of accuracy"
        else:
            does = f"cost {_cost(figures):.2f}x their source's MACs together"
        console.print_note(f"The modules {does}. What helps:")
        for each in advice:
            console.print_note(f"- {each}.")
    store, following = figures["store"], figures["next"]
    shown = _relative(Path(store))
    console.print_note(
        f"Saved to '{shown}'; `kmod inspect {shlex.quote(shown)}` lists the "
        f"modules. Next, write the spec of a model into {following['path']}:\n"
    )
    console.print_note(_shortened(following["spec"]))
    console.print_note("\n".join(following["commands"]))


def _rows(figures):
    before, after = (figures["metrics"][key] for key in ("before", "after"))
    gain = 100 * (after["accuracy"] - before["accuracy"])
    chosen, calibration = figures["chosen_epoch"], figures["calibration"]
    modules, composed = figures["modules"], figures["composition"]
    rows = [
        [
            "accuracy",
            f"{before['accuracy']:.1%}",
            f"{after['accuracy']:.1%}",
            f"{gain:+.1f} points",
        ],
        ["kernels kept", "100.0%", f"{after['retention_rate']:.1%}", "mean"],
    ]
    for key, word in (("parameters", "parameters"), ("macs", "MACs")):
        mean = sum(row[key] for row in modules) / len(modules)
        rows += [
            [f"{word}, one module", *_beside(before[key], round(mean), "{:,}")],
            [f"{word}, all", *_beside(before[key], composed[key], "{:,}")],
        ]
    if composed["seconds"] is not None:
        times = composed["source_seconds"], composed["seconds"]
        times = [1000 * seconds for seconds in times]
        rows.append(["latency in ms, all", *_beside(*times, "{:.2f}")])
    if chosen is not None:
        which = f"{chosen['epoch']} of {chosen['epochs']}"
        rows.append(["epoch chosen", "", which, chosen["reason"]])
    missing = calibration["uncalibrated"]
    fitted = f"on {calibration['num_images']} images"
    if missing:
        fitted += f"; not {', '.join(missing)}, whose scores tell nothing"
    count = f"{len(modules) - len(missing)} of {len(modules)}"
    rows.append(["calibrated", "", count, fitted])
    return rows


def _beside(source, modules, form):
    ratio = modules / source
    return [form.format(source), form.format(modules), f"{ratio:.2f}x"]


def _run_of(out):
    """Returns the digest of the run that wrote a store, if there is one."""
    from kmod.errors import ArtifactError
    from kmod.modules.module_store import load_store

    try:
        return load_store(out, verify=False).manifest.arguments.get("run")
    except ArtifactError:
        return None
