"""Turns the plain data of a valid spec into frozen data."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kmod.spec.model import BaseModel
from kmod.spec.model import Check
from kmod.spec.model import ClassEntry
from kmod.spec.model import Coefficients
from kmod.spec.model import DataRef
from kmod.spec.model import InputSpec
from kmod.spec.model import ModuleRef
from kmod.spec.model import OtherClass
from kmod.spec.model import PatchEntry
from kmod.spec.model import PatchLayer
from kmod.spec.model import Scores
from kmod.spec.model import Spec
from kmod.spec.model import StoreRef


def build_spec(data: Mapping[str, Any], path: Path) -> Spec:
    """Builds a spec from data that keep to the schema.

    Args:
        data: The spec as plain data.
        path: Absolute path of its file; what is relative in it starts there.
    """
    base = data.get("base")
    return Spec(
        name=data["name"],
        path=path,
        stores={
            store: StoreRef(_resolve(ref["path"], path), ref.get("digest"))
            for store, ref in data["stores"].items()
        },
        license=data.get("license"),
        input=_input(data["input"]) if "input" in data else None,
        classes=tuple(
            ClassEntry(entry["name"], _modules(entry))
            for entry in data.get("classes", ())
        ),
        scores=_scores(data.get("scores", {})),
        base=base
        and BaseModel(_resolve(base["path"], path), tuple(base["classes"])),
        patches=tuple(_patch(entry) for entry in data.get("patches", ())),
        checks=tuple(_check(entry) for entry in data.get("checks", ())),
    )


def _resolve(relative, spec_path):
    return (spec_path.parent / relative).resolve()


def _modules(entry):
    modules = entry.get("any_of") or [entry["module"]]
    return tuple(_module(module) for module in modules)


def _module(data):
    return ModuleRef(data["store"], data["class"])


def _input(data):
    height, width, channels = (int(size) for size in data["shape"])
    shape = height, width, channels
    return InputSpec(**{**data, "shape": shape, "range": _range(data["range"])})


def _range(data):
    low, high = data
    return float(low), float(high)


def _scores(data):
    changes = {}
    if "data" in data:
        given = data["data"]
        given = given if isinstance(given, list) else [given]
        changes["data"] = tuple(DataRef(**entry) for entry in given)
    if "other" in data:
        changes["other"] = OtherClass(**data["other"])
    if "support" in data:
        changes["support"] = tuple(map(_module, data["support"]))
    if "images_per_class" in data:
        changes["images_per_class"] = int(data["images_per_class"])
    return Scores(**{**data, **changes})


def _patch(entry):
    layer, limits = entry.get("layer"), entry.get("range")
    coefficients = entry.get("coefficients")
    return PatchEntry(
        class_name=entry["class"],
        module=_module(entry["module"]),
        combine=entry.get("combine", "calibrated"),
        support=tuple(entry.get("support", ())),
        layer=layer and _layer(layer),
        coefficients=coefficients and Coefficients(**coefficients),
        range=limits and _range(limits),
    )


def _layer(data):
    support = data.get("support", [])
    return PatchLayer(
        *(_floats(data[key]) for key in ("module", "weak", "bias")),
        tuple(map(_floats, support)),
    )


def _floats(values):
    return tuple(map(float, values))


def _check(entry):
    return Check(
        metric=entry["metric"],
        min=entry["min"],
        data=DataRef(**entry["data"]),
        class_name=entry.get("class"),
    )
