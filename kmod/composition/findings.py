"""Collects what is wrong with a spec's sources, to say it all at once."""

from pathlib import Path

from kmod.errors import IntegrityError
from kmod.errors import KmodError
from kmod.spec.faults import BrokenSourcesError
from kmod.spec.faults import Fault
from kmod.spec.faults import UnfitSourcesError
from kmod.spec.model import Spec


class Findings:
    """Faults and warnings, each at a place in a spec.

    Args:
        spec: The spec. What a spec that was read from no file lacks is said
            of its first line.
    """

    def __init__(self, spec: Spec):
        self._places = spec.places
        self._path = _shown(spec.path)
        self._is_broken = False
        self._faults = []
        self._warnings = []

    def add(self, path: tuple[str | int, ...], problem: str | KmodError):
        """Notes a fault.

        Args:
            path: Where in the spec, such as `("stores", "cifar", "path")`.
            problem: What is wrong, in words or as the error that said so.
        """
        self._is_broken |= isinstance(problem, IntegrityError)
        self._faults.append(self._fault(path, str(problem)))

    def warn(self, path: tuple[str | int, ...], message: str) -> None:
        """Notes what looks like a mistake but may be none."""
        self._warnings.append(self._fault(path, f"warning: {message}"))

    @property
    def warnings(self) -> tuple[str, ...]:
        """The warnings, in file order, as `file:line:column: message`."""
        return tuple(w.located(self._path) for w in sorted(self._warnings))

    def check(self) -> None:
        """Raises all faults as one error, if there are any.

        Raises:
            UnfitSourcesError: If something is missing or does not fit.
            BrokenSourcesError: If something is not as it was written.
        """
        if self._faults:
            kind = BrokenSourcesError if self._is_broken else UnfitSourcesError
            raise kind(self._path, self._faults)

    def _fault(self, path, message):
        while path and path not in self._places:
            path = path[:-1]  # A key that is not written stands in its parent.
        line, column = self._places.get(path, (1, 1))
        return Fault(line, column, " ".join(message.split()))


def _shown(path):
    """Returns a path as it is known to who works in this folder."""
    folder = Path.cwd()
    return path.relative_to(folder) if path.is_relative_to(folder) else path
