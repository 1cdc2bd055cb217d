"""A composition spec as frozen data, made from plain data and turned back."""

import dataclasses
import os
from collections.abc import Iterable
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from typing import Literal

from kmod.files.remote import is_url
from kmod.files.remote import split_pin


@dataclasses.dataclass(frozen=True)
class StoreRef:
    """A module store that a spec uses.

    Attributes:
        path: Absolute path of the store, or its URL as text.
        digest: `sha256:...`, the content the store must have, or `None`.
    """

    path: Path | str
    digest: str | None = None

    @classmethod
    def of(cls, location: Path | str) -> "StoreRef":
        """Returns the reference to what `kmod.load_store` opens."""
        if is_url(location):
            return cls(*split_pin(location))
        return cls(Path(location).resolve())

    @property
    def location(self) -> Path | str:
        """What `kmod.load_store` opens: the path, or the URL and digest."""
        is_pinned = isinstance(self.path, str) and self.digest is not None
        return f"{self.path}#{self.digest}" if is_pinned else self.path


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
        name: Name of the data set, or the absolute `Path` of one's own images,
            as `kmod.load_data` takes it; no function, which a spec can not
            name.
        split: Which part of it.
    """

    name: str | Path
    split: Literal["train", "validation", "test"]

    def __str__(self) -> str:
        name = self.name.name if isinstance(self.name, Path) else self.name
        return f"{name}:{self.split}"


# What a spec says of images that no file holds: those that `kmod.compose` or
# `kmod.choose_composition` was given in Python.
IN_MEMORY = DataRef("in-memory", "validation")


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
            least this high; `None` if that does not matter.
        reject: An image belongs to it, too, if it is less familiar to every
            source than all but this share of its own images; `None` if that
            does not matter.
    """

    name: str
    threshold: float | None = None
    reject: float | None = None


@dataclasses.dataclass(frozen=True)
class Scores:
    """How the modules' scores become the answer of the composed model.

    Attributes:
        calibration: Which scores are compared: the probabilities each module
            was calibrated to (`stored`), these with the class frequencies that
            unlabelled images have (`unlabelled`), those it is calibrated to
            when the model is composed (`fit`), all of them weighed together by
            a layer that is fitted then (`joint`), or the raw ones (`none`).
        data: Images to calibrate on, labelled with `fit` and `joint`; only
            with these and `unlabelled`.
        auxiliary: Further modules whose scores the layer weighs as well; only
            with `joint`.
        familiarity: Whether familiarity tells apart which source an image is
            of, where modules are of several.
        prior: How frequent classes count as: all alike (`even`), as in the
            images that scores were calibrated on (`calibrated`), or the share
            of every class. `None` is the default of the calibration.
        images_per_class: How many images of each class of theirs are used, at
            most.
        output: What the composed model answers with.
        other: An extra class, or `None`.
    """

    calibration: Literal["stored", "none", "unlabelled", "fit", "joint"] = (
        "stored"
    )
    data: tuple[DataRef, ...] = ()
    images_per_class: int = 50
    output: Literal["probabilities", "logits"] = "probabilities"
    other: OtherClass | None = None
    auxiliary: tuple[ModuleRef, ...] = ()
    prior: Literal["even", "calibrated"] | Mapping[str, float] | None = None
    familiarity: bool = True

    @property
    def is_fitted(self) -> bool:
        """Whether composing takes labelled images."""
        return self.calibration in ("fit", "joint")

    @property
    def is_stored(self) -> bool:
        """Whether what modules were calibrated to is compared."""
        return self.calibration in ("stored", "unlabelled")


# Metrics of a quality, which are measured on labelled images.
QUALITIES = ("accuracy", "precision", "recall", "f1")


@dataclasses.dataclass(frozen=True)
class Check:
    """A line of a contract: what a model or module must keep to.

    Attributes:
        metric: What is measured: a quality, 0 to 1; as `invariance` the share
            of answers that change if images do, 0 to 1; the lowest and highest
            score as `score_range`; as `exactness` the largest difference from
            the answers that were stored, relative to the largest of them if
            that is above 1; as `rejection` the share of its own images that
            are refused, 0 to 1; as `latency` the time of an answer divided by
            that of the source model.
        min: The least it must be: of qualities, and of the lowest score.
        data: Labelled images it is measured on, if it takes any.
        class_name: Class whose figure it is; `None` for that of all.
        max: The most it may be: of all but qualities.
        shift: With `invariance`, the pixels that images are moved by.
        flip: With `invariance`, which way images are mirrored.
    """

    metric: Literal[
        "accuracy",
        "precision",
        "recall",
        "f1",
        "invariance",
        "score_range",
        "exactness",
        "rejection",
        "latency",
    ]
    min: float | None = None
    data: DataRef | None = None
    class_name: str | None = None
    max: float | None = None
    shift: int | None = None
    flip: Literal["horizontal", "vertical"] | None = None

    def __str__(self) -> str:
        words = self.metric.replace("_", " ")
        if self.shift is not None:
            words += f" to a shift of {self.shift} px"
        if self.flip is not None:
            words += f" to a {self.flip} flip"
        if self.class_name is not None:
            words += f" of {self.class_name!r}"
        return words if self.data is None else f"{words} on {self.data}"


