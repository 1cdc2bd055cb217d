"""Every type that a public signature names can be imported and is seen."""

import ast
import dataclasses
import inspect
import os
import subprocess
import sys
import typing
from pathlib import Path

import keras
import pytest

import kmod

STUB = Path(kmod.__file__).with_suffix(".pyi")
SUBMODULES = ("callbacks", "graph", "layers", "spec")


def public_objects():
    """Maps everything public to its public name."""
    found = {}
    for name in kmod.__all__:
        value = getattr(kmod, name)
        if inspect.ismodule(value):
            for part in value.__all__:
                found[getattr(value, part)] = f"{name}.{part}"
        else:
            found[value] = name
    return found


def signatures(value, name):
    """Yields the public functions of an object."""
    if not inspect.isclass(value):
        yield name, value
        return
    if dataclasses.is_dataclass(value):
        yield name, value
    for part, member in vars(value).items():
        if isinstance(member, property):
            member = member.fget
        member = getattr(member, "__func__", member)
        is_public = part == "__init__" or not part.startswith("_")
        if is_public and inspect.isfunction(member):
            yield f"{name}.{part}", member


def types_in(hint):
    """Yields the classes that a type hint is made of."""
    if isinstance(hint, list):
        parts = hint
    else:
        parts = typing.get_args(hint)
        if isinstance(hint, type) and not parts:
            yield hint
    for part in parts:
        yield from types_in(part)


PUBLIC = public_objects()


@pytest.mark.parametrize(
    ("name", "function"),
    [
        pytest.param(*found, id=found[0])
        for value, name in PUBLIC.items()
        for found in signatures(value, name)
    ],
)
def test_signature_names_public_types_only(name, function):
    hints = typing.get_type_hints(function, localns={"keras": keras})
    named = {part for hint in hints.values() for part in types_in(hint)}
    own = {part for part in named if part.__module__.startswith("kmod.")}
    assert own <= PUBLIC.keys(), f"{name} names {own - PUBLIC.keys()}"


def test_stub_says_where_each_name_is():
    lines = [
        node
        for node in ast.parse(STUB.read_text(encoding="utf-8")).body
        if isinstance(node, ast.ImportFrom)
    ]
    for node in lines:
        (alias,) = node.names
        # Type checkers take a name as public only if it is renamed to itself.
        assert alias.asname == alias.name
    assert [node.names[0].name for node in lines] == list(
        dict.fromkeys(node.names[0].name for node in lines)
    )
    assert sorted(kmod.__all__) == sorted(n.names[0].name for n in lines)
    assert set(SUBMODULES) <= set(kmod.__all__)


@pytest.mark.long
def test_type_checker_sees_signatures(tmp_path):
    pytest.importorskip("mypy", reason="mypy is in the extra `test`")
    script = tmp_path / "user.py"
    script.write_text(
        "import kmod\n"
        "reveal_type(kmod.load_store('a'))\n"
        "reveal_type(kmod.callbacks.BestModules(0.02))\n"
        "kmod.Donor('no store')\n"
        "kmod.nonsense\n"
    )
    root = STUB.parent.parent
    # An editable installation is found by a hook that mypy does not run.
    path = {} if root.name == "site-packages" else {"MYPYPATH": str(root)}
    done = subprocess.run(
        [
            *(sys.executable, "-m", "mypy", str(script)),
            *("--follow-imports=silent", "--ignore-missing-imports"),
            *("--cache-dir", str(tmp_path / "cache"), "--no-error-summary"),
        ],
        capture_output=True,
        text=True,
        env=os.environ | path,
    )
    said = [line.split(":", 2)[1:] for line in done.stdout.splitlines()]
    by_line = {int(number): text for number, text in said}
    assert "kmod.modules.module_store.ModuleStore" in by_line[2]
    assert "kmod.callbacks.best_modules.BestModules" in by_line[3]
    assert "incompatible type" in by_line[4]
    assert "has no attribute" in by_line[5]
