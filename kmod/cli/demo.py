"""`kmod demo`: the whole way on real images."""

import argparse

from kmod.cli import console
from kmod.cli.determinism import add_deterministic_argument
from kmod.cli.determinism import prepare
from kmod.cli.models import add_seed_argument
from kmod.cli.models import check_out
from kmod.demo.settings import SETTINGS
from kmod.demo.settings import list_demo


def add_parser(subparsers) -> None:
    parser = subparsers.add_parser(
        "demo",
        help="the whole way on real images, in a few minutes",
        description="Trains a source model, takes it apart, composes its "
        "modules, patches a weak model, and writes results.json and "
        "report.html.",
    )
    parser.add_argument(
        "--data",
        default="digits",
        choices=tuple(SETTINGS),
        help="data set; digits needs no files (default)",
    )
    parser.add_argument(
        "--data-dir", metavar="DIR", help="prepared TensorFlow Datasets"
    )
    parser.add_argument(
        "--out", default="kmod-demo", metavar="DIR", help="(default: kmod-demo)"
    )
    add_seed_argument(parser)
    add_deterministic_argument(parser)
    parser.add_argument(
        "--overwrite",
        action="store_true",
        help="replace an earlier demo at DIR that nobody changed",
    )
    parser.add_argument(
        "--json", action="store_true", help="print the results as JSON"
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    check_out(args.out, args.overwrite, list_demo)

    from kmod.demo.pipeline import run_demo
    from kmod.export.write import check_backend

    check_backend()
    prepare(args)
    results = run_demo(
        args.data,
        args.out,
        data_dir=args.data_dir,
        seed=args.seed,
        overwrite=args.overwrite,
        say=lambda step: console.print_note(f"… {step}"),
        verbose=console.training_verbosity(),
    )
    if args.json:
        console.print_json(results)
    else:
        _print_summary(results)
        console.print_note(f"report: {args.out}/report.html")
    return 0


def _print_summary(results):
    patch = results["patch"]
    others = patch["other_classes_accuracy"]
    console.print_table(
        ["on test images", "before", "after"],
        [
            [
                "accuracy: source, composed",
                f"{results['source_accuracy']:.2%}",
                f"{results['composed_accuracy']:.2%}",
            ],
            [
                "kernels kept per module",
                "100%",
                f"{results['retention_rate']:.0%}",
            ],
            [
                f"weak model's F1 on {patch['target_class']!r}",
                f"{patch['before']['f1']:.3f}",
                f"{patch['after']['f1']:.3f}",
            ],
            [
                "weak model's accuracy on the others",
                f"{others['before']:.2%}",
                f"{others['after']:.2%}",
            ],
        ],
    )
