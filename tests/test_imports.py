import ast
import subprocess
import sys
from pathlib import Path

import pytest

import kmod

PACKAGE = Path(kmod.__file__).parent

# What all may import, and which folder may import which others.
FOR_ALL = {"errors", "files"}
ALLOWED = {
    "errors": set(),
    "files": {"errors"},
    "graph": set(),
    "data": set(),
    "spec": set(),
    "zoo": {"data"},
    "masks": {"graph", "evaluation"},
    "evaluation": {"graph", "data"},
    "training": {"graph", "masks", "evaluation", "data"},
    "modules": {"graph", "masks", "evaluation"},
    "store": {"graph", "masks", "evaluation", "modules", "data"},
    "composition": {
        "graph",
        "evaluation",
        "report",
        "modules",
        "store",
        "spec",
        "data",
    },
    "reuse": {
        "graph",
        "evaluation",
        "modules",
        "store",
        "composition",
        "spec",
        "data",
    },
    "refinement": {
        "graph",
        "masks",
        "training",
        "modules",
        "store",
        "composition",
        "data",
    },
    "report": {"evaluation", "store", "modules"},
    "demo": {
        "composition",
        "data",
        "evaluation",
        "masks",
        "report",
        "spec",
        "store",
        "training",
        "zoo",
    },
}
FRAMEWORKS = {"tensorflow", "keras", "jax", "torch"}
FORBIDDEN = {
    "spec": FRAMEWORKS | {"numpy"},
    "graph": FRAMEWORKS - {"keras"},
    "masks": FRAMEWORKS - {"keras"},
}


def part_of(path):
    """The folder of `kmod` that a file is in, or the name of a top file."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported_names(path):
    """Yields every dotted name a file imports, inside functions, too."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def source_files():
    return [
        pytest.param(path, id=str(path.relative_to(PACKAGE)))
        for path in sorted(PACKAGE.rglob("*.py"))
    ]


@pytest.mark.parametrize("path", source_files())
def test_file_imports_only_what_its_folder_may(path):
    part = part_of(path)
    if part in {"cli", "__main__"}:  # The command line may import all.
        return
    names = [name.split(".") for name in imported_names(path)]
    own = {name[1] for name in names if name[0] == "kmod"}
    allowed = ALLOWED.get(part, set()) | FOR_ALL | {part, "__version__"}
    assert own <= allowed
    assert not {name[0] for name in names} & FORBIDDEN.get(part, set())


def test_every_folder_is_in_the_table():
    parts = {part_of(path) for path in PACKAGE.rglob("*.py")}
    assert parts - {"cli", "__init__", "__main__"} <= ALLOWED.keys()


def test_table_has_no_circles():
    done = set()
    while ready := {
        part
        for part in ALLOWED.keys() - done
        if ALLOWED[part] <= done | FOR_ALL
    }:
        done |= ready
    assert done == ALLOWED.keys()


def test_every_folder_is_a_package():
    folders = {path.parent for path in PACKAGE.rglob("*.py")}
    missing = [str(f) for f in folders if not (f / "__init__.py").exists()]
    assert not missing


def test_import_kmod_imports_no_framework():
    code = (
        "import sys, kmod; kmod.load_spec; dir(kmod); "
        f"sys.exit(str({FRAMEWORKS} & sys.modules.keys()))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True
    )
    assert done.stderr.strip() == "set()"


def test_every_public_name_can_be_imported():
    for name in kmod._EXPORTS:
        assert getattr(kmod, name) is not None
    assert set(kmod._EXPORTS) <= set(dir(kmod))


def test_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        kmod.nonsense
