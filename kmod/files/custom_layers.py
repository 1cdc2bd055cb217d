"""Which layers of their own a user lets kmod load from files.

No file can name one by itself: what it holds is held against what is given
here, by the user's own call or command.
"""

import contextlib
import contextvars
import importlib
import os
import sys
from collections.abc import Iterable
from collections.abc import Iterator
from types import ModuleType

_given = contextvars.ContextVar("custom_layers", default=())


@contextlib.contextmanager
def custom_layers_scope(custom_layers: Iterable[type | str]) -> Iterator[None]:
    """Lets layers be loaded while the scope is open, beside those before.

    Args:
        custom_layers: Layer classes, and names of Python modules that
            register some. A module is imported when a model is loaded.
    """
    token = _given.set((*_given.get(), *custom_layers))
    try:
        yield
    finally:
        _given.reset(token)


def given_custom_layers() -> tuple[type | str, ...]:
    """Returns the classes and names of the scopes that are open."""
    return _given.get()


def import_here(name: str) -> ModuleType:
    """Imports a Python module, also of the working directory."""
    here = os.getcwd()
    sys.path.insert(0, here)
    try:
        return importlib.import_module(name)
    finally:
        sys.path.remove(here)
