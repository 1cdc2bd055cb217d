"""Parts of a model card: Markdown behind a YAML front matter.

The front matter is what the Hugging Face Hub reads. Names, which may be any
text, are escaped in the Markdown.
"""

import re
from collections.abc import Iterable
from collections.abc import Iterator
from collections.abc import Mapping
from typing import Any

import yaml

CARD_FILE = "README.md"
# Licences that Hugging Face knows by its own name, the SPDX id in lower case.
KNOWN_LICENSES = {
    "apache-2.0",
    "bsd-2-clause",
    "bsd-3-clause",
    "cc-by-4.0",
    "cc-by-nc-4.0",
    "cc-by-nc-sa-4.0",
    "cc-by-sa-4.0",
    "cc0-1.0",
    "gpl-3.0",
    "mit",
    "mpl-2.0",
    "unlicense",
}
# What Hugging Face takes for the name of a model or data set.
REPOSITORY = re.compile(
    r"(?!.*(--|\.\.|\.git$))(\b[\w.-]{1,96}\b/)?\b[\w.-]{1,96}\b", re.ASCII
)
MARKDOWN = re.compile(r"([\\`*_{}\[\]()<>#+\-.!|~&$@])")


def front_matter(
    license: str | None,
    data: Iterable[str | None],
    sources: Iterable[str | None],
) -> str:
    """Returns the front matter of an image classifier's card.

    Args:
        license: SPDX expression, or `None` if there is none.
        data: Names of the data sets it was trained on, where known.
        sources: Names of the models it was made from, where known.

    Returns:
        YAML between two lines of `---`.
    """
    content = {
        **_license(license),
        "library_name": "keras",
        "pipeline_tag": "image-classification",
        "tags": ["kmod", "modular", "image-classification"],
        "datasets": _repositories(data),
        "base_model": _repositories(sources),
        "metrics": ["accuracy"],
    }
    text = yaml.safe_dump(
        {key: value for key, value in content.items() if value},
        sort_keys=False,
    )
    return f"---\n{text}---\n"


def markdown_table(
    columns: Iterable[str], rows: Iterable[Iterable[str]]
) -> str:
    """Returns a table, the texts in its rows escaped."""
    columns = list(columns)
    lines = [
        "| " + " | ".join(columns) + " |",
        "| " + " | ".join("---" for _ in columns) + " |",
        *("| " + " | ".join(map(escaped, row)) + " |" for row in rows),
    ]
    return "\n".join(lines) + "\n"


def numbers(
    data: Mapping[str, Any], name: str = ""
) -> Iterator[tuple[str, float]]:
    """Yields the numbers in nested mappings with their path, in words.

    Args:
        data: The figures.
        name: Words in front of each path.
    """
    for key, value in data.items():
        path = f"{name} {key}".strip()
        if isinstance(value, Mapping):
            yield from numbers(value, path)
        elif isinstance(value, (int, float)):
            yield path, value


def escaped(text: str) -> str:
    """Makes Markdown show any text as it is, on one line."""
    return MARKDOWN.sub(r"\\\1", " ".join(text.split()))


def _license(expression):
    if expression is None:
        return {"license": "unknown"}
    name = expression.lower()
    if name in KNOWN_LICENSES:
        return {"license": name}
    identifier = re.sub(r"[^a-z0-9.]+", "-", name).strip("-")
    return {"license": "other", "license_name": identifier}


def _repositories(names):
    """Keeps the different names that may be those of a repository."""
    return [
        name
        for name in dict.fromkeys(names)
        if name is not None and REPOSITORY.fullmatch(name)
    ]
