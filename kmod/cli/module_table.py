"""The table of modules that several commands print."""

from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any

from kmod.cli import console


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


def _gap(value):
    return "not compared" if value is None else f"{value:.1e}"
