"""Patches the class that a weak model gets wrong with a module."""

import numbers
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from typing import Literal

import keras
import numpy as np

from kmod.composition.patched_model import Patch
from kmod.composition.patched_model import build_patched
from kmod.composition.patched_model import evidence_model
from kmod.data.batches import to_arrays
from kmod.errors import UsageError
from kmod.files import slug
from kmod.graph import channel_graph
from kmod.metrics.evaluate import Evaluation
from kmod.metrics.evaluate import evaluate_answers
from kmod.metrics.intervals import compare_answers
from kmod.modules.adaptation import Adaptation
from kmod.modules.class_module import ClassModule
from kmod.patching.patch_figures import Scores
from kmod.patching.patch_fit import PatchFit
from kmod.patching.patch_fit import check_gain
from kmod.patching.patch_fit import fit_on_scores
from kmod.spec.model import BaseModel
from kmod.spec.model import InputSpec
from kmod.spec.model import ModuleRef
from kmod.spec.model import PatchEntry
from kmod.spec.model import Spec
from kmod.spec.model import StoreRef

STORE_ID = "donor"


def patch(
    weak: keras.Model,
    target_class: int | str,
    module: ClassModule,
    data: Any,
    *,
    class_names: Sequence[str] | None = None,
    combine: Literal["calibrated", "minmax", "raw"] = "calibrated",
    adaptation: Adaptation = Adaptation(),
    support: Sequence[ClassModule] = (),
) -> keras.Model:
    """Lets a module answer, together with the weak model, for one class.

    By the rule `calibrated`, how much each of the two counts in the score of
    every class is fitted on validation data, with an eye on the target's
    recall and on the other classes; see `fit_layer`. The other rules are the
    published ones; see `build_patched`.

    Args:
        weak: The weak model, images to one score per class. It is not
            changed.
        target_class: Name or index of the class to patch.
        module: Module of a better model that recognises this class.
        data: Validation `(images, labels)` or batched data, labels in the
            weak model's classes. Not what the weak model was trained on: on
            those images it looks better than it is.
        class_names: The weak model's classes. Defaults to its attribute
            `class_names`.
        combine: How the two scores become one.
        adaptation: How the weak model's images become the module's, from
            `plan_adaptation`. Defaults to not at all.
        support: Further modules of the module's store, whose scores help to
            tell all classes apart; only by the rule `calibrated`.

    Returns:
        The patched model: images to `(batch, num_classes)`, in the weak
        model's order of classes, of built-in layers only. Its answers are
        probabilities by the rule `calibrated`.

    Raises:
        CheckError: If the patch does not raise the target's F1 on `data`, or
            takes accuracy from the other classes there. Each image is judged
            by weights that were fitted without it.
        ArtifactError: If weak model and module take different images.
        UsageError: If `target_class` or `data` do not fit the weak model.
        UnsupportedModelError: If the weak model's graph can not be read.

    Example:

    >>> patched = kmod.patch(weak, 3, store["cat"], (x_val, y_val))
    """
    class_names = class_names or getattr(weak, "class_names", None)
    fitted = fit_patch(
        weak,
        target_class,
        module,
        data,
        class_names=class_names,
        combine=combine,
        adaptation=adaptation,
        support=support,
    )
    patched = build_patched(weak, [fitted.patch])
    if class_names is not None:
        patched.class_names = tuple(class_names)
    return patched


def fit_patch(
    weak: keras.Model,
    target_class: int | str,
    module: ClassModule,
    data: Any,
    *,
    class_names: Sequence[str] | None = None,
    combine: Literal["calibrated", "minmax", "raw"] = "calibrated",
    adaptation: Adaptation = Adaptation(),
    support: Sequence[ClassModule] = (),
) -> PatchFit:
    """Fits what `patch` needs on validation data.

    Takes the arguments of `patch` and raises what it raises.

    Returns:
        The `PatchFit`; its `patch` is for `patch_spec` or `build_patched`.
    """
    class_names = class_names or getattr(weak, "class_names", None)
    target = target_index(target_class, _num_classes(weak), class_names)
    evidence = evidence_model(weak, module, adaptation, support)
    scores = _scores(evidence, data, target)
    fitted = fit_on_scores(scores, module, combine, adaptation, support)
    check_gain(fitted, target_class)
    return fitted


def patch_spec(
    weak_path: str | Path,
    class_names: Sequence[str],
    fitted: Sequence[Patch],
    donors: Sequence[str | Path],
    path: str | Path,
    contract: InputSpec | None = None,
) -> Spec:
    """Returns the spec of patches, which `compose` builds.

    Args:
        weak_path: The weak model's `.keras` file.
        class_names: The weak model's classes.
        fitted: The patches, in the order in which they were fitted.
        donors: Directory of the module store of each.
        path: Where the spec shall be.
        contract: The weak model's images, if they are not the donors'.
    """
    weak_path = Path(weak_path).resolve()
    donors = [Path(donor).resolve() for donor in donors]
    ids = store_ids(donors)
    return Spec(
        name=f"{slug(weak_path.stem)}-patched",
        path=Path(path).resolve(),
        stores={ids[donor]: StoreRef(donor) for donor in ids},
        input=contract,
        base=BaseModel(weak_path, tuple(class_names)),
        patches=tuple(
            _entry(patch, class_names, ids[donor])
            for patch, donor in zip(fitted, donors, strict=True)
        ),
    )


