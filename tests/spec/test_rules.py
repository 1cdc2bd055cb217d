import pytest
import yaml

from kmod.errors import SpecError
from kmod.spec.spec_file import parse_spec

CLASSES = """\
version: 1
name: pets
stores:
  cifar: {path: a}
  stl: {path: b}
classes:
  - {name: cat, module: {store: cifar, class: cat}}
  - {name: dog, module: {store: stl, class: dog}}
"""

PATCH = """\
version: 1
name: patched
stores: {cifar: {path: a}}
base: {path: weak.keras, classes: [cat, dog]}
patches:
  - {class: cat, module: {store: cifar, class: cat}}
"""

FULL = """\
version: 1
name: all
license: MIT
stores: {cifar: {path: a}}
input: {shape: [8, 8, 1], range: [0, 1], size: pad}
classes:
  - {name: cat, module: {store: cifar, class: cat}}
  - name: vehicle
    any_of:
      - {store: cifar, class: car}
      - {store: cifar, class: bus}
scores:
  calibration: fit
  data: {name: digits, split: validation}
  images_per_class: 7
  other: {name: other, threshold: 0.5}
checks:
  - {metric: f1, min: 0.5, data: {name: digits, split: test}, class: cat}
"""

JOINT = CLASSES + """\
scores:
  calibration: joint
  data: {name: digits, split: validation}
  auxiliary:
    - {store: stl, class: cat}
    - {store: cifar, class: dog}
"""

MINMAX = """\
version: 1
name: patched
stores: {cifar: {path: a}}
base: {path: weak.keras, classes: [cat, dog]}
patches:
  - class: cat
    module: {store: cifar, class: cat}
    combine: minmax
    range: [-1, 2]
  - class: dog
    module: {store: cifar, class: dog}
    layer: {module: [1, 0], weak: [2, 0], bias: [0, 0]}
"""

PRIORS = [
    (
        "prior-of-another-name",
        "prior: evn",
        "spec.yaml:6:17: `scores.prior` is not valid. Did you mean 'even'? "
        "Accepted: 'even', 'calibrated'. Received: 'evn'.",
    ),
    (
        "prior-of-another-type",
        "prior: [cat]",
        "spec.yaml:6:17: `scores.prior` must be text or a mapping",
    ),
    (
        "prior-of-raw-scores",
        "prior: even, calibration: none",
        "spec.yaml:6:17: `prior` belongs to calibrated scores, which depend "
        "on how frequent classes are. Received: calibration none.",
    ),
    (
        "prior-without-a-class",
        "prior: {cat: 0.5}",
        "spec.yaml:6:17: `scores.prior` must have a share of every class. "
        "Received: none of 'dog'.",
    ),
    (
        "prior-of-an-unknown-class",
        "prior: {cat: 0.5, dgo: 0.5}",
        "spec.yaml:6:33: `scores.prior` has shares of the spec's `classes`; "
        "what is left is that of `other`. Received: 'dgo'. Did you mean 'dog'?",
    ),
    (
        "prior-that-is-no-share",
        "prior: {cat: 0, dog: 0.5}",
        "spec.yaml:6:23: `scores.prior.cat` must be above 0.",
    ),
    (
        "prior-that-adds-up-to-more",
        "prior: {cat: 0.5, dog: 0.6}",
        "spec.yaml:6:17: the shares of `scores.prior` must add up to 1, give "
        "or take 0.01. Received: a sum of 1.1.",
    ),
]


def parse(text):
    return parse_spec(text.encode(), "spec.yaml")