@dataclasses.dataclass(frozen=True)
class BaseModel:
    """The weak model of a patch spec.

    Attributes:
        path: Absolute path of the `.keras` file.
        classes: Its class names, in the order of its outputs.
        output: Name of its output to take, of several.
    """

    path: Path
    classes: tuple[str, ...]
    output: str | None = None


@dataclasses.dataclass(frozen=True)
class PatchLayer:
    """A linear layer over the weak model's answer and modules' scores.

    Every class `j` gets the score `weak[j] * log(p[j]) + module[j] * s +
    sum over k of auxiliary[k][j] * s_k + bias[j]`, where `p` are the weak
    model's probabilities, `s` is the module's log-odds and `s_k` are those of
    the auxiliary modules; the softmax of these scores is the answer. By the
    rule `divided`, `p` are the probabilities that were divided, and those
    before, `q`, may add `sum over c of undivided[c][j] * log(q[c])`.

    Attributes:
        module: Factor of the module's log-odds for each class.
        weak: Factor of the weak model's log-probability of each class.
        bias: What is added for each class.
        auxiliary: For each auxiliary module a factor for each class.
        undivided: For each class of the weak model a factor for each class, if
            any.
    """

    module: tuple[float, ...]
    weak: tuple[float, ...]
    bias: tuple[float, ...]
    auxiliary: tuple[tuple[float, ...], ...] = ()
    undivided: tuple[tuple[float, ...], ...] = ()


# How much the weak model's ranking of the classes that modules divide counts,
# where no images say it (benchmarks/trials.md).
WEAK_SHARE = 0.3


@dataclasses.dataclass(frozen=True)
class PatchEntry:
    """A class of the weak model and the module that patches it.

    Attributes:
        class_name: The target class.
        module: The module that knows it better.
        combine: How the two scores become one: `calibrated` weighs them; by
            `divided` the modules decide among their classes, and the weak
            model how likely it is one of these; `minmax` puts the module's
            raw score, scaled by `range`, and `raw` its probability in the
            place of the weak model's probability.
        auxiliary: Further classes of the module's store, whose modules help to
            tell the classes apart; only with `layer`, or with `divided`, where
            they are classes of the base.
        layer: Fitted weights of all classes, only with `calibrated` and
            `divided`; `None` if the spec has none: modules answer as they are.
        range: Smallest and largest raw score of the module on images of the
            class; only with `minmax`.
        weak_share: How much the weak model's ranking of the classes of
            `auxiliary` counts beside that of their modules, 0 to 1; only with
            `divided`.
    """

    class_name: str
    module: ModuleRef
    combine: Literal["calibrated", "divided", "minmax", "raw"] = "calibrated"
    auxiliary: tuple[str, ...] = ()
    layer: PatchLayer | None = None
    range: tuple[float, float] | None = None
    weak_share: float = WEAK_SHARE

    @property
    def auxiliary_refs(self) -> tuple[ModuleRef, ...]:
        """The modules of `auxiliary`."""
        return tuple(ModuleRef(self.module.store, c) for c in self.auxiliary)


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


def build_spec(data: Mapping[str, Any], path: Path) -> Spec:
    """Builds a spec from plain data that keep to the schema.

    Args:
        data: The spec as plain data.
        path: Absolute path of its file; what is relative in it starts there.
    """
    base = data.get("base")
    return Spec(
        name=data["name"],
        path=path,
        stores={
            store: StoreRef(_store_path(ref["path"], path), ref.get("digest"))
            for store, ref in data["stores"].items()
        },
        license=data.get("license"),
        input=_input(data["input"]) if "input" in data else None,
        classes=tuple(
            ClassEntry(entry["name"], _modules(entry))
            for entry in data.get("classes", ())
        ),
        scores=_scores(data.get("scores", {}), path),
        base=base
        and BaseModel(
            _resolve(base["path"], path),
            tuple(base["classes"]),
            base.get("output"),
        ),
        patches=tuple(_patch(entry) for entry in data.get("patches", ())),
        checks=build_checks(data.get("checks", ()), path),
    )


def build_checks(
    entries: Iterable[Mapping[str, Any]], path: Path
) -> tuple[Check, ...]:
    """Builds the lines of a contract from plain data.

    Args:
        entries: Plain data that keep to the schema's `check`.
        path: Absolute path of their file; what is relative in it starts there.
    """
    return tuple(_check(dict(entry), path) for entry in entries)


