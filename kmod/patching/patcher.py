"""Patches the class that a weak model gets wrong with a module."""

import numbers
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from typing import Literal

import keras
import numpy as np

from kmod.composition.composition_manifest import Composition
from kmod.composition.composition_manifest import manifest_of_patches
from kmod.composition.patched_model import Patch
from kmod.composition.patched_model import build_patched
from kmod.composition.patched_model import check_images
from kmod.data.batches import common_class_names
from kmod.data.batches import to_arrays
from kmod.data.streaming import predict
from kmod.data.value_range import value_range_of
from kmod.errors import UsageError
from kmod.files import slug
from kmod.graph import channel_graph
from kmod.graph import rebuild
from kmod.modular.modular_model import checked_names
from kmod.modules.adaptation import Adaptation
from kmod.modules.class_module import ClassModule
from kmod.modules.manifest import InputContract
from kmod.patching.acceptance import MAX_LOSS
from kmod.patching.acceptance import Acceptance
from kmod.patching.donors import module_answers
from kmod.patching.patch_fit import ValidationScores
from kmod.patching.patch_fit import fit_on_scores
from kmod.spec.model import BaseModel
from kmod.spec.model import InputSpec
from kmod.spec.model import ModuleRef
from kmod.spec.model import PatchEntry
from kmod.spec.model import Spec
from kmod.spec.model import StoreRef
from kmod.spec.rules import COMBINATIONS
from kmod.spec.rules import KEYS_OF_COMBINATIONS

STORE_ID = "donor"


def patch(
    weak: keras.Model,
    target_class: int | str,
    module: ClassModule,
    data: Any,
    *,
    class_names: Sequence[str] | None = None,
    combine: Literal["calibrated", "divided", "minmax", "raw"] = "calibrated",
    adaptation: Adaptation = Adaptation(),
    auxiliary: Sequence[ClassModule] = (),
    output: str | None = None,
    judge: Literal["accuracy", "macro_f1"] = "accuracy",
    max_loss: float = MAX_LOSS,
) -> keras.Model:
    """Lets a module answer, together with the weak model, for one class.

    By the rule `calibrated`, how much each of the two counts in the score of
    every class is fitted on validation data, with an eye on the target's
    recall and on the other classes; see `fit_layer`. By the rule `divided`,
    for modules of several of the weak model's classes, these decide among
    their classes, and labels change little; see `fit_divided`. The other rules
    are the published ones; see `build_patched`.

    Args:
        weak: The weak model, images to one score per class, or to one
            score of the second of two classes. It is not changed.
        target_class: Name or index of the class to patch.
        module: Module of a better model that recognises this class.
        data: Validation `(images, labels)` or batched data, labels in the
            weak model's classes. Not what the weak model was trained on: on
            those images it looks better than it is.
        class_names: The weak model's classes. Defaults to its attribute
            `class_names`, or to those of the data.
        combine: How the two scores become one.
        adaptation: How the weak model's images become the module's, from
            `plan_adaptation`. Defaults to not at all.
        auxiliary: Further modules of the module's store, whose scores help to
            tell all classes apart; only by the rules `calibrated` and
            `divided`. The latter needs them, of classes of the weak model, of
            the same names.
        output: Name of the weak model's output to take, of several.
        judge: What must not fall over all classes: the accuracy, or the mean
            F1, in which every class counts alike.
        max_loss: How much accuracy on the other classes the patch may cost,
            0 to 1.

    Returns:
        The patched model: images to `(batch, num_classes)`, in the weak
        model's order of classes, of built-in layers only. Its answers are
        probabilities by the rule `calibrated`. Save it with `kmod.save`, or
        let `kmod patch` write a spec of it, too.

    Raises:
        CheckError: If the patch does not raise the target's F1 on `data`,
            lowers what it is judged by, or costs the other classes more than
            `max_loss`. Each image is judged by weights that were fitted
            without it.
        ArtifactError: If weak model and module take different images.
        UsageError: If `target_class`, `class_names`, `data` or `output` do
            not fit the weak model, `combine`, `judge` or `max_loss` are none,
            or the rule takes no auxiliary modules.
        UnsupportedModelError: If the weak model's graph can not be read.

    Example:

    >>> patched = kmod.patch(weak, 3, store["cat"], (x_val, y_val))
    """
    acceptance = Acceptance(judge, max_loss)
    check_rule(combine, auxiliary)
    class_names = class_names or getattr(weak, "class_names", None)
    class_names = common_class_names(class_names, data)
    images, labels = to_arrays(data)
    logits = rebuild(channel_graph(weak, output, images.shape[1:]))
    num_classes = logits.output_shape[1]
    if class_names is not None:
        class_names = checked_names(class_names, num_classes)
    target = target_index(target_class, num_classes, class_names)
    check_labels(labels, target, num_classes)
    modules = [module, *auxiliary]
    for each in modules:
        check_images(logits, each, adaptation)
    others = ()
    if combine == "divided":
        others = _other_classes(auxiliary, class_names, target)
    scores = ValidationScores.of(
        predict(logits, images),
        module_answers(modules, images, adaptation),
        labels,
        target,
        others,
    )
    fitted = fit_on_scores(
        scores, module, combine, adaptation, auxiliary, acceptance
    )
    if not fitted.helps:
        raise acceptance.refusal(f"{target_class!r}: {fitted}")
    patched = build_patched(logits, [fitted.patch])
    if class_names is not None:
        patched.class_names = tuple(class_names)
    patched.composition = Composition(
        manifest_of_patches(
            patched.name,
            class_names or [str(index) for index in range(num_classes)],
            InputContract(
                images.shape[1:],
                patched.inputs[0].dtype,
                value_range_of(images),
            ),
            [fitted.patch],
        )
    )
    return patched


