"""What a composition spec says, as frozen data."""

from kmod.spec.model import BaseModel
from kmod.spec.model import Check
from kmod.spec.model import ClassEntry
from kmod.spec.model import DataRef
from kmod.spec.model import InputSpec
from kmod.spec.model import ModuleRef
from kmod.spec.model import OtherClass
from kmod.spec.model import PatchEntry
from kmod.spec.model import PatchLayer
from kmod.spec.model import Scores
from kmod.spec.model import Spec
from kmod.spec.model import StoreRef

__all__ = [
    "BaseModel",
    "Check",
    "ClassEntry",
    "DataRef",
    "InputSpec",
    "ModuleRef",
    "OtherClass",
    "PatchEntry",
    "PatchLayer",
    "Scores",
    "Spec",
    "StoreRef",
]
