"""Turns a page of parts into one HTML file that needs nothing else."""

import base64
import functools
import hashlib
import os
from importlib import resources
from pathlib import Path

import jinja2
import numpy as np
from markupsafe import Markup

from kmod import __version__
from kmod.files import atomic_write
from kmod.files import check_output_file
from kmod.files import seal
from kmod.report.drawings import draw_diagram
from kmod.report.drawings import draw_histogram
from kmod.report.drawings import draw_reliability
from kmod.report.parts import Page

SHADES = 10  # Above none; each has a colour in `page.css`.


def write_page(page: Page, path: str | Path, overwrite: bool = False) -> Path:
    """Writes a page, whole or not at all.

    Args:
        page: The page.
        path: File to write.
        overwrite: Whether a page may be replaced that kmod wrote and nobody
            changed.

    Returns:
        The path.

    Raises:
        UsageError: If something is there that may not be replaced.
    """
    path = Path(path)
    check_output_file(path, overwrite)
    atomic_write(path, seal(render_page(page), "<!-- {} -->"))
    return path


def render_page(page: Page) -> str:
    """Returns a page as HTML, which may hold any text as names."""
    style, script = (_file(name) for name in ("page.css", "page.js"))
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest())
    return (
        _environment()
        .get_template("page.html.j2")
        .render(
            page=page,
            version=__version__,
            # The page's own style sheet and script are the only markup that
            # is not escaped.
            style=Markup(style),
            script=Markup(script),
            script_digest=digest.decode(),
        )
    )


@functools.cache
def _environment():
    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(_file),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters["shade"] = shade
    environment.globals.update(
        draw_diagram=draw_diagram,
        draw_histogram=draw_histogram,
        draw_reliability=draw_reliability,
        is_text=lambda cell: isinstance(cell, str),
    )
    return environment


def _file(name):
    folder = resources.files("kmod.report") / "templates"
    return folder.joinpath(os.path.basename(name)).read_text(encoding="utf-8")


def shade(share: float) -> int | None:
    """Returns the number of a share's colour, `None` where there is none."""
    if np.isnan(share):
        return None
    # Whatever is above nothing is seen, and only all of it is darkest.
    return min(int(np.ceil(share * SHADES - 1e-9)), SHADES)
