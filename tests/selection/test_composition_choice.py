import pytest

from kmod.composition.composer import compose
from kmod.composition.labelled_images import ImageReader
from kmod.data.subsets import class_subset
from kmod.errors import ArtifactError
from kmod.errors import UsageError
from kmod.files import slug
from kmod.metrics.evaluate import evaluate
from kmod.selection.composition_choice import choice_text
from kmod.selection.composition_choice import choose_composition
from kmod.selection.module_choice import ModuleChoice
from kmod.spec.model import DataRef
from kmod.spec.spec_file import load_spec

CLASSES = ("9", "3")
DATA = (DataRef("digits", "validation"),)


@pytest.fixture(scope="module")
def chosen(poor, donor, tmp_path_factory):
    path = tmp_path_factory.mktemp("chosen") / "nine-or-three.yaml"
    return choose_composition(
        CLASSES, [poor, donor], DATA, path, images_per_class=20
    )


def test_spec_composes_to_a_good_model(chosen, digits):
    choice, spec = chosen
    assert choice.num_images == 40
    assert load_spec(spec.path) == spec
    assert spec.class_names == CLASSES
    assert (spec.scores.calibration, spec.scores.images_per_class) == (
        "joint",
        20,
    )
    model = compose(spec)
    images = class_subset(digits.test, [2, 0])
    assert evaluate(model, images).accuracy > 0.9


def test_spec_says_why(chosen):
    lines = chosen[1].path.read_text().splitlines()
    assert lines[0].startswith("# Modules chosen on 40 labelled images, with")
    (name,) = chosen[1].stores
    assert name == slug(chosen[0].stores[1].path.name)
    assert lines[1].startswith(f"# '9': {name} 0.9")
    assert "the best other 0." in lines[1]


@pytest.mark.parametrize("index", [0, 1])
def test_auxiliary_modules_are_in_the_spec(poor, donor, index, tmp_path):
    stores = poor, donor
    choice = ModuleChoice(
        stores,
        {"9": 1, "3": 1},
        {"9": {1: 0.9}, "3": {1: 0.9}},
        40,
        ((index, "8"),),
    )
    path = tmp_path / "t.yaml"
    path.write_text(choice_text(choice, path, DATA, 20))
    spec = load_spec(path)
    (module,) = spec.scores.auxiliary
    store = spec.stores[module.store]
    assert (spec.path.parent / store.path).samefile(stores[index].path)
    assert module.class_name == "8"
    assert "# With those of `auxiliary`, which" in path.read_text()
    assert choice.as_dict()["auxiliary"] == [
        {"store": str(stores[index].path), "class": "8"}
    ]
    model = compose(spec)
    assert model.output_shape == (None, 2)


@pytest.mark.parametrize(
    ("names", "data", "wrong", "message"),
    [
        (("9", "9"), DATA, {}, r"\['9'\] more than once"),
        (CLASSES, DATA, {"images_per_class": -5}, "must be from 1 to 1000000"),
        (CLASSES, DATA, {"macs_budget": -1}, "`macs_budget` must be above 0"),
        (CLASSES, None, {"macs_budget": 5e6}, "without `data`"),
    ],
)
def test_wrong_usage_is_refused_before_images_are_read(
    donor, tmp_path, monkeypatch, names, data, wrong, message
):
    monkeypatch.setattr(ImageReader, "load", None)
    path = tmp_path / "t.yaml"
    with pytest.raises(UsageError, match=message):
        choose_composition(names, [donor], data, path, **wrong)
    assert not path.exists()


@pytest.mark.parametrize("name", [None, "pets:validation"])
def test_images_in_python(chosen, poor, donor, digits, name, tmp_path):
    part = class_subset(digits.validation, [2, 0])
    given = part.images, part.labels
    data = given if name is None else {name: given}
    path = tmp_path / "t.yaml"
    choice, spec = choose_composition(
        CLASSES, [poor, donor], data, path, images_per_class=500
    )
    assert choice.chosen == chosen[0].chosen
    assert str(spec.scores.data[0]) == (name or "in-memory:validation")
    model = compose(load_spec(path), data=data)
    assert evaluate(model, class_subset(digits.test, [2, 0])).accuracy > 0.9
    message = "given in Python" if name is None else "Received: 'pets'"
    with pytest.raises(ArtifactError, match=message):
        compose(spec)
