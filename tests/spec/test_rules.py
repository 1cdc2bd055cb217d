import pytest

from kmod.errors import SpecError
from kmod.spec.loader import parse_spec

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
    ],
)
def test_fault(text, old, new, fault):
    assert old in text
    with pytest.raises(SpecError) as caught:
        parse(text.replace(old, new))
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


def test_used_stores_give_no_warning():
    assert parse(CLASSES).warnings == parse(PATCH).warnings == ()