@pytest.mark.parametrize(
    ("text", "old", "new", "fault"),
    [
        pytest.param(
            CLASSES,
            "name: dog",
            "name: cat",
            "spec.yaml:8:12: class names must differ. Received: 'cat', which "
            "line 7 has already.",
            id="class-twice",
        ),
        pytest.param(
            CLASSES.replace("name: cat", "name: caf\u00e9"),
            "name: dog",
            "name: cafe\u0301",
            "spec.yaml:8:12: class names must differ.",
            id="same-letters-spelt-differently",
        ),
        pytest.param(
            PATCH,
            "[cat, dog]",
            "[cat, cat]",
            "spec.yaml:4:41: class names must differ.",
            id="base-class-twice",
        ),
        pytest.param(
            CLASSES,
            "store: stl",
            "store: slt",
            "spec.yaml:8:33: unknown store 'slt'. Did you mean 'stl'? "
            "Accepted: 'cifar', 'stl'.",
            id="unknown-store",
        ),
        pytest.param(
            PATCH,
            "store: cifar",
            "store: fashion",
            "spec.yaml:6:34: unknown store 'fashion'. Accepted: 'cifar'.",
            id="unknown-store-of-a-patch",
        ),
        pytest.param(
            PATCH,
            "{class: cat,",
            "{class: cta,",
            "spec.yaml:6:13: a patched class must be one of the base's "
            "`classes`. Received: 'cta'. Did you mean 'cat'? Accepted: 'cat', "
            "'dog'.",
            id="unknown-target-class",
        ),
        pytest.param(
            MINMAX,
            "class: dog\n    module",
            "class: cat\n    module",
            "spec.yaml:10:12: a class is patched once. Received: 'cat', which "
            "line 6 patches already.",
            id="patched-twice",
        ),
        pytest.param(
            FULL,
            "class: bus",
            "class: car",
            "spec.yaml:11:9: the modules of `any_of` must differ. Received: "
            "the same as item 0.",
            id="module-twice",
        ),
        pytest.param(
            FULL,
            "name: other",
            "name: vehicle",
            "spec.yaml:16:17: class names must differ. Received: 'vehicle', "
            "which line 8 has already. One class may have several modules",
            id="other-class-twice",
        ),
        pytest.param(
            FULL,
            "range: [0, 1]",
            "range: [1, 0]",
            "spec.yaml:5:34: `input.range` must be two numbers, the smaller "
            "one first. Received: [1, 0].",
            id="range-of-images-falls",
        ),
        pytest.param(
            MINMAX,
            "[-1, 2]",
            "[2, 2]",
            "spec.yaml:9:12: `patches[0].range` must be two numbers",
            id="range-of-scores-is-empty",
        ),
        pytest.param(
            FULL,
            "    any_of",
            "    module: {store: cifar, class: bus}\n    any_of",
            "spec.yaml:8:5: `classes[1]` must have either `module` or "
            "`any_of`, not both. Received: the keys 'name, module, any_of'.",
            id="module-and-any-of",
        ),
        pytest.param(
            FULL,
            "cat, module: {store: cifar, class: cat}}",
            "cat}",
            "spec.yaml:7:5: `classes[0]` must have either `module` or "
            "`any_of`, not both. Received: the keys 'name'.",
            id="neither-module-nor-any-of",
        ),
        pytest.param(
            FULL,
            "  data: {name: digits, split: validation}\n",
            "",
            "spec.yaml:13:3: `scores` lacks the required `data`. Received: ",
            id="fit-without-data",
        ),
        pytest.param(
            FULL,
            "  data: {name: digits, split: validation}",
            "  data: [{name: digits, split: train}, {name: mnist, split: val}]",
            "spec.yaml:14:61: `scores.data[1].split` is not valid. Accepted: ",
            id="second-data-set",
        ),
        pytest.param(
            FULL,
            "  data: {name: digits, split: validation}",
            "  data: []",
            "spec.yaml:14:9: `scores.data` must have at least 1 items. ",
            id="no-data-set",
        ),
        pytest.param(
            FULL,
            "  data: {name: digits, split: validation}",
            "  data: digits:test",
            "spec.yaml:14:9: `scores.data` must be a mapping of keys to values "
            "or a list. Received: 'digits:test'.",
            id="data-as-text",
        ),
        pytest.param(
            FULL,
            "fit\n  data: {name: digits, split: validation}\n",
            "stored\n",
            "spec.yaml:14:21: `images_per_class` belongs to the calibrations "
            "fit and joint. Received: calibration stored. Remove it, or write ",
            id="number-of-images-without-fit",
        ),
        pytest.param(
            FULL.replace("  images_per_class: 7\n", ""),
            "fit",
            "stored",
            "spec.yaml:14:9: `data` belongs to the calibrations unlabelled, "
            "fit and joint.",
            id="data-without-fit",
        ),
        pytest.param(
            FULL[: FULL.index("checks")],
            FULL[FULL.index("fit") : FULL.index("  other")],
            "none\n",
            "spec.yaml:14:10: `other` needs scores that are calibrated. "
            "Accepted: stored, unlabelled, fit, joint. Received: calibration "
            "none.",
            id="other-of-raw-scores",
        ),
        pytest.param(
            FULL,
            "calibration: fit",
            "calibration: joint",
            "spec.yaml:16:35: `other.threshold` is compared with each class's "
            "own probability, so it needs a calibration of every class by "
            "itself. Accepted: stored, unlabelled, fit. Received: calibration "
            "joint. Take `reject` instead, or one of these.",
            id="other-of-joint-scores",
        ),
        pytest.param(
            FULL,
            "  images_per_class: 7\n",
            "  images_per_class: 7\n  auxiliary: [{store: cifar, class: y}]\n",
            "spec.yaml:16:14: `auxiliary` belongs to the calibration joint, "
            "whose layer weighs further scores as well. Received: calibration "
            "fit. Remove it, or write joint.",
            id="auxiliary-without-joint",
        ),
        *(
            pytest.param(
                CLASSES,
                "classes:",
                f"scores: {{{key}}}\nclasses:",
                fault,
                id=name,
            )
            for name, key, fault in PRIORS
        ),
        pytest.param(
            FULL,
            "  images_per_class: 7\n",
            "  prior: {cat: 0.5, vehicle: 0.5}\n",
            "spec.yaml:15:10: the shares of `scores.prior` must add up to less "
            "than 1, since images of `other` have what is left. Received: a "
            "sum of 1.",
            id="prior-leaves-nothing-to-other",
        ),
        pytest.param(
            JOINT,
            "- {store: cifar, class: dog}",
            "- {store: stl, class: cat}",
            "spec.yaml:14:7: the modules of `scores.auxiliary` must differ "
            "from each other and from those of the classes, whose scores count "
            "anyway. Received: the same again. Remove it.",
            id="auxiliary-twice",
        ),
        pytest.param(
            JOINT,
            "- {store: cifar, class: dog}",
            "- {store: cifar, class: cat}",
            "spec.yaml:14:7: the modules of `scores.auxiliary` must differ "
            "from each other and from those of the classes, whose scores count "
            "anyway. Received: the same again. Remove it.",
            id="auxiliary-of-a-class",
        ),
        pytest.param(
            JOINT,
            "- {store: cifar, class: dog}",
            "- {store: cifra, class: dog}",
            "spec.yaml:14:15: unknown store 'cifra'. Did you mean 'cifar'?",
            id="auxiliary-of-unknown-store",
        ),
        pytest.param(
            FULL,
            "threshold: 0.5",
            "threshold: 1",
            "spec.yaml:16:35: `scores.other.threshold` must be below 1. ",
            id="threshold",
        ),
        pytest.param(
            MINMAX,
            "    range: [-1, 2]\n",
            "",
            "spec.yaml:6:5: `patches[0]` lacks the required `range`.",
            id="minmax-without-range",
        ),
        pytest.param(
            MINMAX,
            "combine: minmax",
            "combine: raw",
            "spec.yaml:9:12: `range` belongs to `combine: minmax`. Received: "
            "combine raw. Remove it, or write minmax.",
            id="range-without-minmax",
        ),
        pytest.param(
            MINMAX,
            "    range: [-1, 2]\n",
            "    range: [-1, 2]\n    weak_share: 0.1\n",
            "spec.yaml:10:17: `weak_share` belongs to `combine: divided`. "
            "Received: combine minmax. Remove it, or write divided.",
            id="weak-share-of-minmax",
        ),
        pytest.param(
            MINMAX,
            "    layer",
            "    combine: raw\n    layer",
            "spec.yaml:13:12: `layer` belongs to `combine: calibrated or "
            "divided`.",
            id="layer-of-raw",
        ),
        pytest.param(
            MINMAX,
            "    layer: {module: [1, 0], weak: [2, 0], bias: [0, 0]}\n",
            "    combine: divided\n",
            "spec.yaml:12:14: `combine: divided` takes `auxiliary`, the other "
            "classes that the modules decide among. Received: none.",
            id="divided-by-one",
        ),
        pytest.param(
            MINMAX,
            "    layer: {module: [1, 0], weak: [2, 0], bias: [0, 0]}\n",
            "    combine: divided\n    auxiliary: [cow]\n",
            "spec.yaml:13:17: with `combine: divided`, `auxiliary` has other "
            "classes of the base, each once. Received: 'cow'. Accepted here: "
            "['cat'].",
            id="divided-by-a-stranger",
        ),
        pytest.param(
            MINMAX,
            "    layer: {module: [1, 0], weak: [2, 0], bias: [0, 0]}\n",
            "    combine: divided\n    auxiliary: [cat, cat]\n",
            "spec.yaml:13:22: with `combine: divided`, `auxiliary` has other "
            "classes of the base, each once. Received: 'cat'.",
            id="divided-by-one-twice",
        ),
        pytest.param(
            MINMAX,
            "    layer: {module: [1, 0], weak: [2, 0], bias: [0, 0]}\n",
            "    auxiliary: [cat, dog]\n    layer: {module: [1, 0], weak: "
            "[2, 0], auxiliary: [[1, 0], [0, 1]], bias: [0, 0]}\n",
            "spec.yaml:12:22: the classes of `auxiliary` must differ from each "
            "other and from the module's own, whose score counts anyway. "
            "Received: 'dog' again. Remove it, and its list in `layer`.",
            id="auxiliary-of-the-class-itself",
        ),
        pytest.param(
            MINMAX,
            "bias: [0, 0]",
            "bias: [0, 0, 0]",
            "spec.yaml:12:49: `patches[1].layer.bias` must have one number for "
            "each of the base's 2 classes. Received: 3.",
            id="layer-of-other-length",
        ),
        pytest.param(
            MINMAX,
            "    layer",
            "    auxiliary: [cat]\n    layer",
            "spec.yaml:12:16: a patch has one list in `layer.auxiliary` for "
            "each class of `auxiliary`. Received: 0 lists for 1 classes.",
            id="auxiliary-without-factors",
        ),
        pytest.param(
            MINMAX,
            "    layer: {module: [1, 0], weak: [2, 0], bias: [0, 0]",
            "    auxiliary: [cat]\n"
            "    layer: {module: [1, 0], weak: [2, 0], bias: [0, 0], "
            "auxiliary: [[1, 2, 3]]",
            "spec.yaml:13:69: `patches[1].layer.auxiliary[0]` must have one "
            "number for each of the base's 2 classes. Received: 3.",
            id="auxiliary-of-other-length",
        ),
        pytest.param(
            MINMAX,
            "    layer: {module: [1, 0], weak: [2, 0], bias: [0, 0]",
            "    layer: {module: [1, 0], weak: [2, 0], bias: [0, 0], "
            "undivided: [[1, 2], [0, 1]]",
            "spec.yaml:12:68: `layer.undivided` belongs to `combine: divided`. "
            "Received: combine: calibrated. Leave it out.",
            id="undivided-of-another-rule",
        ),
        pytest.param(
            MINMAX,
            "    layer: {module: [1, 0], weak: [2, 0], bias: [0, 0]",
            "    combine: divided\n    auxiliary: [cat]\n"
            "    layer: {module: [1, 0], weak: [2, 0], bias: [0, 0], "
            "auxiliary: [[1, 2]], undivided: [[1, 2], [0, 1], [0, 0]]",
            "spec.yaml:14:89: `patches[1].layer.undivided` must have one list "
            "for each of the base's 2 classes. Received: 3.",
            id="undivided-of-other-length",
        ),
        pytest.param(
            FULL,
            "class: cat}\n",
            "class: cta}\n",
            "spec.yaml:18:70: a check is of one of the spec's classes. "
            "Received: 'cta'. Did you mean 'cat'? Accepted: 'cat', 'vehicle', "
            "'other'.",
            id="check-of-unknown-class",
        ),
        pytest.param(
            FULL,
            ", class: cat}\n",
            "}\n",
            "spec.yaml:18:5: `checks[0]` lacks the required `class`.",
            id="f1-of-no-class",
        ),
        pytest.param(
            FULL,
            "min: 0.5",
            "min: 50",
            "spec.yaml:18:23: `checks[0].min` must be at most 1.",
            id="per-cent",
        ),
        pytest.param(
            FULL,
            "split: test",
            "split: tset",
            "spec.yaml:18:56: `checks[0].data.split` is not valid. Did you "
            "mean 'test'? Accepted: 'train', 'validation', 'test'.",
            id="split",
        ),
        pytest.param(
            FULL,
            "[8, 8, 1]",
            "[8, true, 1]",
            "spec.yaml:5:20: `input.shape[1]` must be a whole number. "
            "Received: 'true'.",
            id="truth-value-for-number",
        ),
        pytest.param(
            FULL,
            "[8, 8, 1]",
            "[8, 8]",
            "spec.yaml:5:16: `input.shape` must have at least 3 items.",
            id="shape",
        ),
        pytest.param(
            FULL,
            "license: MIT",
            "license: Apache 2.0",
            "spec.yaml:3:10: `license` must be an SPDX expression, such as "
            "Apache-2.0 or MIT OR GPL-3.0-only. Received: 'Apache 2.0', "
            "Invalid symbols sequence such as (A B) for token: '2.0' at "
            "position: 7. Did you mean 'Apache-2.0'?",
            id="license",
        ),
    ],
)
def test_fault(text, old, new, fault):
    assert old in text
    with pytest.raises(SpecError) as caught:
        parse(text.replace(old, new, 1))
    assert str(caught.value).startswith(fault)
    assert "\n" not in str(caught.value)


