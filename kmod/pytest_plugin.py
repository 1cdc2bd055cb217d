"""Lets pytest test stores and composed models: a test for each contract line.

`pytest --kmod-store modules/` lists and runs what `kmod test` does. Frameworks
are imported when the first line is run.
"""

from pathlib import Path

import pytest

from kmod.errors import KmodError


def pytest_addoption(parser) -> None:
    group = parser.getgroup("kmod", "contracts of kmod's stores and models")
    group.addoption(
        "--kmod-store",
        action="append",
        default=[],
        metavar="DIR",
        help="module store or composed model to test, or a directory of such",
    )
    group.addoption(
        "--kmod-contract",
        metavar="FILE.yaml",
        help="further checks of each: `version` and `checks` as in a spec",
    )
    group.addoption(
        "--kmod-data-dir", metavar="DIR", help="prepared TensorFlow Datasets"
    )
    group.addoption(
        "--kmod-source",
        action="append",
        default=[],
        metavar="SOURCE.keras",
        help="source model that latency is compared with",
    )


def pytest_configure(config) -> None:
    found = [
        manifest
        for path in config.getoption("--kmod-store")
        for manifest in _manifests(Path(path))
    ]
    if found:
        is_asked = config.args_source is config.ArgsSource.ARGS
        config.args = [*(config.args if is_asked else ()), *map(str, found)]
    config.stash[_MANIFESTS] = {path.resolve() for path in found}


_MANIFESTS = pytest.StashKey[set]()


def _manifests(path):
    """Finds the manifests in a directory; there must be one."""
    names = "store.yaml", "composition.yaml"
    found = sorted(
        each for name in names for each in path.rglob(name) if each.is_file()
    )
    if not found:
        raise pytest.UsageError(
            "`--kmod-store` is a module store or composed model, or a "
            f"directory of such. Received: '{path}', which holds neither."
        )
    return found


def pytest_collect_file(file_path, parent):
    if file_path.resolve() in parent.config.stash[_MANIFESTS]:
        return _Contract.from_parent(parent, path=file_path)
    return None


class _Contract(pytest.File):
    """The contract of a store or composed model."""

    def collect(self):
        from kmod.composition.contract import contract_lines

        contract = self.config.getoption("--kmod-contract")
        try:
            lines = contract_lines(self.path.parent, contract)
        except (KmodError, OSError) as error:
            raise self.CollectError(str(error)) from error
        for line in lines:
            yield _Line.from_parent(self, name=str(line), line=line)

    def tester(self):
        """Returns what tests the lines, the same for all of them."""
        if not hasattr(self, "_tester"):
            from kmod.composition.checks import ContractTester

            self._tester = ContractTester(
                self.path.parent,
                self.config.getoption("--kmod-data-dir"),
                self.config.getoption("--kmod-source"),
            )
        return self._tester


class _Line(pytest.Item):
    """A line of a contract."""

    def __init__(self, *, line, **kwargs):
        super().__init__(**kwargs)
        self.line = line

    def runtest(self):
        result = self.parent.tester().test(self.line)
        if result.outcome == "skipped":
            pytest.skip(result.detail)
        if result.outcome == "failed":
            raise _BrokenLine(f"{result.test}: {result.detail}")
        self.add_report_section("call", "kmod", result.detail)

    def repr_failure(self, excinfo):
        if isinstance(excinfo.value, (_BrokenLine, KmodError)):
            return str(excinfo.value)
        return super().repr_failure(excinfo)

    def reportinfo(self):
        return self.path, None, self.name


class _BrokenLine(Exception):
    """A line that is not kept."""
