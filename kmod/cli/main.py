"""The `kmod` command.

Exit codes: 0 good, 1 unexpected error, 2 wrong usage or invalid spec,
3 something is missing or does not fit, 4 integrity broken, 5 a check failed,
130 interrupted.
"""

import argparse
import logging
import os
import platform
import re
import traceback

import kmod
from kmod.cli import check
from kmod.cli import choose
from kmod.cli import compose
from kmod.cli import console
from kmod.cli import demo
from kmod.cli import dependence
from kmod.cli import distil
from kmod.cli import evaluate
from kmod.cli import export
from kmod.cli import familiarity
from kmod.cli import import_model
from kmod.cli import inspect
from kmod.cli import lock
from kmod.cli import modularize
from kmod.cli import patch
from kmod.cli import refine
from kmod.cli import report
from kmod.cli import schema
from kmod.cli import slim
from kmod.cli import test
from kmod.cli.faults import print_faults
from kmod.errors import KmodError
from kmod.errors import SpecError
from kmod.files.custom_layers import custom_layers_scope
from kmod.spec.faults import LocatedError

# One file per command, in the order of the work. A command imports what is
# slow to import inside its `run`, so that `kmod --help` stays fast.
COMMANDS = (
    demo,
    modularize,
    refine,
    import_model,
    familiarity,
    dependence,
    inspect,
    check,
    lock,
    choose,
    compose,
    distil,
    patch,
    slim,
    evaluate,
    export,
    report,
    test,
    schema,
)

LOADING_MODELS = frozenset(
    "choose compose dependence distil evaluate export import inspect "
    "modularize patch refine report slim test".split()
)

_UNEXPECTED = 1
_MISSING = 3
_INTERRUPTED = 130
_DEBUG_HELP = "show the traceback of an error"


def main(argv: list[str] | None = None) -> int:
    """Runs the command line.

    Args:
        argv: Arguments after the program's name. Defaults to `sys.argv`'s.

    Returns:
        The exit code. Wrong usage leaves by `SystemExit`, as with argparse.
    """
    _set_up_tensorflow()
    args = _build_parser().parse_args(argv)
    try:
        with custom_layers_scope(getattr(args, "custom_layers", ())):
            return args.run(args)
    except (Exception, KeyboardInterrupt) as error:
        if args.debug:
            traceback.print_exc()
        if isinstance(error, LocatedError):
            print_faults(error)
            return error.exit_code
        exit_code, message = _explain(error)
        if isinstance(error, KmodError) and not isinstance(error, SpecError):
            message = _in_options(message, args.options)
        console.print_message(message, style="red")
        return exit_code


def _set_up_tensorflow():
    """Keeps TensorFlow's notes out of the messages and its fast kernels on.

    TensorFlow leaves oneDNN off on some processors, such as those without
    AVX-512, though convolutions gain there as well.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    if platform.machine() in ("x86_64", "AMD64"):
        os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
    logging.getLogger("tensorflow").setLevel(logging.ERROR)


def _build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="kmod",
        description="Takes a trained Keras CNN apart into one small model per "
        "class, and builds classifiers from such modules.",
    )
    parser.add_argument(
        "--version", action="version", version=f"kmod {kmod.__version__}"
    )
    parser.add_argument("--debug", action="store_true", help=_DEBUG_HELP)
    subparsers = parser.add_subparsers(required=True, metavar="COMMAND")
    for command in COMMANDS:
        command.add_parser(subparsers)
    for name, subparser in subparsers.choices.items():
        if name in LOADING_MODELS:
            subparser.add_argument(
                "--custom-layers",
                action="append",
                default=[],
                metavar="MODULE",
                help="Python module that registers layers of your own, which "
                "models may then hold; it is imported",
            )
        subparser.add_argument(
            "--debug",
            action="store_true",
            default=argparse.SUPPRESS,  # Keeps a --debug before the command.
            help=_DEBUG_HELP,
        )
        options = {
            action.dest: action.option_strings[-1]
            for action in subparser._actions
            if action.option_strings
        }
        subparser.set_defaults(options=options)
    return parser


def _in_options(message: str, options: dict[str, str]) -> str:
    """Puts options of the command in the place of arguments in Python."""
    for argument, option in options.items():
        message = message.replace(f"`{argument}`", f"`{option}`")
        for value, words in (
            ("=True", option),
            ("=None", f"no {option}"),
            ("=", f"{option} "),
        ):
            message = re.sub(rf"(?<![\w-]){argument}{value}", words, message)
        message = message.replace(f"`{option}` (`{option}`)", f"`{option}`")
    return message


def _explain(error: BaseException) -> tuple[int, str]:
    """Exit code and message of an error."""
    if isinstance(error, KeyboardInterrupt):
        return _INTERRUPTED, "kmod: interrupted."
    if isinstance(error, KmodError):
        return error.exit_code, f"kmod: {error}"
    if isinstance(error, OSError) and error.filename is not None:
        return _MISSING, f"kmod: {error.filename}: {error.strerror}."
    if isinstance(error, OSError):
        return _MISSING, f"kmod: {error}"
    name = type(error).__name__
    first_line = str(error).partition("\n")[0]
    return _UNEXPECTED, (
        f"kmod: unexpected {name}: {first_line} (--debug shows the traceback)"
    )
