"""Turns a page of parts into one HTML file that needs nothing else."""

import base64
import functools
import hashlib
import os
import re
from importlib import resources
from pathlib import Path

import jinja2
import numpy as np
from markupsafe import Markup

from kmod import __version__
from kmod.files import atomic_write
from kmod.files import check_output_file
from kmod.files import seal
from kmod.report.drawings import Drawing
from kmod.report.drawings import draw_diagram
from kmod.report.drawings import draw_histogram
from kmod.report.drawings import draw_reliability
from kmod.report.parts import Page

SHADES = 10  # Above none; each has a colour in `page.css`.
_COLOUR = re.compile(r"--([\w-]+): (#[0-9a-f]{6})")
_VARIABLE = re.compile(r"var\(--([\w-]+)\)")
_DRAWING_RULE = re.compile(r"^\.(?:drawing|svg-).*$", re.M)
_FONT = "font-family: system-ui, sans-serif;"
_NOT_XML = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ufffe\uffff]")


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


def write_drawing(
    drawing: Drawing, title: str, path: str | Path, overwrite: bool = False
) -> None:
    """Writes a drawing as an SVG file, whole or not at all.

    Args:
        drawing: The drawing.
        title: What it shows.
        path: File to write.
        overwrite: Whether a drawing may be replaced that kmod wrote and nobody
            changed.

    Raises:
        UsageError: If something is there that may not be replaced.
    """
    check_output_file(path, overwrite)
    atomic_write(path, seal(render_drawing(drawing, title), "<!-- {} -->"))


def render_drawing(drawing: Drawing, title: str) -> str:
    """Returns a drawing as SVG, in the light colours of a page."""
    style = _file("page.css")
    colours = dict(_COLOUR.findall(style.partition("}")[0]))
    rules = "\n".join(_DRAWING_RULE.findall(style))
    rules = _VARIABLE.sub(lambda found: colours[found[1]], rules)
    text = (
        _environment()
        .get_template("drawing.svg.j2")
        .render(
            drawing=drawing,
            title=title,
            style=Markup(f".drawing {{ {_FONT} }}\n{rules}"),
            ground=colours["card"],
        )
    )
    return _NOT_XML.sub("\N{REPLACEMENT CHARACTER}", text)


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
