"""Lets commands start sooner.

To import Keras and TensorFlow takes seconds, some of them without need.
"""

import gc
import sys

_NEW_OBJECTS = 20_000
_UNUSED = {  # And the modules that look for them.
    "sklearn": ("keras.",),
    "matplotlib": ("keras.",),
    "IPython": ("keras.",),
    # Keras' backend may be JAX, and imports it before its callbacks do.
    "jax": ("tensorflow.", "keras.src.callbacks."),
}
_MACHINERY = ("importlib", "_frozen_importlib")


def collect_less_often() -> None:
    """Lets Python look for garbage less often from now on.

    Frameworks make a million objects that stay. To go through them again and
    again takes a twelfth of the time in which a command starts.
    """
    gc.set_threshold(_NEW_OBJECTS, *gc.get_threshold()[1:])


def leave_out_imports() -> None:
    """Hides from frameworks what they import only because it is there.

    Keras and TensorFlow look for packages that they do without, for functions
    that no command uses. All others, such as custom layers, still find them.
    """
    if not any(isinstance(finder, _Unused) for finder in sys.meta_path):
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
