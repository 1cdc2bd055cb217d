"""Takes trained Keras CNNs apart into modules and composes new ones.

Public names, listed in `__init__.pyi`, are imported when they are first used,
so that `import kmod` and the commands that read specs do not wait for
TensorFlow.
"""

import lazy_loader

__version__ = "0.1.0"

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
