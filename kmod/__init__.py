"""Takes trained Keras CNNs apart into modules and composes new ones.

Public names are imported when they are first used, so that `import kmod` and
the commands that read specs do not wait for TensorFlow.
"""

import importlib

__version__ = "0.1.0"

_EXPORTS = {
    "ArtifactError": "kmod.errors",
    "CheckError": "kmod.errors",
    "IntegrityError": "kmod.errors",
    "KmodError": "kmod.errors",
    "SpecError": "kmod.errors",
    "UnsupportedModelError": "kmod.errors",
    "UsageError": "kmod.errors",
    "load_data": "kmod.data.load",
    "channel_graph": "kmod.graph",
    "register_channel_rule": "kmod.graph",
    "ModularModel": "kmod.modular.modular_model",
    "modularize": "kmod.modular.gradsplitter",
    "modularize_by_search": "kmod.modular.cnnsplitter",
    "decompose": "kmod.modules.decompose",
    "ModuleStore": "kmod.modules.module_store",
    "load_store": "kmod.modules.module_store",
    "load_spec": "kmod.spec.loader",
    "compose": "kmod.composition.composer",
    "patch": "kmod.patching.patcher",
    "choose_patches": "kmod.patching.patching",
    "choose_modules": "kmod.selection.choosing",
    "choose_task": "kmod.selection.task",
    "refine": "kmod.modules.refine",
    "evaluate": "kmod.metrics.evaluate",
}


def __getattr__(name: str):
    if name not in _EXPORTS:
        raise AttributeError(f"module 'kmod' has no attribute {name!r}")
    value = getattr(importlib.import_module(_EXPORTS[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_EXPORTS})
