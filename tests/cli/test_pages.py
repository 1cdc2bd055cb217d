"""Every command of `kmod` that a page shows is run, with what it names there.

What lies there is small: digits in the place of photos and of larger data
sets, of few classes, and networks that know them. Searches that are as long as
the default says are cut short; what is typed is what the page shows.
"""

import dataclasses
import functools
import importlib
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds

import kmod
from kmod.cli import modularize as command
from kmod.cli import store_making
from kmod.cli.main import build_parser
from kmod.cli.main import main
from kmod.data import load as data_sets
from kmod.data.image_data import SPLITS
from kmod.data.load import select_classes
from kmod.data.subsets import class_subset
from kmod.demo import pipeline
from kmod.demo import settings
from kmod.files.remote import CACHE_VARIABLE
from kmod.modular import modularize
from kmod.modular.cnnsplitter.options import SearchOptions

ROOT = Path(__file__).parents[2]
PAGES = [
    ROOT / "README.md",
    ROOT / "CHANGELOG.md",
    ROOT / "benchmarks" / "trials.md",
    *sorted((ROOT / "docs").glob("*.md")),
]
NOT_RUN = {
    "kmod jobs jobs.yaml --ray 10.0.0.1:6379": "there is no such cluster; "
    "test_jobs.py runs a list on one that it starts"
}
EXIT_CODES = {"kmod inspect hf://somebody/digits": 2}  # It has no digest.
EXTRAS = {
    "README.md": ["ai_edge_litert"],
    "deploying.md": ["ai_edge_litert", "onnxruntime", "tf2onnx"],
    "jobs.md": ["ray"],
    "method.md": ["pygad"],
    "slimming.md": ["ai_edge_litert"],
}
SHOWN = "shown"  # On the page itself.
# Where TensorFlow Datasets are if no `--data-dir` says so.
HOME = "tensorflow_datasets"
ALL = (
    *("airplane", "automobile", "bird", "cat", "deer"),
    *("dog", "frog", "horse", "ship", "truck"),
)
DIGIT_OF = {name: digit for digit, name in enumerate(ALL)}
DIGIT_OF |= {"Trouser": 1, "lion": 4, "Bag": 8}
FEW = ("bird", "cat", "dog")
FASHION = ("Trouser", "Bag")
# Of ten classes everything would take three times as long. What workers of
# `kmod jobs` read has all of them, as the page's eight shards need.
FEW_CLASSES = {
    "README.md": {"digits": ("2", "4", "8")},
    "reuse.md": {"cifar10": FEW, "fashion_mnist": FASHION},
}
PETS = ("Bag", "bird", "cat", "dog")
FELINES = ("bird", "cat", "lion")
VEHICLES = ("ship", "truck")
# What the commands of a page name: a fixture, and the classes it is of.
GIVEN = {
    "README.md": {"even-digits.yaml": SHOWN},
    "contracts.md": {
        "modules/cifar10": ("imported", *FEW),
        "data": ("prepared",),
    },
    "dependence.md": {
        "modules/cifar": ("imported", *FEW),
        "DIR": ("prepared",),
        "photos": ("photos", *FEW),
    },
    "deploying.md": {
        "built/even-digits": ("composed",),
        "small": ("composed",),
        "photos": ("photos", *FEW),
    },
    "familiarity.md": {
        HOME: ("prepared",),
        "DIR": ("prepared",),
        "cifar.keras": ("model", *FEW),
        "photos": ("photos", *FEW),
        "elsewhere": ("photos", *VEHICLES),
        "modules/older": ("cut", *FEW),
        "modules/digits": ("imported_digits",),
        "pets-and-digits.yaml": ("pets_and_digits",),
    },
    "jobs.md": {
        HOME: ("prepared",),
        "jobs.yaml": SHOWN,
        "photos": ("photos", *FELINES),
        "models/simcnn.keras": ("model", *ALL),
        "models/pets.keras": ("model", *FELINES),
        "models/thousand.keras": ("model", *ALL),
        "models/weak.keras": ("weak_in_cats", *FELINES),
    },
    "method.md": {
        HOME: ("prepared",),
        "SOURCE.keras": ("model", *FEW),
        "photos": ("photos", *PETS),
    },
    "report.md": {
        "modules/digits": ("imported_digits",),
        "built/even-digits": ("composed",),
        "patched": ("patched",),
    },
    "reuse.md": {
        HOME: ("prepared",),
        "weak.keras": ("weak_in_cats", *FEW),
        "modules/a": ("imported", *FEW),
        "modules/b": ("cut", *FEW),
        "modules/cifar": ("imported", *FEW),
        "modules/fashion": ("imported_fashion",),
        "photos": ("photos", *PETS),
        "animals": ("photos", *FEW),
        "animals.keras": ("model", *FEW),
        "vehicles": ("photos", *VEHICLES),
        "vehicles.keras": ("model", *VEHICLES),
        "is-cat.keras": ("model", "cat"),
        "is-dog.keras": ("model", "dog"),
        "is-bird.keras": ("model", "bird"),
        "pets.yaml": SHOWN,
    },
    "sharing.md": {"modules/digits": ("golden",)},
    "slimming.md": {
        "model.keras": ("model", *FEW),
        "photos": ("photos", *FEW),
    },
}
# The page says in words what this spec is.
PETS_AND_DIGITS = """\
version: 1
name: pets-and-digits
input: {shape: [32, 32, 3], range: [0, 255]}
stores:
  pets: {path: modules/cifar}
  digits: {path: modules/digits}
classes:
  - {name: cat, module: {store: pets, class: cat}}
  - {name: dog, module: {store: pets, class: dog}}
  - {name: "3", module: {store: digits, class: "3"}}
  - {name: "8", module: {store: digits, class: "8"}}
"""