def store_ids(stores: Sequence[Path]) -> dict[Path, str]:
    """Names stores for a spec: `donor`, or `donor-1`, `donor-2`, ..."""
    different = list(dict.fromkeys(stores))
    if len(different) == 1:
        return {different[0]: STORE_ID}
    return {
        store: f"{STORE_ID}-{number}"
        for number, store in enumerate(different, 1)
    }


def _entry(patch, class_names, store_id):
    is_calibrated = patch.combine == "calibrated"
    return PatchEntry(
        class_names[patch.target],
        ModuleRef(store_id, patch.module.info.class_name),
        patch.combine,
        support=tuple(each.info.class_name for each in patch.support),
        layer=patch.layer,
        coefficients=(
            patch.coefficients
            if is_calibrated and patch.layer is None
            else None
        ),
        range=patch.range,
    )


def compare_patch(
    before: Evaluation, after: Evaluation, target_class: str
) -> dict[str, Any]:
    """Compares two evaluations on the same images as plain data for JSON.

    Args:
        before: Of the weak model.
        after: Of the patched model.
        target_class: Name of the patched class.

    Returns:
        Dict of `target_class`, its `precision`, `recall` and `f1` in `before`
        and `after`, and `other_classes_accuracy` before and after.
    """
    index = before.class_names.index(target_class)
    return {
        "target_class": target_class,
        "before": _figures_of(before, index),
        "after": _figures_of(after, index),
        "other_classes_accuracy": {
            "before": before.accuracy_on_others(index),
            "after": after.accuracy_on_others(index),
        },
    }


def _figures_of(evaluation, index):
    return {
        "precision": float(evaluation.precision[index]),
        "recall": float(evaluation.recall[index]),
        "f1": float(evaluation.f1[index]),
    }


def target_index(
    target_class: int | str,
    num_classes: int,
    class_names: Sequence[str] | None,
) -> int:
    """Returns the index of a class that is given by name or index.

    Raises:
        UsageError: If there is no such class.
    """
    if class_names is not None and target_class in class_names:
        return list(class_names).index(target_class)
    is_index = isinstance(target_class, numbers.Integral)
    if is_index and 0 <= target_class < num_classes:
        return int(target_class)
    accepted = f"an index below {num_classes}"
    if class_names is not None:
        accepted += f" or one of {list(class_names)}"
    raise UsageError(
        f"`target_class` must be {accepted}. Received: "
        f"target_class={target_class!r}. Names need `class_names`."
    )


def check_labels(labels: np.ndarray, target: int, num_classes: int) -> None:
    """Refuses images that a patch can not be fitted on.

    Raises:
        UsageError: If they do not show the target and others, or classes that
            the weak model does not have.
    """
    found = set(labels.tolist())
    if target not in found or len(found) < 2 or max(found) >= num_classes:
        raise UsageError(
            "`data` must show the target class and others, labelled by index "
            f"in the weak model's {num_classes} classes. Received: "
            f"target {target} and the labels {sorted(found)}. Take validation "
            "images of all classes."
        )


def _num_classes(weak):
    return channel_graph(weak).num_classes


def _scores(model, data, target):
    images, labels = to_arrays(data)
    outputs = model.predict(images, batch_size=256, verbose=0)
    logits = outputs["logits"]
    check_labels(labels, target, logits.shape[1])
    log_odds, support = np.split(outputs["log_odds"], [1], axis=1)
    raw = outputs["raw"][:, 0]
    return Scores(logits, log_odds[:, 0], raw, labels, target, support)


def compare_patches(
    labels: np.ndarray,
    before: np.ndarray,
    after: np.ndarray,
    targets: Sequence[str],
    class_names: Sequence[str],
) -> dict[str, Any]:
    """Compares the answers of a weak model and of the patched one.

    Args:
        labels: int64 array `(n,)`, true class indices of test images.
        before: int64 array `(n,)`, answers of the weak model.
        after: int64 array `(n,)`, answers of the patched model.
        targets: Names of the patched classes.
        class_names: Names of all classes.

    Returns:
        What `compare_patch` returns of the first target, with the `accuracy`
        on all images before and after, and as `patches` for every target its
        `target_class` and `figures`: of each figure what `Comparison` holds.
    """
    evaluations = [
        evaluate_answers(labels, answers, class_names)
        for answers in (before, after)
    ]
    patches = []
    for target in targets:
        index = list(class_names).index(target)
        compared = compare_answers(labels, before, after, index)
        figures = {name: each.as_dict() for name, each in compared.items()}
        patches.append({"target_class": target, "figures": figures})
    return {
        **compare_patch(*evaluations, targets[0]),
        "accuracy": {
            when: each.accuracy
            for when, each in zip(("before", "after"), evaluations)
        },
        "patches": patches,
    }
