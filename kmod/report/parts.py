"""Pieces of the HTML report. Every text is escaped here."""

from collections.abc import Mapping
from collections.abc import Sequence
from html import escape


class Markup(str):
    """Text that is HTML already."""


def tile(figure: str, label: str) -> str:
    """Returns a large figure with a label."""
    return (
        f'<div class="tile"><b>{escape(figure)}</b>'
        f"<span>{escape(label)}</span></div>"
    )


def bar(share: float) -> Markup:
    """Returns a bar for a share from 0 to 1, with its percentage."""
    percent = f"{100 * share:.0f}"
    return Markup(
        f'<span class="bar"><i style="width:{percent}%"></i></span> {percent} %'
    )


def table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Returns a table; cells are text or `Markup`."""
    head = "".join(f"<th>{escape(column)}</th>" for column in columns)
    body = "".join(
        "<tr>" + "".join(f"<td>{_cell(cell)}</td>" for cell in row) + "</tr>"
        for row in rows
    )
    return f'<div class="wide"><table><tr>{head}</tr>{body}</table></div>'


def heat_table(
    columns: Sequence[str], rows: Mapping[str, Sequence[float]]
) -> str:
    """Returns a table of shares from 0 to 1 in percent, darker for more."""
    head = "".join(f"<th>{escape(column)}</th>" for column in ["", *columns])
    body = "".join(
        f"<tr><td>{escape(name)}</td>{''.join(map(_heat, row))}</tr>"
        for name, row in rows.items()
    )
    return f'<div class="wide"><table><tr>{head}</tr>{body}</table></div>'


def _heat(share):
    ink = "#fff" if share > 0.6 else "inherit"
    shade = f"background:rgba(47,111,179,{share:.2f});color:{ink}"
    return f'<td class="heat" style="{shade}">{100 * share:.0f}</td>'


def _cell(cell):
    return cell if isinstance(cell, Markup) else escape(cell)
