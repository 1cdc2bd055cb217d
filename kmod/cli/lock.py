"""`kmod lock`: writes down what exactly a spec is made from."""

import argparse

from kmod.cli import console
from kmod.cli.compose import load_plan


def add_parser(subparsers) -> None:
    parser = subparsers.add_parser(
        "lock",
        help="write the digests of what a spec is made from",
        description="Writes SPEC's lock, NAME.lock.yaml beside NAME.yaml: the "
        "digests of the stores and modules that it uses, and the versions of "
        "kmod, Keras and TensorFlow. `kmod compose --locked` then refuses "
        "anything else.",
    )
    parser.add_argument("spec", metavar="SPEC", help="YAML file")
    parser.add_argument(
        "--check",
        action="store_true",
        help="write nothing; fail if the lock is out of date",
    )
    parser.add_argument(
        "--json", action="store_true", help="print the lock as JSON"
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    from kmod.composition.lock import check_lock
    from kmod.composition.lock import lock_data
    from kmod.composition.lock import lock_path
    from kmod.composition.lock import write_lock

    planned = load_plan(args.spec)
    if args.check:
        check_lock(planned)
    else:
        write_lock(planned)
    if args.json:
        console.print_json(lock_data(planned))
    else:
        path = lock_path(args.spec)
        done = "is up to date" if args.check else "written"
        console.print_data(f"{path}: {done}")
    return 0
