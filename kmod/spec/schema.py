"""The JSON Schema of composition specs."""

import json
from importlib import resources
from typing import Any


def read_schema() -> dict[str, Any]:
    """Reads the JSON Schema that ships with the package."""
    file = resources.files("kmod.spec") / "composition.schema.json"
    return json.loads(file.read_text(encoding="utf-8"))
