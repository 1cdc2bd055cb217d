"""The `kmod` command.

Exit codes: 0 good, 1 unexpected error, or a task of `kmod jobs` or something
that `kmod doctor` looks at has failed, 2 wrong usage or invalid spec,
3 something is missing or does not fit, 4 integrity broken, 5 a check failed,
130 interrupted.
"""

import argparse
import re
import traceback

import kmod
from kmod.cli import card
from kmod.cli import check
from kmod.cli import choose
from kmod.cli import compose
from kmod.cli import console
from kmod.cli import demo
from kmod.cli import dependence
from kmod.cli import distil
from kmod.cli import doctor
from kmod.cli import evaluate
from kmod.cli import export
from kmod.cli import familiarity
from kmod.cli import import_model
from kmod.cli import inspect
from kmod.cli import jobs
from kmod.cli import lock
from kmod.cli import modularize
from kmod.cli import patch
from kmod.cli import refine
from kmod.cli import report
from kmod.cli import schema
from kmod.cli import slim
from kmod.cli import test
from kmod.cli.faults import print_faults
from kmod.cli.framework_lines import hide_framework_lines
from kmod.cli.starting import collect_less_often
from kmod.cli.starting import leave_out_imports
from kmod.errors import KmodError
from kmod.errors import SpecError
from kmod.errors import reason_of
from kmod.files import claims_scope
from kmod.files.custom_layers import custom_layers_scope
from kmod.jobs.tensorflow_settings import leave_out_notes
from kmod.jobs.tensorflow_settings import use_fast_kernels
from kmod.spec.faults import LocatedError

# One file per command, in the order of the work. A command imports what is
# slow to import inside its `run`, so that `kmod --help` stays fast.
COMMANDS = (
    demo,
    modularize,
    jobs,
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
    card,
    doctor,
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
# Options of all commands, in front of the command or behind it.
_COMMON_OPTIONS = {
    ("-q", "--quiet"): "print results, warnings and errors only",
    ("-v", "--verbose"): "print progress without a terminal, too, and what "
    "TensorFlow says",
    ("--debug",): "show the traceback of an error",
}


def main(argv: list[str] | None = None) -> int:
    """Runs the command line.

    Args:
        argv: Arguments after the program's name. Defaults to `sys.argv`'s.

    Returns:
        The exit code. Wrong usage leaves by `SystemExit`, as with argparse.
    """
    use_fast_kernels()
    parser = build_parser()
    args = parser.parse_args(argv)
    if args.quiet and args.verbose:
        parser.error("give either --quiet or --verbose")
    _set_up_messages(args, is_program=argv is None)
    if argv is None:
        collect_less_often()
        leave_out_imports()
    try:
        custom_layers = getattr(args, "custom_layers", ())
        with claims_scope(), custom_layers_scope(custom_layers):
            return args.run(args)
    except (Exception, KeyboardInterrupt) as error:
        if args.debug:
            traceback.print_exc()
        if isinstance(error, LocatedError):
            print_faults(error)
            return error.exit_code
        exit_code, message = explain(error)
        if isinstance(error, KeyboardInterrupt) and "how_to_resume" in args:
            message += args.how_to_resume(args)
        if isinstance(error, KmodError) and not isinstance(error, SpecError):
            message = in_options(message, args.options)
        console.print_message(message, style="red")
        return exit_code


def _set_up_messages(args, is_program):
    """Decides what is said, and keeps TensorFlow's notes out of it."""
    words = "quiet" if args.quiet else "normal"
    console.set_verbosity("verbose" if args.verbose else words)
    if not args.verbose:
        leave_out_notes()
        if is_program:
            hide_framework_lines()


def build_parser() -> argparse.ArgumentParser:
    """Builds the parser of the command and of all that it has."""
    parser = argparse.ArgumentParser(
        prog="kmod",
        description="Takes a trained Keras CNN apart into one small model per "
        "class, and builds classifiers from such modules.",
    )
    parser.add_argument(
        "--version", action="version", version=f"kmod {kmod.__version__}"
    )
    for names, text in _COMMON_OPTIONS.items():
        parser.add_argument(*names, action="store_true", help=text)
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
        for names, text in _COMMON_OPTIONS.items():
            subparser.add_argument(
                *names,
                action="store_true",
                default=argparse.SUPPRESS,  # Keeps one before the command.
                help=text,
            )
        options = {
            action.dest: action.option_strings[-1]
            for action in subparser._actions
            if action.option_strings
        }
        subparser.set_defaults(options=options)
    return parser


def in_options(message: str, options: dict[str, str]) -> str:
    """Puts options of a command in the place of arguments in Python.

    Args:
        message: Message of an error.
        options: Option by the name of its argument.
    """
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


def explain(error: BaseException) -> tuple[int, str]:
    """Returns the exit code and the message of an error."""
    if isinstance(error, KeyboardInterrupt):
        return _INTERRUPTED, "kmod: interrupted."
    if isinstance(error, KmodError):
        return error.exit_code, f"kmod: {error}"
    if isinstance(error, OSError) and error.filename is not None:
        path = error.filename2 or error.filename  # Where a copy goes.
        return _MISSING, f"kmod: {path}: {error.strerror}."
    if isinstance(error, OSError):
        return _MISSING, f"kmod: {reason_of(error)}."
    name = type(error).__name__
    return _UNEXPECTED, (
        f"kmod: unexpected {name}: {reason_of(error)} (--debug shows the "
        "traceback)"
    )