def _other_classes(auxiliary, class_names, target):
    names = list(class_names or ())
    given = [each.info.class_name for each in auxiliary]
    rest = [name for name in names if name != names[target]]
    is_once = len(set(given)) == len(given)
    if not given or not is_once or not set(given) <= set(rest):
        raise UsageError(
            "The rule `divided` takes auxiliary modules of other classes of "
            "the weak model, one for each. Received: modules of "
            f"{given}; the weak model's others are {rest}. Give those of its "
            "classes that the donor has, and `class_names` if the weak model "
            "has none."
        )
    return tuple(map(names.index, given))


def patch_spec(
    weak_path: str | Path,
    class_names: Sequence[str],
    fitted: Sequence[Patch],
    donors: Sequence[str | Path],
    path: str | Path,
    contract: InputSpec | None = None,
    output: str | None = None,
) -> Spec:
    """Returns the spec of patches, which `compose` builds.

    Args:
        weak_path: The weak model's `.keras` file.
        class_names: The weak model's classes.
        fitted: The patches, in the order in which they were fitted.
        donors: Directory, or URL with digest, of the module store of each.
        path: Where the spec shall be.
        contract: The weak model's images, if they are not the donors'.
        output: Name of the weak model's output to take, of several.
    """
    weak_path = Path(weak_path).resolve()
    donors = [StoreRef.of(donor) for donor in donors]
    different = list(dict.fromkeys(donors))
    ids = {
        donor: STORE_ID if len(different) == 1 else f"{STORE_ID}-{number}"
        for number, donor in enumerate(different, 1)
    }
    return Spec(
        name=f"{slug(weak_path.stem)}-patched",
        path=Path(path).resolve(),
        stores={ids[donor]: donor for donor in ids},
        input=contract,
        base=BaseModel(weak_path, tuple(class_names), output),
        patches=tuple(
            PatchEntry(
                class_names[patch.target],
                ModuleRef(ids[donor], patch.module.info.class_name),
                patch.combine,
                tuple(each.info.class_name for each in patch.auxiliary),
                patch.layer,
                patch.range,
                patch.weak_share,
            )
            for patch, donor in zip(fitted, donors, strict=True)
        ),
    )


def check_rule(combine: str, auxiliary: Sequence[ClassModule] = ()) -> None:
    """Refuses what is no rule, and auxiliary modules that a rule ignores.

    Raises:
        UsageError: If it is so.
    """
    if combine not in COMBINATIONS:
        raise UsageError(
            f"`combine` must be one of {list(COMBINATIONS)}. Received: "
            f"combine={combine!r}."
        )
    owners = KEYS_OF_COMBINATIONS["auxiliary"]
    if auxiliary and combine not in owners:
        raise UsageError(
            f"`auxiliary` belongs to the rules {list(owners)}, which weigh "
            f"what further modules say. Received: combine={combine!r} with "
            f"auxiliary={[each.info.class_name for each in auxiliary]}. Leave "
            "them out, or take another rule."
        )


def target_index(
    target_class: int | str,
    num_classes: int,
    class_names: Sequence[str] | None,
    argument: str = "target_class",
) -> int:
    """Returns the index of a class that is given by name or index.

    Args:
        target_class: The class.
        num_classes: How many the weak model has.
        class_names: Their names, if it has any.
        argument: What the error calls it.

    Raises:
        UsageError: If there is no such class.
    """
    if class_names is not None and target_class in class_names:
        return list(class_names).index(target_class)
    if not isinstance(target_class, str):
        is_index = isinstance(target_class, numbers.Integral)
        if is_index and 0 <= target_class < num_classes:
            return int(target_class)
        accepted = f"an index below {num_classes}, or a name"
    elif class_names is None:
        accepted = f"an index below {num_classes}; names need `class_names`"
    else:
        accepted = f"one of {list(class_names)}"
    raise UsageError(
        f"`{argument}` must be {accepted}. Received: "
        f"{argument}={target_class!r}."
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
