"""`kmod card`: prints the model card of a store or composed model."""

import argparse
import os
from pathlib import Path

from kmod.cli import console


def add_parser(subparsers) -> None:
    parser = subparsers.add_parser(
        "card",
        help="print the model card of a store or composed model",
        description="Prints Markdown behind a front matter, as the Hugging "
        "Face Hub reads it. A composed model holds its card already; --save "
        "writes that of a store into it, as README.md. `hf upload NAME PATH` "
        "then publishes either.",
    )
    parser.add_argument(
        "path", metavar="PATH", help="module store or composed model"
    )
    parser.add_argument(
        "--save",
        action="store_true",
        help="write the card of a store into it, in the place of one that "
        "nobody edited",
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    from kmod.cli.models import check_path
    from kmod.composition.composition_manifest import COMPOSITION_FILE
    from kmod.composition.composition_manifest import check_composition
    from kmod.files.model_card import CARD_FILE
    from kmod.files.remote import is_url
    from kmod.modules.module_store import load_store
    from kmod.modules.store_card import add_card
    from kmod.modules.store_card import store_card

    path = Path(args.path)
    if not is_url(args.path):
        check_path(path)
    if os.path.lexists(path / COMPOSITION_FILE):
        check_composition(path)
        card = (path / CARD_FILE).read_text(encoding="utf-8")
    else:
        store = load_store(args.path)
        card = store_card(store)
        if args.save:
            add_card(store)
            console.print_note(f"Wrote '{path / CARD_FILE}'.")
    console.print_data(card.rstrip("\n"))
    return 0
