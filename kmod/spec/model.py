"""A composition spec as plain, frozen data."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Literal


@dataclasses.dataclass(frozen=True)
class StoreRef:
    """A module store that a spec uses.

    Attributes:
        path: Absolute path of the store.
        digest: `sha256:...`, the content the store must have, or `None`.
    """

    path: Path
    digest: str | None = None


@dataclasses.dataclass(frozen=True)
class ModuleRef:
    """A module of a store.

    Attributes:
        store: Id of the store, a key of `Spec.stores`.
        class_name: Name of the module's class in that store.
    """

    store: str
    class_name: str


@dataclasses.dataclass(frozen=True)
class ClassEntry:
    """A class of the composed model and the module that scores it."""

    name: str
    module: ModuleRef


@dataclasses.dataclass(frozen=True)
class BaseModel:
    """The weak model of a patch spec.

    Attributes:
        path: Absolute path of the `.keras` file.
        classes: Its class names, in the order of its outputs.
    """

    path: Path
    classes: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Coefficients:
    """Weights of the two scores of a patched class, and what is added."""

    module: float
    weak: float
    bias: float


@dataclasses.dataclass(frozen=True)
class PatchEntry:
    """A class of the weak model and the module that patches it.

    Attributes:
        class_name: The target class.
        module: The module that knows it better.
        combine: How the two scores become one.
        coefficients: Fitted weights, or `None` if the spec has none.
    """

    class_name: str
    module: ModuleRef
    combine: Literal["calibrated"] = "calibrated"
    coefficients: Coefficients | None = None


@dataclasses.dataclass(frozen=True)
class Spec:
    """A composition spec: either `classes`, or `base` and `patches`.

    Attributes:
        name: Name of the composed model.
        path: Absolute path of the file it was read from.
        stores: The stores it takes modules from, by id.
        license: SPDX expression, or `None` if the spec has none.
        classes: The classes of a new model; empty in a patch spec.
        calibration: Which scores of the modules are compared.
        base: The weak model of a patch spec, else `None`.
        patches: The patched classes; empty without `base`.
        warnings: What looks like a mistake but does no harm, one line each,
            beginning with `file:line:column:`.
    """

    name: str
    path: Path
    stores: Mapping[str, StoreRef]
    license: str | None = None
    classes: tuple[ClassEntry, ...] = ()
    calibration: Literal["stored", "none"] = "stored"
    base: BaseModel | None = None
    patches: tuple[PatchEntry, ...] = ()
    warnings: tuple[str, ...] = ()

    @property
    def class_names(self) -> tuple[str, ...]:
        """Class names of the composed model, in the order of its outputs."""
        if self.base is not None:
            return self.base.classes
        return tuple(entry.name for entry in self.classes)
