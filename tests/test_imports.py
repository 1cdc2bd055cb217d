import ast
import subprocess
import sys
from pathlib import Path

import pytest

import kmod

PACKAGE = Path(kmod.__file__).parent

# The folders in the order of the work: each may import those before it.
ORDER = (
    "errors",
    "files",
    "data",
    "graph",
    "metrics",
    "zoo",
    "layers",
    "callbacks",
    "modular",
    "export",
    "modules",
    "spec",
    "composition",
    "slimming",
    "patching",
    "selection",
    "analysis",
    "report",
    "demo",
    "jobs",
    "cli",
    "pytest_plugin",
)
FRAMEWORKS = {"tensorflow", "keras", "jax", "torch"}
FORBIDDEN = {
    "files": FRAMEWORKS,
    "spec": FRAMEWORKS | {"numpy"},
    "graph": FRAMEWORKS - {"keras"},
    "layers": FRAMEWORKS - {"keras"},
    "callbacks": FRAMEWORKS - {"keras", "tensorflow"},
    "modular": FRAMEWORKS - {"keras"},
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
def test_file_imports_only_what_stands_before_its_folder(path):
    part = part_of(path)
    if part == "__main__":
        return
    names = [name.split(".") for name in imported_names(path)]
    own = {name[1] for name in names if name[0] == "kmod" and name[1:]}
    before = ORDER[: ORDER.index(part)] if part in ORDER else ()
    assert own <= {*before, part, "__version__"}
    assert not {name[0] for name in names} & FORBIDDEN.get(part, set())


def test_every_folder_has_its_place():
    parts = {part_of(path) for path in PACKAGE.rglob("*.py")}
    assert parts - {"__init__", "__main__"} == set(ORDER)


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
    for name in kmod.__all__:
        assert getattr(kmod, name) is not None
    assert set(kmod.__all__) <= set(dir(kmod))


def test_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="No kmod attribute nonsense"):
        kmod.nonsense


def private_names(path):
    """Yields names with an underscore that a file reads but does not set."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    functions = (n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef))
    found = [n for n in ast.walk(tree) if isinstance(n, ast.Attribute)]
    own = {function.name for function in functions}
    own |= {n.attr for n in found if isinstance(n.ctx, ast.Store)}
    for node in found:
        is_private = node.attr.startswith("_") and node.attr[1] != "_"
        if is_private and node.attr not in own:
            yield node.attr


def test_private_parts_of_keras_are_in_one_place():
    import keras

    dense = keras.layers.Dense(1)
    sequential = keras.Sequential([keras.Input((2,)), dense])
    model = keras.Model(sequential.inputs, sequential.outputs)
    optimizer = keras.optimizers.Adam()
    optimizer.build(dense.trainable_variables)
    things = (dense, sequential, model, optimizer, *model.outputs, dense.kernel)
    of_keras = {name for thing in things for name in dir(thing)}
    used = {
        path.relative_to(PACKAGE).as_posix(): names
        for path in sorted(PACKAGE.rglob("*.py"))
        if (names := of_keras & set(private_names(path)))
        or any(name.startswith("keras.src") for name in imported_names(path))
    }
    assert list(used) == ["graph/internals.py"]
    assert used["graph/internals.py"] > {"_inbound_nodes", "_keras_history"}
