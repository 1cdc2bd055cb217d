import re
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest

from kmod.data import load as data_sets
from kmod.data.load import load_data
from kmod.data.load import select_classes
from kmod.graph.sizes import model_sizes
from kmod.metrics.evaluate import evaluate
from kmod.slimming import slim
from kmod.spec.spec_file import load_spec
from kmod.zoo.build import build
from kmod.zoo.train import train_source

README = Path(__file__).parents[1] / "README.md"


def block(language, number=0):
    found = re.findall(
        rf"```{language}\n(.*?)```", README.read_text(encoding="utf-8"), re.S
    )
    return found[number]


# Of ten classes everything would take twice as long.
CLASSES = ("2", "4", "8")


@pytest.fixture(scope="module")
def few_digits():
    load = data_sets._load_digits
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            data_sets,
            "_load_digits",
            lambda *given: select_classes(load(*given), CLASSES),
        )
        yield


@pytest.fixture(scope="module")
def example(few_digits, tmp_path_factory):
    """Runs the Python example where its source model and its spec are."""
    folder = tmp_path_factory.mktemp("readme")
    (folder / "kmod-demo").mkdir()
    source = build("simcnn", (8, 8, 1), len(CLASSES))
    train_source(source, load_data("digits"), 8, batch_size=32, verbose=0)
    source.save(folder / "kmod-demo/source.keras")
    (folder / "even-digits.yaml").write_text(block("yaml"))
    names = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        exec(block("python"), names)
    return folder, names


@pytest.mark.long
def test_python_example_finds_small_modules(example):
    folder, names = example
    modular, store = names["modular"], names["store"]
    assert (folder / "modules/digits/store.yaml").exists()
    assert store.class_names == CLASSES
    rates = [store.info(name).retention_rate for name in store]
    assert np.mean(rates) == pytest.approx(modular.retention_rate, abs=1e-6)
    assert modular.retention_rate == pytest.approx(0.4, abs=0.02)
    assert store["2"].model.output_shape == (None, 1)


@pytest.mark.long
def test_python_example_records_every_epoch(example):
    folder, _ = example
    records = sorted((folder / "runs/digits").glob("*.npz"))
    assert len(records) == 10
    masks = [np.load(record)["kernel_masks"].mean() for record in records]
    assert masks[0] > masks[-1]
    assert masks[-1] == pytest.approx(0.4, abs=0.02)


@pytest.mark.long
def test_python_example_saves_what_it_composes(example):
    folder, names = example
    test = names["data"].test
    is_shown = test.labels < 2  # The digits 2 and 4.
    images, labels = test.images[is_shown], test.labels[is_shown]
    assert isinstance(names["model"], keras.Model)
    assert tuple(names["model"].class_names) == ("two", "four")
    assert evaluate(names["model"], (images, labels)).accuracy > 0.9
    assert (folder / "built/even-digits/saved_model.pb").exists() or list(
        (folder / "built/even-digits").rglob("saved_model.pb")
    )


@pytest.mark.long
def test_python_example_makes_a_model_smaller(example):
    folder, names = example
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(slim, "EPOCHS", (12, 12))  # So few images get 100.
        exec(block("python", 1), names)
    small = keras.models.load_model(folder / "small.keras")
    source = names["source"]
    assert model_sizes(small).macs <= model_sizes(source).macs / 2
    test = names["data"].test
    before, after = (evaluate(m, test).accuracy for m in (source, small))
    assert after > before - 0.03


def test_spec_example_is_valid(tmp_path):
    path = tmp_path / "spec.yaml"
    path.write_text(block("yaml"))
    assert load_spec(path).class_names == ("two", "four")


def test_figures_are_those_of_the_results():
    """What `benchmarks/tables.py` would write is what the pages hold."""
    code = (
        "from tables import FIGURES, MARKED, PAGES, rendered\n"
        "texts = [page.read_text(encoding='utf-8') for page in PAGES]\n"
        "marks = [each[1] for t in texts for each in MARKED.finditer(t)]\n"
        "assert sorted(marks) == sorted(FIGURES), marks\n"
        "assert [rendered(text) for text in texts] == texts\n"
        "print(rendered('<!-- figures: headline -->\\nold\\n'\n"
        "               '<!-- figures: end -->'))\n"
    )
    made = subprocess.run(
        [sys.executable, "-c", code],
        cwd=README.with_name("benchmarks"),
        capture_output=True,
        text=True,
    )
    assert made.returncode == 0, made.stderr
    assert made.stdout.count("\n|") == 8 and "old" not in made.stdout
    page = README.with_name("docs") / "benchmarks.md"
    assert page.read_text(encoding="utf-8").count("|") > 400


def test_readme_is_short():
    assert len(README.read_text(encoding="utf-8").splitlines()) < 130
