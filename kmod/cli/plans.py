"""The plan of the spec that a command is given."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kmod.cli import console

if TYPE_CHECKING:
    from kmod.composition.composition_plan import CompositionPlan


def load_plan(path: str) -> CompositionPlan:
    """Loads a spec and plans it, printing its warnings.

    Raises:
        SpecError: If the spec is not valid.
        ArtifactError: If what it names is missing or does not fit.
    """
    from kmod.composition.plan import plan
    from kmod.spec.loader import load_spec

    spec = load_spec(path)
    for warning in spec.warnings:
        console.print_message(warning)
    planned = plan(spec)
    for warning in planned.warnings:
        console.print_message(warning)
    return planned
