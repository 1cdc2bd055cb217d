"""Settings of the documentation site, whose pages are this repository's.

sphinx-build -W -c docs . build/site
"""

import posixpath
import re

import kmod

project = "kmod"
release = kmod.__version__
root_doc = "docs/index"
include_patterns = [
    "README.md",
    "CHANGELOG.md",
    "SECURITY.md",
    "docs/*.md",
    "tutorials/*.ipynb",
    "benchmarks/trials.md",
]
extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx_argparse_cli",
    "sphinx_copybutton",
]
html_theme = "furo"
html_title = f"kmod {release}"
html_show_copyright = False
smartquotes = False  # Help and messages hold code.

myst_heading_anchors = 4
nb_execution_mode = "off"  # Tests run the notebooks.
suppress_warnings = ["misc.highlighting_failure"]  # Of `!kmod`.
autodoc_member_order = "groupwise"
autodoc_inherit_docstrings = False  # Keras' are in another style.
autodoc_typehints = "none"  # Docstrings say it in words.
napoleon_custom_sections = [
    ("Call arguments", "params_style"),
    ("Input shape", "notes_style"),
    ("Output shape", "notes_style"),
    ("Reference", "notes_style"),
]

_LINK = re.compile(r"(?<!!)\[([^\]]+)\]\(([^)\s]+)\)")


def leave_out_links(app, name, source):
    """Makes text of links to what is not of the site: folders, programs."""

    def replaced(match):
        text, link = match.groups()
        path = link.partition("#")[0]
        page = posixpath.join(posixpath.dirname(name), path)
        page = posixpath.splitext(posixpath.normpath(page))[0]
        is_found = not path or page in app.env.found_docs
        return match[0] if is_found or "://" in link else text

    source[0] = _LINK.sub(replaced, source[0])


def to_rst(app, what, name, value, options, lines):
    """Turns the Markdown of docstrings into what autodoc reads."""
    text, *blocks = re.split(r"^( *)```.*\n", "\n".join(lines), flags=re.M)
    found = [_inline(text)]
    for index in range(0, len(blocks), 2):
        indent, body = blocks[index : index + 2]
        if index % 4 == 0:
            body = re.sub(r"^(?=.)", "    ", body, flags=re.M)
            found += [f"{indent}::\n\n", body, "\n"]
        else:
            found.append(_inline(body))
    lines[:] = "".join(found).split("\n")


def _inline(text):
    text = re.sub(r"(?<!`)`([^`]+)`(?!`)", r"``\1``", text)
    return re.sub(r"\[([^\]]+)\]\((http[^)\s]+)\)", r"`\1 <\2>`__", text)


def setup(app):
    app.connect("source-read", leave_out_links)
    # Ahead of what tells sections apart.
    app.connect("autodoc-process-docstring", to_rst, priority=400)
