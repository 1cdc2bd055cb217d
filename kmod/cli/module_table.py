"""The table of modules that several commands print."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from collections.abc import Sequence
from typing import TYPE_CHECKING
from typing import Any

from kmod.cli import console

if TYPE_CHECKING:
    from kmod.modules.class_module import ModuleInfo
    from kmod.modules.module_store import ModuleStore


def module_row(info: ModuleInfo) -> dict[str, Any]:
    """Returns the figures of a module, for `print_modules` and for JSON."""
    from kmod.modules.manifest import CalibrationImages

    images = CalibrationImages.of(info)
    return {
        "class": info.class_name,
        "retention_rate": info.retention_rate,
        "parameters": info.parameters,
        "macs": info.macs,
        "max_output_gap": info.max_output_gap,
        "calibrated_on": images and dataclasses.asdict(images),
    }


def print_modules(rows: Sequence[Mapping[str, Any]]) -> None:
    """Prints one line for each module.

    Args:
        rows: Figures of each module. Those that the first does not have get
            no column.
    """
    columns = [key for key in _COLUMNS if key in rows[0]]
    console.print_table(
        [_COLUMNS[key][0] for key in columns],
        [[_COLUMNS[key][1](row[key]) for key in columns] for row in rows],
    )


def print_store(store: ModuleStore, as_json: bool) -> None:
    """Prints the modules of a new store, as a table or as JSON."""
    rows = [module_row(store.info(name)) for name in store]
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


def calibrated_on(images: Mapping[str, int] | None) -> str:
    """Says how many images a module was calibrated on, of its class and all."""
    if images is None:
        return "not known"
    return f"{images['num_class_images']:,} of {images['num_images']:,}"


# Heading and form of every figure.
_COLUMNS = {
    "class": ("class", str),
    "module": ("module", str),
    "store": ("store", lambda digest: digest or "given in memory"),
    "retention_rate": ("kernels kept", "{:.1%}".format),
    "parameters": ("parameters", "{:,}".format),
    "macs": ("MACs", "{:,}".format),
    "max_output_gap": ("gap", _gap),
    "calibrated_on": ("calibrated on", calibrated_on),
}
