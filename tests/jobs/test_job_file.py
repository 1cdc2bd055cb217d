import json

import pytest

from kmod.cli.main import build_parser
from kmod.files.schemas import read_schema
from kmod.jobs.job_file import SCHEMA
from kmod.jobs.job_file import load_jobs
from kmod.spec.faults import SPEC_SCHEMA
from kmod.spec.faults import InvalidSpecError

LIST = """\
version: 1
out: ../stores
data: {name: digits}
options: {epochs: 4, classes: [no, 010]}
sources:
  - model: models/My Pets.keras
  - model: b.keras
    store: 01
    data: {path: photos}
    shards: 3
    options: {epochs: 1, frozen: true, negatives: {path: sea, split: test}}
"""


MODELS = """\
version: 1
models: ../built
data: {name: digits}
patches:
  - model: models/My Pets.keras
    donors: [../stores/pets, b]
    options: {target_classes: [no]}
choices:
  - name: 01
    classes: [no, 010]
    stores: [b]
    data: {path: photos}
    options: {images_per_class: 5}
"""


@pytest.fixture
def load(tmp_path):
    def load(text):
        path = tmp_path / "lists" / "jobs.yaml"
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        return load_jobs(path)

    return load


def test_jobs_have_absolute_paths_and_options_of_both_places(load, tmp_path):
    folder = tmp_path.resolve() / "lists"
    first, second = load(LIST)
    assert first.store == "my-pets"
    assert first.model == folder / "models/My Pets.keras"
    assert first.out == folder.parent / "stores" / "my-pets"
    assert (first.data, first.shards) == ("digits", 1)
    assert first.options == {"epochs": 4, "classes": ["no", "010"]}
    assert (second.store, second.shards) == ("01", 3)
    assert second.data == str(folder / "photos")
    assert second.options["epochs"] == 1
    assert second.options["negatives"] == f"{folder / 'sea'}:test"


@pytest.mark.parametrize(
    ("old", "new", "place", "message"),
    [
        pytest.param(
            "epochs: 4", "epoch: 4", "4:11", "unknown key 'epoch'", id="key"
        ),
        pytest.param(
            "epochs: 1", "epochs: 0", "11:23", "must be at least 1", id="range"
        ),
        pytest.param(
            "b.keras", "/b.keras", "7:12", "An absolute path holds", id="path"
        ),
        pytest.param(
            "frozen: true",
            "license: none of it",
            "11:35",
            "a licence is an SPDX expression",
            id="licence",
        ),
        pytest.param(
            "frozen: true", "seed: 1", "10:13", "Give the option", id="shards"
        ),
        pytest.param(
            "epochs: 1", "refine_epochs: 1", "7:5", "not refined", id="frozen"
        ),
        pytest.param(
            "store: 01",
            "store: My-pets",
            "8:12",
            "makes 'My-pets', too",
            id="twice",
        ),
        pytest.param(
            "data: {name: digits}\n", "", "5:5", "has no images", id="images"
        ),
        pytest.param("version: 1", "a: 1", "1:1", "the job list", id="whole"),
    ],
)
def test_a_fault_has_its_place(load, old, new, place, message):
    assert old in LIST
    with pytest.raises(InvalidSpecError) as caught:
        load(LIST.replace(old, new))
    lines = str(caught.value).splitlines()
    assert any(f"jobs.yaml:{place}: " in x and message in x for x in lines)


def test_models_have_absolute_paths_and_validation_images(load, tmp_path):
    folder = tmp_path.resolve() / "lists"
    patch, choice = load(MODELS)
    assert (patch.kind, choice.kind) == ("patch", "choose")
    assert patch.out == folder.parent / "built" / "my-pets"
    assert patch.model == folder / "models/My Pets.keras"
    assert patch.stores == (folder.parent / "stores/pets", folder / "b")
    assert patch.data == "digits:validation"
    assert patch.options == {"target_classes": ["no"]}
    assert choice.out == folder.parent / "built" / "01"
    assert (choice.model, choice.stores) == (None, (folder / "b",))
    assert choice.data == f"{folder / 'photos'}:validation"
    assert choice.options["class_names"] == ["no", "010"]
    assert choice.options["images_per_class"] == 5


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        pytest.param(
            "models: ../built\n",
            "",
            "3:1: `patches` need a folder",
            id="folder",
        ),
        pytest.param(
            "name: 01", "name: My-pets", "9:11: `patches[0]` makes", id="twice"
        ),
        pytest.param(
            "data: {name: digits}\n",
            "",
            "4:5: `patches[0]` has no",
            id="images",
        ),
        pytest.param(
            "[no]", "[no], epochs: 1", "unknown key 'epochs'", id="key"
        ),
        pytest.param(MODELS, "version: 1", "1:1: a job list has", id="nothing"),
        pytest.param(
            "models: ../built",
            "models: ../built/\nout: ../stores/../built",
            "2:9: stores and models are made in folders of their own",
            id="one-folder",
        ),
    ],
)
def test_a_fault_of_a_model_has_its_place(load, old, new, message):
    assert old in MODELS
    with pytest.raises(InvalidSpecError) as caught:
        load(MODELS.replace(old, new))
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("options", "words", "own"),
    [
        pytest.param(
            "options",
            ["modularize", "a.keras", "--data", "digits", "--out", "a"],
            {"source", "resume", "figures", "deterministic"},
            id="modularize",
        ),
        pytest.param(
            "patch_options",
            ["patch", "a.keras", "--data", "d", "--out", "a", "--donor", "b"],
            {"weak", "donors", "combine", "take", "arguments"},
            id="patch",
        ),
        pytest.param(
            "choice_options",
            ["choose", "--class", "a", "--store", "b", "--out", "a"],
            {"class_names", "stores", "compose", "take", "plot", "arguments"},
            id="choose",
        ),
    ],
)
def test_options_are_those_of_the_command(options, words, own):
    args = build_parser().parse_args(words)
    own |= {"data", "out", "data_dir", "overwrite", "json"}
    about = {"run", "options", "debug", "quiet", "verbose", "how_to_resume"}
    schema = read_schema(SCHEMA)["$defs"][options]["properties"]
    names = {{"for": "purpose"}.get(name, name) for name in schema}
    assert names == vars(args).keys() - own - about


def test_what_both_schemas_define_is_the_same():
    jobs, spec = (read_schema(each)["$defs"] for each in (SCHEMA, SPEC_SCHEMA))
    for name in ("path", "identifier", "class_name", "number", "range"):
        jobs[name].pop("examples", None), spec[name].pop("examples", None)
        text = json.dumps(jobs[name]).replace("the job list's", "the spec's")
        assert json.loads(text) == spec[name]
