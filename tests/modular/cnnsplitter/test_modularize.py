import dataclasses
import functools
import json
import signal
import subprocess
import sys
import time

import keras
import numpy as np
import pytest

from kmod.errors import UsageError
from kmod.files.run_directory import RunDirectory
from kmod.modular.cnnsplitter.modularize import modularize_by_search
from kmod.modular.cnnsplitter.options import SearchOptions
from kmod.modular.modular_model import ModularModel
from kmod.modules.decompose import decompose

QUICK = SearchOptions(
    images=24,
    population=6,
    generations=3,
    retention_target=0.7,
    max_collaborations=20,
    min_collaborations=5,
    mutation_rate=0.2,
)
LONG = dataclasses.replace(QUICK, generations=8, patience=8)

CHILD = """
import sys
import keras
import numpy as np
from kmod.modular.cnnsplitter.modularize import modularize_by_search
from kmod.modular.cnnsplitter.options import SearchOptions
import json
source = keras.models.load_model(sys.argv[1])
with np.load(sys.argv[2]) as saved:
    images = saved["images"], saved["labels"]
options = SearchOptions(**json.loads(sys.argv[4]))
modularize_by_search(source, None, images, options=options, head_epochs=0,
                     run_directory=sys.argv[3], verbose=0)
"""


def search(source, images, **options):
    given = {"head_epochs": 0, "verbose": 0, **options}
    return modularize_by_search(source, images, images, **given)


@pytest.fixture(scope="module", autouse=True)
def eagerly():
    """Runs the few steps of head training without tracing, which is slow."""
    compiled = functools.partialmethod(ModularModel.compile, run_eagerly=True)
    with pytest.MonkeyPatch.context() as patches:
        patches.setattr(ModularModel, "compile", compiled)
        yield


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    return tmp_path_factory.mktemp("search")


@pytest.fixture(scope="module")
def searched(source, images, directory):
    return search(
        source,
        images,
        options=QUICK,
        figures=directory / "figures",
        run_directory=directory / "run",
    )


def test_search_keeps_no_more_than_the_target(searched):
    assert 0.3 < searched.retention_rate <= QUICK.retention_target
    kept = [searched.kernels.by_layer(mask) for mask in searched.kernel_masks]
    assert all(k["conv_1"] == k["conv_2"] for k in kept)
    assert kept[0] != kept[1]


@pytest.mark.parametrize(("seed", "is_same"), [(0, True), (1, False)])
def test_the_seed_decides(source, images, searched, seed, is_same):
    again = search(source, images, options=QUICK, seed=seed)
    equal = np.array_equal(again.kernel_masks, searched.kernel_masks)
    assert equal == is_same


def test_run_keeps_what_was_measured(searched, directory):
    facts = json.loads((directory / "run/sensitivity.json").read_text())
    assert facts["layers"] == ["conv_1", "conv_3"]
    assert [set(row) for row in facts["keep"]] == 2 * [
        {"layer", "keep_ratio", "sensitive"}
    ]


def test_figures_are_drawn(searched, directory):
    names = sorted(path.name for path in (directory / "figures").iterdir())
    assert names == ["importance.png", "search.png", "sensitivity.png"]


def test_recovery_leaves_the_masks_and_the_store_can_be_made(
    source, images, tmp_path
):
    plain, trained = (
        search(source, images, head_epochs=epochs, options=QUICK)
        for epochs in (0, 1)
    )
    np.testing.assert_array_equal(plain.kernel_masks, trained.kernel_masks)
    assert np.all(scales_of(plain) == 1)
    assert not np.all(scales_of(trained) == 1)
    assert not trained.masks.frozen
    assert trained.retention_rate <= QUICK.retention_target
    if keras.backend.backend() != "tensorflow":
        pytest.skip("SavedModels are written on the TensorFlow backend.")
    store = decompose(
        trained,
        tmp_path / "store",
        value_range=(0, 255),
        method="cnnsplitter",
        arguments={"search": QUICK.as_dict()},
    )
    assert store.manifest.method == "cnnsplitter"
    assert store.manifest.arguments["search"]["population"] == 6
    assert store.manifest.arguments["mask_from"] is None


def scales_of(modular):
    scales = [w for w in modular.weights if w.name == "scale"]
    return np.concatenate([np.ravel(each.numpy()) for each in scales])


@pytest.mark.long
def test_killed_search_ends_as_one_that_ran_through(source, images, tmp_path):
    source.save(tmp_path / "source.keras")
    np.savez(tmp_path / "images.npz", images=images[0], labels=images[1])
    files = [tmp_path / name for name in ("source.keras", "images.npz", "cut")]
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD, *map(str, files)]
        + [json.dumps(LONG.as_dict())]
    )
    try:
        while child.poll() is None and not _is_at(tmp_path / "cut", 2):
            time.sleep(0.01)
    finally:
        child.send_signal(signal.SIGKILL)
    assert child.wait() == -signal.SIGKILL
    assert not _is_at(tmp_path / "cut", LONG.generations)
    runs = {"cut": True, "through": False}
    resumed, through = (
        search(
            source,
            images,
            options=LONG,
            run_directory=tmp_path / name,
            resume=resume,
        ).kernel_masks
        for name, resume in runs.items()
    )
    np.testing.assert_array_equal(resumed, through)