@pytest.fixture(scope="session")
def pictures(ten_digits):
    """Makes a data set of named digits in a size."""

    @functools.cache
    def pictures(names, shape=(32, 32, 3)):
        def part_of(split):
            digits = [DIGIT_OF[name] for name in names]
            part = class_subset(getattr(ten_digits, split), digits)
            images = tf.image.resize(part.images, shape[:2]).numpy()
            images = np.broadcast_to(images.round(), (len(images), *shape))
            return dataclasses.replace(part, images=images.astype("uint8"))

        parts = {split: part_of(split) for split in SPLITS}
        return dataclasses.replace(ten_digits, class_names=names, **parts)

    return pictures


@pytest.fixture(scope="session")
def prepared(pictures, tmp_path_factory):
    """Prepares data sets by their own builders, but of digits."""

    @functools.cache
    def prepared():
        folder = tmp_path_factory.mktemp("data")
        for name in ("cifar10", "fashion_mnist", "mnist"):
            real = tfds.builder_cls(name)
            own = {"_split_generators": split_generators}
            made = type(real.__name__, (real,), own, skip_registration=True)
            made(data_dir=folder).download_and_prepare()
        return folder

    def split_generators(builder, _):
        features = builder.info.features
        if builder.name == "cifar10":
            features["label"].names = ALL
        data = pictures(ALL, features["image"].shape)
        return {
            split: examples(getattr(data, split), dict.fromkeys(features, ""))
            for split in ("train", "test")
        }

    def examples(part, empty):
        for index in range(0, len(part), 3):  # A third is enough to go by.
            image, label = part.images[index], part.labels[index]
            yield index, {**empty, "image": image, "label": label}

    return prepared


@pytest.fixture(scope="session")
def photos(pictures, tmp_path_factory):
    """Saves images of these classes as files."""

    @functools.cache
    def photos(*names):
        folder, data = tmp_path_factory.mktemp("photos"), pictures(names)
        for split in SPLITS:
            part = getattr(data, split)
            for label, name in enumerate(names):
                (folder / split / name).mkdir(parents=True)
                images = part.images[part.labels == label][:40]
                for index, image in enumerate(images):
                    path = folder / split / name / f"{index}.png"
                    keras.utils.save_img(path, image, scale=False)
        return folder

    return photos


