"""Keeps out of commands what frameworks import only because it is there.

Keras and TensorFlow look for packages that they do without, for functions that
no command uses. To import those takes seconds.
"""

import sys

_UNUSED = {  # And the modules that look for them.
    "sklearn": ("keras.",),
    "matplotlib": ("keras.",),
    "IPython": ("keras.",),
    # Keras' backend may be JAX, and imports it before its callbacks do.
    "jax": ("tensorflow.", "keras.src.callbacks."),
}
_MACHINERY = ("importlib", "_frozen_importlib")


def leave_out_imports() -> None:
    """Hides such packages from the frameworks from now on.

    All others, such as custom layers, still find them.
    """
    sys.meta_path.insert(0, _Unused())


class _Unused:
    """Finds nothing for a framework that does without it."""

    def find_spec(self, name, path=None, target=None):
        if name in _UNUSED and _importer().startswith(_UNUSED[name]):
            raise ModuleNotFoundError(f"No command needs {name!r}.", name=name)
        return None


def _importer():
    """Returns the name of the module that imports something at present."""
    frame, name = sys._getframe(2), ""
    while frame is not None:
        name = frame.f_globals.get("__name__", "")
        if name.partition(".")[0] not in _MACHINERY:
            break
        frame = frame.f_back
    return name
