import dataclasses
import json

import keras
import numpy as np
import pytest

from kmod.errors import UsageError
from kmod.masks.recipe import PAPER
from kmod.masks.recipe import Phase
from kmod.training.calibration import fit_log_odds
from kmod.training.callbacks.mask_recorder import MaskRecorder
from kmod.training.callbacks.module_selection import Candidate
from kmod.training.gradsplitter import modularize
from kmod.training.run_directory import open_run

SHORT_PAPER = dataclasses.replace(
    PAPER, phases=(Phase(False, 1, 0.01), Phase(True, 1, 0.001))
)


def small_source():
    keras.utils.set_random_seed(0)
    image = keras.Input((6, 6, 1))
    x = keras.layers.Conv2D(8, 3, activation="relu", name="conv_1")(image)
    x = keras.layers.Conv2D(8, 3, activation="relu", name="conv_2")(x)
    x = keras.layers.GlobalAveragePooling2D()(x)
    return keras.Model(image, keras.layers.Dense(3, name="logits")(x))


@pytest.fixture(scope="module")
def images():
    draw = np.random.default_rng(0)
    labels = draw.integers(0, 3, 96)
    pixels = draw.normal(labels[:, None, None, None], 0.3, (96, 6, 6, 1))
    return pixels.astype("float32"), labels


@pytest.fixture(scope="module")
def source(images):
    source = small_source()
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    source.compile(keras.optimizers.Adam(0.02), loss)
    source.fit(*images, epochs=15, verbose=0)
    return source


def split(images):
    x, y = images
    return (x[:64], y[:64]), (x[64:], y[64:])


def test_chosen_epoch_is_within_the_budget(source, images):
    train, validation = split(images)
    modular = modularize(
        source, *[train, validation], epochs=3, batch_size=16, verbose=0
    )
    scores = modular.class_scores(validation[0])
    accuracy = np.mean(scores.argmax(1) == validation[1])
    logits = source.predict(validation[0], verbose=0)
    assert accuracy >= np.mean(logits.argmax(1) == validation[1]) - 0.05
    assert modular.retention_rate <= 1


def test_paper_recipe_trains_heads_then_masks(source, images, tmp_path):
    train, validation = split(images)
    recorder = MaskRecorder(tmp_path / "masks")
    modular = modularize(
        source,
        train,
        validation,
        recipe=SHORT_PAPER,
        batch_size=16,
        callbacks=[recorder],
        verbose=0,
    )
    assert modular.history.epoch == [0, 1]
    scores = keras.ops.convert_to_numpy(modular.masks.mask_scores)
    files = sorted(path.name for path in (tmp_path / "masks").iterdir())
    assert files == ["masks-0000.npz", "masks-0001.npz"]
    with np.load(tmp_path / "masks/masks-0000.npz") as saved:
        assert saved["kernel_masks"].shape == (3, 16)
        assert saved["kernel_masks"].all()
    assert scores.shape == (3, 16)


def test_resumed_run_ends_as_one_that_ran_through(source, images, tmp_path):
    train, validation = split(images)

    class Stop(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 2:
                raise KeyboardInterrupt

    def run(directory, resume=False, callbacks=()):
        return modularize(
            source,
            train,
            validation,
            epochs=4,
            batch_size=64,
            recipe=dataclasses.replace(SHORT_PAPER, phases=()),
            run_directory=directory,
            resume=resume,
            callbacks=callbacks,
            verbose=0,
        )

    through = run(tmp_path / "through")
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "cut", callbacks=[Stop()])
    resumed = run(tmp_path / "cut", resume=True)
    np.testing.assert_array_equal(through.kernel_masks, resumed.kernel_masks)
    np.testing.assert_allclose(
        through.class_scores(validation[0]),
        resumed.class_scores(validation[0]),
        atol=1e-4,
    )


def test_resume_needs_a_run_directory(source, images):
    with pytest.raises(UsageError, match="`resume` needs the `run_directory`"):
        modularize(source, *split(images), resume=True)


def test_run_with_other_facts_is_not_resumed(tmp_path):
    open_run(tmp_path / "run", {"seed": 0}, resume=False)
    with pytest.raises(UsageError, match=r"other values of \['seed'\]"):
        open_run(tmp_path / "run", {"seed": 1}, resume=True)


def test_foreign_directory_is_not_taken_as_a_run(tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(UsageError, match="which holds other files"):
        open_run(tmp_path, {}, resume=False)
    assert (tmp_path / "mine.txt").read_text() == "mine"


def test_new_run_replaces_an_old_one(tmp_path):
    run = open_run(tmp_path / "run", {"seed": 0}, resume=False)
    (run / "old").write_text("x")
    open_run(tmp_path / "run", {"seed": 1}, resume=False)
    assert [path.name for path in run.iterdir()] == ["run.json"]
    assert json.loads((run / "run.json").read_text())["facts"] == {"seed": 1}


@pytest.mark.parametrize(
    ("better", "worse"),
    [
        pytest.param(
            Candidate(1, 0.90, 0.3), Candidate(0, 0.95, 0.5), id="fewer-kernels"
        ),
        pytest.param(
            Candidate(1, 0.95, 0.5), Candidate(0, 0.89, 0.1), id="within-budget"
        ),
        pytest.param(
            Candidate(1, 0.92, 0.3), Candidate(0, 0.91, 0.3), id="tie-accuracy"
        ),
        pytest.param(
            Candidate(1, 0.80, 0.9), Candidate(0, 0.70, 0.1), id="none-good"
        ),
    ],
)
def test_rank_of_candidates(better, worse):
    assert better.rank(0.9) > worse.rank(0.9)


def test_log_odds_fit_is_a_rising_line():
    scores = np.linspace(-3, 3, 200)
    is_class = np.random.default_rng(0).uniform(size=200) < 1 / (
        1 + np.exp(-2 * scores)
    )
    scale, shift = fit_log_odds(scores, is_class)
    assert scale == pytest.approx(2, rel=0.4)
    assert abs(shift) < 0.7


@pytest.mark.parametrize("sign", [0, -1], ids=["one-kind", "falling"])
def test_useless_scores_keep_their_scale(sign):
    scores = np.linspace(-1, 1, 20)
    is_class = np.ones(20, bool) if sign == 0 else scores < 0
    assert fit_log_odds(scores, is_class) == (1.0, 0.0)
