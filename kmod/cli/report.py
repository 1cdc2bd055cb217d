"""`kmod report`: writes a page about what kmod made."""

import argparse

from kmod.cli import console
from kmod.cli.models import add_data_arguments


def add_parser(subparsers) -> None:
    parser = subparsers.add_parser(
        "report",
        help="write a page about a store, a composed model, a demo or a spec",
        description="Writes one HTML page that needs no network: what PATH "
        "is, its size, which class comes from which source, the kernels that "
        "are kept, where it is from and how it is made again. With --data, "
        "figures of every class, confusions, calibration, its worst answers, "
        "what its modules look at and what a patch changed. A spec is composed "
        "first.",
    )
    parser.add_argument(
        "path",
        metavar="PATH",
        help="module store, composed model, demo or spec",
    )
    add_data_arguments(
        parser,
        "images to measure on; without a split, its test images",
        required=False,
    )
    parser.add_argument(
        "--out",
        default="report.html",
        metavar="FILE",
        help="file to write (default: report.html)",
    )
    parser.add_argument(
        "--overwrite",
        action="store_true",
        help="replace a report at FILE that nobody changed",
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    from kmod.cli.models import check_path
    from kmod.cli.models import fetched
    from kmod.cli.models import load_images
    from kmod.data.load import split_name
    from kmod.data.own_images import own_path
    from kmod.files import check_output_file

    check_output_file(args.out, args.overwrite)
    name, split = split_name(args.data or "")
    if name:
        own_path(name, args.data_dir)
    path = fetched(args.path)
    check_path(path)

    from kmod.report.subject import open_subject

    with console.status("reading"):
        subject = open_subject(path, args.data_dir)

    from kmod.report.page import write_page
    from kmod.report.write import read_images
    from kmod.report.write import report_page

    images, split = None, split or "test"
    if name:
        shape = subject.manifest.input.shape
        data = load_images(name, args, shape, [split])
        images = read_images(subject, data, split)
    with console.status("measuring" if name else "writing"):
        page = report_page(subject, images, f"{data_title(name)}:{split}")
        write_page(page, args.out, args.overwrite)
    console.print_note(f"Saved to '{args.out}'.")
    return 0


def data_title(name: str) -> str:
    """Returns what data are called: of a path its last part."""
    return name.rstrip("/").rpartition("/")[2]