@pytest.fixture(scope="session")
def network(learned, pictures):
    """Makes a model of some classes out of one that knows ten."""
    whole = learned(pictures(ALL))
    *weights, kernel, bias = whole.get_weights()
    # A score alone says what all scores together said.
    kernel, bias = (x - x.mean(-1, keepdims=True) for x in (kernel, bias))

    def network(*names):
        digits = [DIGIT_OF[name] for name in names]
        activation = "sigmoid" if len(names) == 1 else "softmax"
        head = keras.layers.Dense(len(names), activation, name="classes")
        model = keras.Sequential([whole.inputs[0], *whole.layers[:-1], head])
        model = keras.models.clone_model(model)
        model.set_weights([*weights, kernel[:, digits], bias[digits]])
        return model

    return network


@pytest.fixture(scope="session")
def model(network, saved):
    return functools.cache(lambda *names: saved(network(*names), "model"))


@pytest.fixture(scope="session")
def weak_in_cats(network, blind, saved):
    def weak_in_cats(*names):
        return saved(blind(network(*names), names.index("cat")), "weak")

    return weak_in_cats


@pytest.fixture(scope="session")
def imported_of(tmp_path_factory):
    """Makes a store of a model as it is."""

    def imported_of(path, *options):
        out = tmp_path_factory.mktemp("imported") / "store"
        words = ["import", str(path), "--out", str(out), *map(str, options)]
        assert main(words) == 0
        return out

    return imported_of


@pytest.fixture(scope="session")
def imported(imported_of, model, prepared):
    @functools.cache
    def imported(*names):
        options = "--data", "cifar10", "--data-dir", prepared()
        return imported_of(model(*names), *options)

    return imported


@pytest.fixture(scope="session")
def imported_fashion(imported_of, learned, pictures, prepared, saved):
    def imported_fashion():
        path = saved(learned(pictures(FASHION, (28, 28, 1))), "fashion")
        options = "--data", "fashion_mnist", "--data-dir", prepared()
        return imported_of(path, *options)

    return imported_fashion


@pytest.fixture(scope="session")
def imported_digits(imported_of, three_path):
    options = "--data", "digits", "--classes", "3,8,9"
    return functools.cache(lambda: imported_of(three_path, *options))


@pytest.fixture(scope="session")
def cut(network, store_of):
    """Makes a store without familiarity."""
    return functools.cache(lambda *names: store_of(network(*names), names).path)


@pytest.fixture(scope="session")
def composed(donor, composed_of):
    return functools.cache(lambda: composed_of(donor, "38"))


@pytest.fixture(scope="session")
def patched(weak, donor, digits, tmp_path_factory):
    def patched():
        validation = digits.validation.images, digits.validation.labels
        names = digits.class_names
        model = kmod.patch(weak, "8", donor["8"], validation, class_names=names)
        path = tmp_path_factory.mktemp("patched") / "patched"
        kmod.save(model, path)
        return path

    return patched


@pytest.fixture(scope="session")
def pets_and_digits(tmp_path_factory):
    path = tmp_path_factory.mktemp("spec") / "pets-and-digits.yaml"
    path.write_text(PETS_AND_DIGITS)
    return lambda: path


@pytest.fixture(scope="session")
def golden():
    """The store whose digest the page shows."""
    return lambda: ROOT / "tests" / "golden" / "store"


@pytest.fixture
def short(build_source, monkeypatch):
    """Lets what takes minutes by default take seconds."""
    quick = dataclasses.replace(
        settings.DIGITS, source_epochs=8, search_epochs=2, weak_epochs=3
    )
    monkeypatch.setitem(settings.SETTINGS, "digits", quick)
    monkeypatch.setattr(
        pipeline, "build", lambda *args, **_: build_source(args[2])
    )
    monkeypatch.setattr(modularize, "DEFAULT_EPOCHS", 2)
    monkeypatch.setattr(command, "DEFAULT_EPOCHS", 2)
    monkeypatch.setattr(command, "REFINE_EPOCHS", 1)
    search = SearchOptions(generations=2)
    monkeypatch.setattr(store_making, "search_options", lambda _: search)
    for name in (
        "kmod.composition.distillation.distil",
        "kmod.slimming.slim.slim",
    ):
        module, _, function = name.rpartition(".")
        module = importlib.import_module(module)
        long = getattr(module, function)
        monkeypatch.setattr(module, function, of_few_epochs(long))