def _is_at(directory, generation):
    names = directory.glob("generation-*.npz")
    return any(int(path.name.split("-")[1]) >= generation for path in names)


@pytest.fixture
def kill(monkeypatch):
    """Ends a run behind the given checkpoint."""

    def at(stage, number):
        save = RunDirectory.save

        def save_and_end(run, *checkpoint):
            save(run, *checkpoint)
            if checkpoint[:2] == (stage, number):
                raise KeyboardInterrupt

        monkeypatch.setattr(RunDirectory, "save", save_and_end)

    yield at


@pytest.fixture(scope="module")
def through(source, images):
    return search(source, images, options=QUICK, head_epochs=2)


@pytest.mark.parametrize(
    ("stage", "number"),
    [("preparation", 0), ("generation", 2), ("epoch", 1)],
    ids=str,
)
def test_run_cut_short_at_any_stage_ends_as_one_that_ran_through(
    source, images, through, tmp_path, kill, monkeypatch, stage, number
):
    given = {"options": QUICK, "head_epochs": 2, "run_directory": tmp_path}
    kill(stage, number)
    with pytest.raises(KeyboardInterrupt):
        search(source, images, **given)
    monkeypatch.undo()
    resumed = search(source, images, resume=True, **given)
    for mine, other in zip(resumed.weights, through.weights, strict=True):
        np.testing.assert_array_equal(mine, other, err_msg=mine.path)
    assert resumed.history.history == through.history.history


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        pytest.param({"seed": 1}, "seed 1 instead of 0", id="seed"),
        pytest.param(
            {"options": LONG},
            "options generations 8 instead of 3",
            id="options",
        ),
        pytest.param(
            {"head_epochs": 1}, "different training data", id="head-epochs"
        ),
    ],
)
def test_run_of_something_else_is_not_resumed(
    source, images, searched, directory, changes, message
):
    given = {"options": QUICK, "run_directory": directory / "run"}
    with pytest.raises(UsageError, match=message):
        search(source, images, resume=True, **{**given, **changes})


def test_figures_of_the_same_run_are_drawn_again(
    source, images, searched, directory
):
    figures = directory / "figures"
    (figures / "search.png").unlink()
    given = {"options": QUICK, "run_directory": directory / "run"}
    search(source, images, figures=figures, resume=True, **given)
    assert (figures / "search.png").exists()


def test_figures_of_another_origin_are_refused_before_work_begins(
    source, images, tmp_path
):
    (tmp_path / "importance.png").write_text("mine")
    with pytest.raises(UsageError, match="which holds 'importance.png'"):
        search(
            source,
            images,
            figures=tmp_path,
            run_directory=tmp_path / "run",
        )
    assert (tmp_path / "importance.png").read_text() == "mine"
    assert not (tmp_path / "run").exists()


def test_figures_need_a_directory(source, images, tmp_path):
    (tmp_path / "figures").write_text("mine")
    with pytest.raises(UsageError, match="`figures` must be a directory"):
        search(source, images, figures=tmp_path / "figures")


def test_negatives_need_heads_that_train(source, images):
    with pytest.raises(UsageError, match="`head_epochs` must be at least 1"):
        search(source, images, negatives=images[0], head_epochs=0)


def test_resuming_needs_a_run_directory(source, images):
    with pytest.raises(UsageError, match="`resume` needs"):
        search(source, images, resume=True)


@pytest.mark.parametrize(
    ("package", "arguments"),
    [("pygad", {}), ("matplotlib.figure", {"figures": "figures"})],
    ids=str,
)
def test_missing_package_is_named(
    source, images, monkeypatch, package, arguments
):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(UsageError, match=r"pip install 'kmod\["):
        search(source, images, **arguments)


@pytest.mark.parametrize(
    ("train", "error", "message"),
    [
        pytest.param(
            lambda x, y: (x, y + 1), ValueError, "a label 3", id="labels"
        ),
        pytest.param(
            lambda x, y: tf_data(x, y), ValueError, "data.batch", id="unbatched"
        ),
        pytest.param(
            lambda x, y: tf_data(x, y).batch(8).repeat(),
            UsageError,
            "`steps_per_epoch`",
            id="endless",
        ),
    ],
)
def test_training_data_are_checked_before_the_search(
    source, images, tmp_path, train, error, message
):
    run = tmp_path / "run"
    with pytest.raises(error, match=message):
        modularize_by_search(
            source, train(*images), images, run_directory=run, verbose=0
        )
    assert not run.exists()


def tf_data(*arrays):
    tf = pytest.importorskip("tensorflow")
    return tf.data.Dataset.from_tensor_slices(arrays)
