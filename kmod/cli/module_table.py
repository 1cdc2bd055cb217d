"""The table of modules that several commands print."""

from __future__ import annotations

from collections.abc import Mapping
from collections.abc import Sequence
from typing import TYPE_CHECKING
from typing import Any

from kmod.cli import console

if TYPE_CHECKING:
    from kmod.modules.module_store import ModuleStore


def print_modules(rows: Sequence[Mapping[str, Any]]) -> None:
    """Prints one line for each module.

    Args:
        rows: Facts of each module: `class`, `retention_rate`, `parameters`,
            `macs` and `max_output_gap`.
    """
    console.print_table(
        ["class", "kernels kept", "parameters", "MACs", "gap"],
        [
            [
                row["class"],
                f"{row['retention_rate']:.1%}",
                f"{row['parameters']:,}",
                f"{row['macs']:,}",
                _gap(row["max_output_gap"]),
            ]
            for row in rows
        ],
    )


def print_store(store: ModuleStore, as_json: bool) -> None:
    """Prints the modules of a new store, as a table or as JSON."""
    infos = [store.info(name) for name in store.class_names]
    rows = [
        {
            "class": info.class_name,
            "retention_rate": info.retention_rate,
            "parameters": info.parameters,
            "macs": info.macs,
            "max_output_gap": info.max_output_gap,
        }
        for info in infos
    ]
    if not as_json:
        print_modules(rows)
        return
    console.print_json(
        {
            "store": str(store.path),
            "metrics": store.manifest.metrics,
            "modules": rows,
        }
    )


def _gap(value):
    return "not compared" if value is None else f"{value:.1e}"
