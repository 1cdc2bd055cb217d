"""Writes composition specs."""

import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path
from pathlib import PurePath
from typing import Any

import yaml

from kmod.files import atomic_write
from kmod.spec.loader import parse_spec
from kmod.spec.model import Spec


def write_spec(
    spec_dict: Mapping[str, Any],
    path: str | Path,
    schema_path: str | None = None,
) -> Spec:
    """Writes a composition spec as YAML, after checking it.

    Args:
        spec_dict: The spec as plain data, keys in the order they shall have.
            `pathlib` paths in it are written relative to the spec's folder.
        path: File to write.
        schema_path: Where an editor finds the JSON Schema, as seen from the
            spec's folder; written as the first line. Defaults to `None`: no
            such line.

    Returns:
        The spec as `load_spec` would read it.

    Raises:
        SpecError: If the spec is not valid. Nothing is written then.
    """
    text = spec_text(spec_dict, path)
    if schema_path is not None:
        text = f"# yaml-language-server: $schema={schema_path}\n{text}"
    content = text.encode("utf-8")
    spec = parse_spec(content, path)
    atomic_write(path, content)
    return spec


def spec_text(spec_dict: Mapping[str, Any], path: str | Path) -> str:
    """Returns a composition spec as YAML.

    Args:
        spec_dict: As `write_spec` takes it.
        path: File that the text is for.
    """
    folder = Path(path).resolve().parent
    return yaml.dump(
        _plain(spec_dict, folder),
        Dumper=_Dumper,
        sort_keys=False,
        allow_unicode=True,
        default_flow_style=None,
        width=float("inf"),
    )


def spec_data(spec: Spec) -> dict[str, Any]:
    """Returns a spec as plain data, as `write_spec` takes it.

    Paths in it are absolute `pathlib` paths, so `write_spec` makes them valid
    wherever it writes the spec.
    """
    data = {
        "version": 1,
        "name": spec.name,
        "license": spec.license,
        "stores": {
            name: _without_none({"path": ref.path, "digest": ref.digest})
            for name, ref in spec.stores.items()
        },
        "input": spec.input and dataclasses.asdict(spec.input),
    }
    if spec.base is None:
        data["classes"] = [_class_data(entry) for entry in spec.classes]
        data["scores"] = _scores_data(spec.scores)
    else:
        data["base"] = {"path": spec.base.path, "classes": spec.base.classes}
        data["patches"] = [_patch_data(patch) for patch in spec.patches]
    if spec.checks:
        data["checks"] = [_check_data(check) for check in spec.checks]
    return _without_none(data)


def _class_data(entry):
    modules = [_module_data(module) for module in entry.modules]
    if len(modules) == 1:
        return {"name": entry.name, "module": modules[0]}
    return {"name": entry.name, "any_of": modules}


def _scores_data(scores):
    data = _without_none(dataclasses.asdict(scores))
    data["support"] = [_module_data(module) for module in scores.support]
    if not scores.support:
        del data["support"]
    if not scores.is_fitted:
        del data["images_per_class"], data["data"]
    elif len(scores.data) == 1:
        (data["data"],) = data["data"]
    else:
        data["data"] = list(data["data"])
    return data


def _patch_data(patch):
    layer, coefficients = patch.layer, patch.coefficients
    return _without_none(
        {
            "class": patch.class_name,
            "module": _module_data(patch.module),
            "combine": patch.combine,
            "support": list(patch.support) or None,
            "layer": layer and _layer_data(layer),
            "coefficients": coefficients and dataclasses.asdict(coefficients),
            "range": patch.range,
        }
    )


def _layer_data(layer):
    data = dataclasses.asdict(layer)
    if not data["support"]:
        del data["support"]
    return data


def _check_data(check):
    return _without_none(
        {
            "metric": check.metric,
            "min": check.min,
            "data": dataclasses.asdict(check.data),
            "class": check.class_name,
        }
    )


def _module_data(module):
    return {"store": module.store, "class": module.class_name}


def _without_none(data):
    return {key: value for key, value in data.items() if value is not None}


class _Dumper(yaml.SafeDumper):
    def ignore_aliases(self, data):
        return True  # A spec has no anchors; equal parts are written out.


def _plain(value: Any, folder: Path) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(item, folder) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item, folder) for item in value]
    if isinstance(value, PurePath):
        relative = os.path.relpath(Path(value).resolve(), folder)
        return Path(relative).as_posix()
    return value