def _check(entry, path):
    data = entry.pop("data", None)
    return Check(
        data=None if data is None else _data_ref(data, path),
        class_name=entry.pop("class", None),
        **entry,
    )


def _resolve(relative, spec_path):
    return Path(os.path.realpath(spec_path.parent / relative))


def _store_path(text, spec_path):
    return text.rstrip("/") if is_url(text) else _resolve(text, spec_path)


def _data_ref(data, path):
    is_named = "name" in data
    name = data["name"] if is_named else _resolve(data["path"], path)
    return DataRef(name, data["split"])


def _modules(entry):
    return tuple(map(_module, entry.get("any_of") or [entry["module"]]))


def _module(data):
    return ModuleRef(data["store"], data["class"])


def _input(data):
    shape = tuple(map(int, data["shape"]))
    limits = _floats(data["range"])
    return InputSpec(**{**data, "shape": shape, "range": limits})


def _floats(values):
    return tuple(map(float, values))


def _scores(data, path):
    changes = {}
    if "data" in data:
        given = data["data"]
        given = given if isinstance(given, list) else [given]
        changes["data"] = tuple(_data_ref(entry, path) for entry in given)
    if "other" in data:
        changes["other"] = OtherClass(**data["other"])
    if "auxiliary" in data:
        changes["auxiliary"] = tuple(map(_module, data["auxiliary"]))
    if "images_per_class" in data:
        changes["images_per_class"] = int(data["images_per_class"])
    return Scores(**{**data, **changes})


def _patch(entry):
    layer, limits = entry.get("layer"), entry.get("range")
    return PatchEntry(
        class_name=entry["class"],
        module=_module(entry["module"]),
        combine=entry.get("combine", "calibrated"),
        auxiliary=tuple(entry.get("auxiliary", ())),
        layer=layer
        and PatchLayer(
            *(_floats(layer[key]) for key in ("module", "weak", "bias")),
            *(
                tuple(map(_floats, layer.get(key, ())))
                for key in ("auxiliary", "undivided")
            ),
        ),
        range=limits and _floats(limits),
        weak_share=float(entry.get("weak_share", WEAK_SHARE)),
    )


def spec_data(spec: Spec) -> dict[str, Any]:
    """Returns a spec as plain data, as `write_spec` takes it.

    Paths in it are absolute `pathlib` paths, so `write_spec` makes them valid
    wherever it writes the spec.
    """
    is_new = spec.base is None
    return _filled(
        version=1,
        name=spec.name,
        license=spec.license,
        stores={
            name: _filled(path=ref.path, digest=ref.digest)
            for name, ref in spec.stores.items()
        },
        input=spec.input and dataclasses.asdict(spec.input),
        base=spec.base and _filled(**dataclasses.asdict(spec.base)),
        classes=[_class_data(entry) for entry in spec.classes],
        scores=_scores_data(spec.scores) if is_new else None,
        patches=[_patch_data(patch) for patch in spec.patches],
        checks=list(map(check_data, spec.checks)),
    )


def check_data(check: Check) -> dict[str, Any]:
    """Returns a line of a contract as plain data, with paths as in `Spec`."""
    return _filled(
        metric=check.metric,
        shift=check.shift,
        flip=check.flip,
        min=check.min,
        max=check.max,
        data=check.data and _data_set(check.data),
        **{"class": check.class_name},
    )


def _filled(**data):
    """Leaves out what a spec does not say."""
    return {k: v for k, v in data.items() if v not in (None, (), [])}


def _data_set(ref):
    key = "path" if isinstance(ref.name, Path) else "name"
    return {key: ref.name, "split": ref.split}


def _class_data(entry):
    modules = [_module_data(module) for module in entry.modules]
    if len(modules) == 1:
        return {"name": entry.name, "module": modules[0]}
    return {"name": entry.name, "any_of": modules}


def _module_data(module):
    return {"store": module.store, "class": module.class_name}


def _scores_data(scores):
    data = dataclasses.asdict(scores)
    data["auxiliary"] = list(map(_module_data, scores.auxiliary))
    data["data"] = list(map(_data_set, scores.data))
    data["other"] = scores.other and _filled(**dataclasses.asdict(scores.other))
    if not scores.is_fitted:
        del data["images_per_class"]
    if scores.familiarity:
        del data["familiarity"]
    if len(scores.data) == 1:
        (data["data"],) = data["data"]
    return _filled(**data)


def _patch_data(patch):
    return {"class": patch.class_name} | _filled(
        module=_module_data(patch.module),
        combine=patch.combine,
        auxiliary=patch.auxiliary,
        layer=patch.layer and _filled(**dataclasses.asdict(patch.layer)),
        range=patch.range,
        weak_share=(
            None if patch.weak_share == WEAK_SHARE else patch.weak_share
        ),
    )