def test_rules_hold_beside_schema_faults():
    text = CLASSES.replace("name: dog", "name: cat").replace("path: a", "x: a")
    with pytest.raises(SpecError, match="(?s)unknown key 'x'.*must differ"):
        parse(text)


def test_unused_store_is_a_warning():
    spec = parse(CLASSES.replace("store: stl", "store: cifar"))
    assert spec.warnings == (
        "spec.yaml:5:3: warning: no module is taken from store 'stl'.",
    )


def test_store_of_auxiliary_modules_is_used():
    text = JOINT.replace("{store: stl, class: dog}", "{store: cifar, class: x}")
    assert parse(text).warnings == ()


def test_module_of_two_classes_is_a_warning():
    text = CLASSES.replace("store: stl, class: dog", "store: cifar, class: cat")
    assert parse(text).warnings[1] == (
        "spec.yaml:8:25: warning: two classes have this module, which can not "
        "tell them apart. The other one is in line 7."
    )


def test_unknown_licence_is_a_warning():
    assert parse(FULL.replace("MIT", "MTI")).warnings == (
        "spec.yaml:3:10: warning: the licence 'MTI' is not known here. Did "
        "you mean 'MIT'?",
    )


@pytest.mark.parametrize("text", [CLASSES, PATCH, FULL, JOINT, MINMAX])
def test_good_specs_give_no_warning(text):
    assert parse(text).warnings == ()


def places(value, path=()):
    """Yields the path of every value in nested data."""
    yield path
    if isinstance(value, (dict, list)):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        for key, child in items:
            yield from places(child, (*path, key))


@pytest.mark.parametrize("text", [FULL, JOINT, MINMAX])
@pytest.mark.parametrize(
    "value",
    [None, True, -1, 1e300, "", "x", [], [1], [[]], {}, {"a": 1}],
    ids=repr,
)
def test_any_value_at_any_place_is_read_or_refused(text, value):
    for path in places(yaml.safe_load(text)):
        data = yaml.safe_load(text)
        parent = data
        for key in path[:-1]:
            parent = parent[key]
        if path:
            parent[path[-1]] = value
        else:
            data = value
        try:
            parse(yaml.safe_dump(data))
        except SpecError:
            pass