def of_few_epochs(train):
    """Lets a command train for 2 epochs."""

    def of_few_epochs(*args, **options):
        return train(*args, **{**options, "epochs": 2})

    return of_few_epochs


def few_of(load, classes):
    """Leaves classes out of the data sets that a function loads."""

    def few(*args):
        data = load(*args)
        return select_classes(data, classes.get(data.name, data.class_names))

    return few


@pytest.fixture
def commands(blocks):
    """Lists the arguments of each `kmod` that a page shows."""

    def commands(page):
        found = []
        for code in blocks(page, "", "sh", "bash"):
            code = re.sub(r"(?m)(^|\s)#.*", "", code.replace("\\\n", " "))
            found += re.findall(r"(?:^|&&) *kmod (.*?)(?=$|&&)", code, re.M)
        return [shlex.split(line) for line in found]

    return commands


@pytest.fixture
def lay_out(request, blocks, tmp_path, monkeypatch):
    """Puts what the commands of a page name into the working directory."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(tfds.core.constants, "DATA_DIR", str(tmp_path / HOME))
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / HOME))
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))

    def lay_out(page):
        classes = FEW_CLASSES.get(page.name, {"cifar10": FEW})
        for name in ("_load_digits", "_load_tfds"):
            few = few_of(getattr(data_sets, name), classes)
            monkeypatch.setattr(data_sets, name, few)
        for name, given in GIVEN[page.name].items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            if given == SHOWN:
                whole = rf"# {name}\n|version: .*\nname: {path.stem}\n"
                found = blocks(page, "yaml")
                (text,) = (t for t in found if re.match(whole, t))
                path.write_text(text)
                continue
            fixture, *names = given
            made = request.getfixturevalue(fixture)(*names)
            copy = shutil.copytree if made.is_dir() else shutil.copyfile
            copy(made, path)

    return lay_out


@pytest.fixture
def exit_code(request, golden):
    """Runs a command, and returns its exit code."""

    def exit_code(words):
        if not any(word.startswith("hf://") for word in words):
            try:
                return main(words)
            except SystemExit as error:
                return error.code
        # The address of the Hub is read once, when its package is imported.
        hub = request.getfixturevalue("hub")
        done = subprocess.run(
            [sys.executable, "-m", "kmod", *words],
            env=os.environ | {"HF_ENDPOINT": hub(golden())},
        )
        return done.returncode

    return exit_code


@pytest.fixture
def run_page(commands, exit_code, capfd):
    """Runs all commands of a page, one after the other."""

    def run_page(page):
        for words in commands(page):
            line = " ".join(["kmod", *words])
            if line in NOT_RUN:
                build_parser().parse_args(words)
                continue
            capfd.readouterr()
            code = exit_code(words)
            _, said = capfd.readouterr()
            assert code == EXIT_CODES.get(line, 0), f"{line}\n{said}"

    return run_page


@pytest.mark.long
@pytest.mark.parametrize("name", GIVEN)
def test_commands_do_what_the_page_says(name, lay_out, run_page, short):
    for package in EXTRAS.get(name, ()):
        pytest.importorskip(package)
    page = ROOT / ("." if name == "README.md" else "docs") / name
    lay_out(page)
    run_page(page)


def test_every_page_with_commands_is_run(commands):
    assert {page.name for page in PAGES if commands(page)} == set(GIVEN)


def test_only_what_needs_another_machine_is_not_run(commands):
    lines = [" ".join(["kmod", *w]) for page in PAGES for w in commands(page)]
    not_run = [line for line in lines if line in NOT_RUN]
    assert not_run == ["kmod jobs jobs.yaml --ray 10.0.0.1:6379"]
    assert set(EXIT_CODES) < set(lines)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("kmod check nothing.yaml  # No.", "nothing.yaml"),
        ("kmod check a.yaml --upside-down", "--upside-down"),
        ("true && kmod \\\n check nothing.yaml", "nothing.yaml"),
    ],
    ids=["missing", "option", "behind-another"],
)
def test_a_command_that_fails_is_found(tmp_path, run_page, line, message):
    page = tmp_path / "page.md"
    page.write_text(f"1. One\n\n   ```sh\n   {line}\n   ```\n")
    with pytest.raises(AssertionError, match=message):
        run_page(page)
