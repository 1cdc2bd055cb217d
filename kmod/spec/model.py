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
class DataRef:
    """Images that a spec needs.

    Where the data sets lie is not for a spec to say, but for who composes it.

    Attributes:
        name: Name of the data set, as `kmod.load_data` takes it.
        split: Which part of it.
    """

    name: str
    split: Literal["train", "validation", "test"]


@dataclasses.dataclass(frozen=True)
class InputSpec:
    """The images that the composed model takes.

    Attributes:
        shape: Height, width and channels of one image.
        range: Smallest and largest value of a pixel.
        size: How images are brought to the size that a module takes.
    """

    shape: tuple[int, int, int]
    range: tuple[float, float]
    size: Literal["resize", "pad"] = "resize"


@dataclasses.dataclass(frozen=True)
class ClassEntry:
    """A class of the composed model and the modules that score it.

    Attributes:
        name: Name of the class.
        modules: One module, or several of which any may recognise the class.
    """

    name: str
    modules: tuple[ModuleRef, ...]


@dataclasses.dataclass(frozen=True)
class OtherClass:
    """An extra last class, for images that no module claims.

    Attributes:
        name: Name of the class.
        threshold: An image belongs to it if no module's probability is at
            least this high.
    """

    name: str
    threshold: float


@dataclasses.dataclass(frozen=True)
class Scores:
    """How the modules' scores become the answer of the composed model.

    Attributes:
        calibration: Which scores are compared: the probabilities each module
            was calibrated to (`stored`), those it is calibrated to when the
            model is composed (`fit`), all of them weighed together by a layer
            that is fitted then (`joint`), or the raw ones (`none`).
        data: Labelled images to calibrate on; only with `fit` and `joint`.
        support: Further modules whose scores the layer weighs as well; only
            with `joint`.
        images_per_class: How many images of each class of theirs are used, at
            most.
        output: What the composed model answers with.
        other: An extra class, or `None`.
    """

    calibration: Literal["stored", "none", "fit", "joint"] = "stored"
    data: tuple[DataRef, ...] = ()
    images_per_class: int = 50
    output: Literal["probabilities", "logits"] = "probabilities"
    other: OtherClass | None = None
    support: tuple[ModuleRef, ...] = ()

    @property
    def is_fitted(self) -> bool:
        """Whether composing takes labelled images."""
        return self.calibration in ("fit", "joint")


@dataclasses.dataclass(frozen=True)
class Check:
    """A figure that the composed model must reach.

    Attributes:
        metric: Name of the figure.
        min: The least it must be, 0 to 1.
        data: Labelled images it is measured on.
        class_name: Class whose figure it is; `None` for the accuracy of all.
    """

    metric: Literal["accuracy", "precision", "recall", "f1"]
    min: float
    data: DataRef
    class_name: str | None = None


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
class PatchLayer:
    """A linear layer over the weak model's answer and modules' scores.

    Every class `j` gets the score `weak[j] * log(p[j]) + module[j] * s +
    sum over k of support[k][j] * s_k + bias[j]`, where `p` are the weak
    model's probabilities, `s` is the module's log-odds and `s_k` are those of
    the supporting modules; the softmax of these scores is the answer.

    Attributes:
        module: Factor of the module's log-odds for each class.
        weak: Factor of the weak model's log-probability of each class.
        bias: What is added for each class.
        support: For each supporting module a factor for each class.
    """

    module: tuple[float, ...]
    weak: tuple[float, ...]
    bias: tuple[float, ...]
    support: tuple[tuple[float, ...], ...] = ()


@dataclasses.dataclass(frozen=True)
class PatchEntry:
    """A class of the weak model and the module that patches it.

    Attributes:
        class_name: The target class.
        module: The module that knows it better.
        combine: How the two scores become one: `calibrated` weighs them;
            `minmax` puts the module's raw score, scaled by `range`, and `raw`
            its probability in the place of the weak model's probability.
        support: Further classes of the module's store, whose modules help to
            tell the classes apart; only with `layer`.
        layer: Fitted weights of all classes, only with `calibrated`; `None`
            if the spec has none.
        coefficients: Weights of the target's two log-odds, only with
            `calibrated` and without `layer`; `None` if the spec has none.
        range: Smallest and largest raw score of the module on images of the
            class; only with `minmax`.
    """

    class_name: str
    module: ModuleRef
    combine: Literal["calibrated", "minmax", "raw"] = "calibrated"
    support: tuple[str, ...] = ()
    layer: PatchLayer | None = None
    coefficients: Coefficients | None = None
    range: tuple[float, float] | None = None

    @property
    def supporting(self) -> tuple[ModuleRef, ...]:
        """The modules of `support`."""
        return tuple(ModuleRef(self.module.store, c) for c in self.support)


@dataclasses.dataclass(frozen=True)
class Spec:
    """A composition spec: either `classes`, or `base` and `patches`.

    Attributes:
        name: Name of the composed model.
        path: Absolute path of the file it was read from.
        stores: The stores it takes modules from, by id.
        license: SPDX expression, or `None` if the spec has none.
        input: The images it takes, or `None` if those of the modules.
        classes: The classes of a new model; empty in a patch spec.
        scores: How the modules' scores become an answer.
        base: The weak model of a patch spec, else `None`.
        patches: The patched classes; empty without `base`.
        checks: What the composed model must reach.
        warnings: What looks like a mistake but does no harm, one line each,
            beginning with `file:line:column:`.
        places: Line and column of every value in the file, by path, such as
            `("classes", 0, "name")`; empty if there is no file yet.
    """

    name: str
    path: Path
    stores: Mapping[str, StoreRef]
    license: str | None = None
    input: InputSpec | None = None
    classes: tuple[ClassEntry, ...] = ()
    scores: Scores = Scores()
    base: BaseModel | None = None
    patches: tuple[PatchEntry, ...] = ()
    checks: tuple[Check, ...] = ()
    warnings: tuple[str, ...] = ()
    places: Mapping[tuple[str | int, ...], tuple[int, int]] = dataclasses.field(
        default_factory=dict, compare=False, repr=False
    )

    @property
    def class_names(self) -> tuple[str, ...]:
        """Class names of the composed model, in the order of its outputs."""
        if self.base is not None:
            return self.base.classes
        names = [entry.name for entry in self.classes]
        if self.scores.other is not None:
            names.append(self.scores.other.name)
        return tuple(names)
