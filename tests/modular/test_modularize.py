import dataclasses
import functools
import json

import keras
import numpy as np
import pytest

from kmod.callbacks import BestModules
from kmod.callbacks import MaskRecorder
from kmod.callbacks.epoch_checkpoints import EpochSeed
from kmod.data import disk_arrays
from kmod.data.image_data import LabelledImages
from kmod.errors import ArtifactError
from kmod.errors import UsageError
from kmod.files.run_directory import RunDirectory
from kmod.metrics.calibration import fit_platt
from kmod.modular.modular_model import ModularModel
from kmod.modular.modularize import modularize
from kmod.modular.recipe import DEFAULT
from kmod.modular.recipe import PAPER
from kmod.modular.recipe import Phase

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


@pytest.mark.long
@pytest.mark.parametrize("budget", [0.0, 1.0])
def test_chosen_epoch_is_the_smallest_within_the_budget(source, images, budget):
    train, validation = split(images)
    recipe = dataclasses.replace(DEFAULT, retention_target=0.2)
    modular = modularize(
        source,
        train,
        validation,
        recipe=recipe,
        epochs=6,
        batch_size=16,
        accuracy_budget=budget,
        verbose=0,
    )
    history = modular.history.history
    logits = source.predict(validation[0], verbose=0)
    least = np.mean(logits.argmax(1) == validation[1]) - budget
    good = [
        rate
        for rate, accuracy in zip(
            history["retention_rate"], history["val_accuracy"], strict=True
        )
        if accuracy >= least
    ]
    assert good
    assert modular.retention_rate == pytest.approx(min(good))
    assert len(good) == 6 or budget < 1


def test_paper_recipe_trains_heads_then_masks(source, images, tmp_path):
    train, validation = split(images)
    scores = []

    class KeepScores(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            values = self.model.masks.mask_scores
            scores.append(keras.ops.convert_to_numpy(values).copy())

    modular = modularize(
        source,
        train,
        validation,
        recipe=SHORT_PAPER,
        batch_size=16,
        callbacks=[MaskRecorder(tmp_path / "masks"), KeepScores()],
        verbose=0,
    )
    assert modular.history.epoch == [0, 1]
    files = sorted(path.name for path in (tmp_path / "masks").iterdir())
    assert files == ["masks-0000.npz", "masks-0001.npz"]
    with np.load(tmp_path / "masks/masks-0000.npz") as saved:
        assert saved["kernel_masks"].shape == (3, 16)
        assert saved["kernel_masks"].all()
    np.testing.assert_array_equal(scores[0], np.ones((3, 16)))
    assert np.all(scores[1] != 1)


def test_fit_runs_the_phases_of_its_recipe(source, images):
    modular = ModularModel(source, recipe=SHORT_PAPER)
    modular.compile()
    assert modular.fit(*images, verbose=0).epoch == [0, 1]
    scores = keras.ops.convert_to_numpy(modular.masks.mask_scores)
    one_phase = ModularModel(source, recipe=SHORT_PAPER)
    one_phase.compile()
    one_phase.fit(*images, epochs=1, verbose=0)
    heads_only = keras.ops.convert_to_numpy(one_phase.masks.mask_scores)
    assert np.all(heads_only == 1)
    assert np.all(scores != 1)


def test_phases_need_the_optimiser_of_modular_models(source, images):
    modular = ModularModel(source, recipe=SHORT_PAPER)
    modular.compile("adam")
    with pytest.raises(UsageError, match="trains with `ModularAdam`"):
        modular.fit(*images, verbose=0)


@pytest.mark.long
def test_readme_way_ends_as_modularize_does(source, images):
    train, validation = split(images)
    options = {"epochs": 3, "batch_size": 16, "verbose": 0}
    expected = modularize(
        source, train, validation, purpose="alone", seed=3, **options
    )
    keras.utils.set_random_seed(3)
    modular = ModularModel(source, seed=3)
    modular.compile()
    modular.fit(
        *train,
        validation_data=validation,
        validation_batch_size=16,
        callbacks=[EpochSeed(3), BestModules(accuracy_budget=0.01)],
        **options,
    )
    modular.calibrate(*validation)
    np.testing.assert_array_equal(
        modular.class_scores(validation[0]),
        expected.class_scores(validation[0]),
    )


EVERY_ROW = dataclasses.replace(DEFAULT, rows_per_image=0)
RECIPES = {
    "default": {"recipe": dataclasses.replace(DEFAULT, rows_per_image=2)},
    # Trains heads, then masks, then heads again.
    "phases": {
        "recipe": dataclasses.replace(
            PAPER,
            phases=(
                Phase(False, 1, 0.01),
                Phase(True, 2, 0.001),
                Phase(False, 1, 0.001),
            ),
        )
    },
}


class Kill(keras.callbacks.Callback):
    """Ends a run as the given epoch begins."""

    def __init__(self, epoch):
        super().__init__()
        self.epoch = epoch

    def on_epoch_begin(self, epoch, logs=None):
        if epoch == self.epoch:
            raise KeyboardInterrupt


class Count(keras.callbacks.Callback):
    """Notes the epochs that run, and stops after one if asked."""

    def __init__(self, stop_after=None):
        super().__init__()
        self.epochs = []
        self.stop_after = stop_after

    def on_epoch_end(self, epoch, logs=None):
        self.epochs.append(epoch)
        if epoch == self.stop_after:
            self.model.stop_training = True


@pytest.fixture(scope="module")
def run(source, images):
    def run(directory, *, eagerly=True, **changes):
        train, validation = split(images)
        given = {"source": source, "train": train, "validation": validation}
        given |= RECIPES["default"] | {"epochs": 4, "batch_size": 32}
        given |= {"run_directory": directory, "verbose": 0, **changes}
        with pytest.MonkeyPatch.context() as patches:
            # Tracing takes longer than these few steps.
            eager = functools.partialmethod(
                ModularModel.compile, run_eagerly=eagerly
            )
            patches.setattr(ModularModel, "compile", eager)
            return modularize(**given)

    return run


@pytest.fixture(scope="module")
def whole(run):
    """Returns what runs end with that keep nothing and were never cut."""
    return functools.cache(
        lambda recipe="default", eagerly=True: run(
            None, eagerly=eagerly, **RECIPES[recipe]
        )
    )


def assert_equal(one, other):
    variables = (
        [*modular.weights, *modular.optimizer.variables]
        for modular in (one, other)
    )
    for mine, theirs in zip(*variables, strict=True):
        np.testing.assert_array_equal(mine, theirs, err_msg=mine.path)
    assert one.history.epoch == other.history.epoch
    assert one.history.history == other.history.history


@pytest.mark.long
@pytest.mark.parametrize(
    ("recipe", "epoch", "eagerly"),
    [
        pytest.param("default", 2, False, id="default"),
        pytest.param("default", 1, True, id="default-eagerly"),
        pytest.param("phases", 1, True, id="between-phases"),
        pytest.param("phases", 2, True, id="within-a-phase"),
    ],
)
def test_c13_resumed_run_ends_as_one_that_ran_through(
    run, whole, tmp_path, recipe, epoch, eagerly
):
    given = {**RECIPES[recipe], "eagerly": eagerly}
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, callbacks=[Kill(epoch)], **given)
    count = Count()
    resumed = run(tmp_path, resume=True, callbacks=[count], **given)
    assert count.epochs == list(range(epoch, 4))
    assert_equal(resumed, whole(recipe, eagerly))


@pytest.mark.long
@pytest.mark.parametrize("steps", [None, 1])
def test_resumed_run_on_disk_ends_as_one_that_ran_through(
    run, images, tmp_path, monkeypatch, steps
):
    monkeypatch.setattr(disk_arrays, "LIMIT", 0)
    (x, y), validation = split(images)
    train = disk_arrays.take(x, np.arange(len(x))), y
    given = {"train": train, "steps_per_epoch": steps}
    whole = run(None, **given)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, callbacks=[Kill(2)], **given)
    count = Count()
    resumed = run(tmp_path, resume=True, callbacks=[count], **given)
    assert count.epochs == [2, 3]
    assert_equal(resumed, whole)


@pytest.mark.long
@pytest.mark.parametrize("left", [1, 0], ids=["one-is-whole", "none-is-whole"])
def test_c15_damaged_checkpoints_cost_epochs_but_change_nothing(
    run, whole, tmp_path, caplog, left
):
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, callbacks=[Kill(3)])
    files = sorted(tmp_path.glob("epoch-*"))
    assert len(files) == 2
    for path in files[left:]:
        path.write_bytes(path.read_bytes()[:-100])
    count = Count()
    resumed = run(tmp_path, resume=True, callbacks=[count])
    assert count.epochs == ([2, 3] if left else [0, 1, 2, 3])
    assert_equal(resumed, whole())
    said = [r.getMessage() for r in caplog.records if r.name == "kmod"]
    assert [each.split("'")[1] for each in said] == [
        str(path) for path in files[left:][::-1]
    ]


@pytest.mark.long
def test_run_with_all_epochs_done_trains_none_and_ends_the_same(
    run, whole, tmp_path
):
    assert_equal(run(tmp_path), whole())
    count = Count()
    assert_equal(run(tmp_path, resume=True, callbacks=[count]), whole())
    assert count.epochs == []


@pytest.mark.long
def test_negatives_belong_to_the_run(run, tmp_path):
    draw = np.random.default_rng(1)
    negatives = draw.uniform(0, 2, (40, 6, 6, 1)).astype("float32")
    given = {"negatives": negatives}
    through = run(None, **given)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, callbacks=[Kill(2)], **given)
    with pytest.raises(UsageError, match="different negatives"):
        run(tmp_path, resume=True)
    assert_equal(run(tmp_path, resume=True, **given), through)


def test_modules_learn_to_answer_no(source, images):
    x, y = images
    negatives = np.random.default_rng(1).uniform(0, 2, x.shape)
    negatives = negatives.astype("float32")
    modular = ModularModel(source, retention_target=1)
    modular.compile(keras.optimizers.Adam(0.01), run_eagerly=True)
    said = []
    for epochs in (0, 2):
        modular.fit(
            x,
            y,
            sample_weight=np.zeros(len(y)),  # Nothing else is learned.
            negatives=negatives,
            epochs=epochs,
            verbose=0,
        )
        scores = modular.predict(negatives, verbose=0)
        said.append(np.logaddexp(0, scores).mean())
    assert said[1] < said[0] - 0.05


def test_run_that_was_stopped_stays_stopped(run, tmp_path):
    stopped = run(tmp_path, callbacks=[Count(stop_after=1)])
    assert stopped.history.epoch == [0, 1]
    count = Count()
    again = run(tmp_path, resume=True, callbacks=[count])
    assert count.epochs == []
    assert_equal(again, stopped)


@pytest.mark.long
def test_c13_best_epoch_before_the_cut_is_still_the_choice(run, tmp_path):
    class Worsen(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            logs["val_accuracy"] = 1.0 - epoch

    worsen = Worsen()
    through = run(None, callbacks=[worsen])
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, callbacks=[worsen, Kill(2)])
    resumed = run(tmp_path, resume=True, callbacks=[worsen])
    assert_equal(resumed, through)
    first, *_, last = through.history.history["retention_rate"]
    assert resumed.retention_rate == first > last


FORMS = {
    "one-hot": lambda x, y: (x, np.eye(3)[y]),
    "column": lambda x, y: (x, y[:, None]),
    "floats": lambda x, y: (x, y.astype("float32")),
    "weights": lambda x, y: (x, y, np.ones(len(y), "float32")),
    "labelled-images": LabelledImages,
    "tf-data": lambda x, y: batched(x, y),
    "one-hot-tf-data": lambda x, y: batched(x, np.eye(3)[y]),
    "weighted-tf-data": lambda x, y: batched(x, y, np.ones(len(y))),
    "endless-tf-data": lambda x, y: batched(x, y).repeat(),
}


def batched(*arrays):
    tf = pytest.importorskip("tensorflow")
    return tf.data.Dataset.from_tensor_slices(arrays).batch(32)


@pytest.fixture(scope="module")
def in_order(run):
    """Runs one epoch on batches in the order of the images."""

    def in_order(**options):
        ordered = functools.partialmethod(ModularModel.fit, shuffle=False)
        with pytest.MonkeyPatch.context() as patches:
            patches.setattr(ModularModel, "fit", ordered)
            return run(None, recipe=EVERY_ROW, epochs=1, **options)

    return in_order


@pytest.fixture(scope="module")
def scores_of_arrays(in_order, images):
    return in_order().class_scores(images[0])


@pytest.mark.parametrize("form", FORMS)
def test_data_of_any_form_that_keras_takes_end_the_same(
    in_order, images, scores_of_arrays, form
):
    train, validation = (FORMS[form](*part) for part in split(images))
    options = {"train": train, "validation": validation}
    if form == "endless-tf-data":
        options = {"train": train, "steps_per_epoch": 2}
    scores = in_order(**options).class_scores(images[0])
    np.testing.assert_allclose(scores, scores_of_arrays, atol=1e-5)


@pytest.mark.parametrize("is_data_set", [False, True])
@pytest.mark.parametrize("part", ["train", "validation"])
def test_labels_out_of_range_are_named_before_training(
    run, images, tmp_path, part, is_data_set
):
    train, validation = split(images)
    given = {"train": train, "validation": validation}
    wrong = given[part][0], given[part][1] + 2 * (given[part][1] == 2)
    given[part] = batched(*wrong) if is_data_set else wrong
    count = Count()
    with pytest.raises(
        ValueError, match="from 0 to 2, for a model of 3 classes.*a label 4"
    ):
        run(tmp_path / "run", callbacks=[count], **given)
    assert count.epochs == []
    assert not (tmp_path / "run").exists()


def test_pictures_that_keras_casts_and_reshapes_are_taken(source, images):
    """Bytes for a float input, and grey images without their last axis."""
    train, validation = (
        (np.clip(100 + 50 * x, 0, 255).astype("uint8")[..., 0], y)
        for x, y in split(images)
    )
    source_of_bytes = keras.models.clone_model(source)
    source_of_bytes.set_weights(source.get_weights())
    first = source_of_bytes.get_layer("conv_1")
    kernel, bias = first.get_weights()
    first.set_weights([kernel / 50, bias - 2 * kernel.sum((0, 1, 2))])
    modular = modularize(
        source_of_bytes, train, validation, epochs=1, verbose=0
    )
    assert modular.value_range == (0, 255)


@pytest.fixture(scope="module")
def begun_run(run, tmp_path_factory):
    """Returns the directory of a run that no epoch is done of."""
    directory = tmp_path_factory.mktemp("begun")
    with pytest.raises(KeyboardInterrupt):
        run(directory, callbacks=[Kill(0)])
    return directory


def other_source(source):
    other = keras.models.clone_model(source)
    other.set_weights(source.get_weights())
    bias = other.get_layer("logits").bias
    bias.assign(bias + 1e-6)
    return other


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        pytest.param(
            lambda source, train: {"source": other_source(source)},
            "different source model",
            id="source",
        ),
        pytest.param(
            lambda source, train: {"train": (train[0] + 1e-3, train[1])},
            "different training data",
            id="images",
        ),
        pytest.param(
            lambda source, train: {"train": (train[0], train[1][::-1])},
            "different training data",
            id="labels",
        ),
        pytest.param(
            lambda source, train: {"validation": train},
            "different validation data",
            id="validation",
        ),
        pytest.param(
            lambda source, train: {"class_names": ["a", "b", "c"]},
            "class names .* instead of",
            id="names",
        ),
        pytest.param(
            lambda source, train: RECIPES["phases"],
            "recipe name 'paper' instead of 'default'",
            id="recipe",
        ),
        pytest.param(
            lambda source, train: {"mask_from": "conv_2"},
            "mask_from 'conv_2' instead of None",
            id="mask-from",
        ),
        pytest.param(
            lambda source, train: {
                "epochs": 5,
                "batch_size": 16,
                "accuracy_budget": 0.5,
                "round_to": 2,
                "seed": 1,
            },
            "accuracy_budget 0.5 .* batch_size 16 .* epochs 5 .* round_to 2 .* "
            "seed 1 instead of 0",
            id="arguments",
        ),
    ],
)
def test_c14_run_of_something_else_is_not_resumed(
    run, begun_run, source, images, changes, message
):
    train, _ = split(images)
    given = {"callbacks": [count := Count()], **changes(source, train)}
    with pytest.raises(UsageError, match=message):
        run(begun_run, resume=True, **given)
    assert count.epochs == []


@pytest.mark.parametrize("damage", ["epoch-99", "no-weights"])
def test_checkpoint_that_does_not_fit_its_run_is_refused(run, tmp_path, damage):
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, callbacks=[Kill(2)])
    begun = json.loads((tmp_path / "run.json").read_text())
    written = RunDirectory(tmp_path, begun["digest"])
    last = written.latest("epoch")
    number = 99 if damage == "epoch-99" else last.number
    arrays = last.arrays
    for path in tmp_path.glob("epoch-*"):
        path.unlink()
    if damage == "no-weights":
        arrays = {name: arrays[name] for name in arrays if "model" not in name}
    written.save("epoch", number, last.data, arrays)
    with pytest.raises(ArtifactError, match="checkpoints of its own epochs"):
        run(tmp_path, resume=True)


def test_resume_needs_a_run_directory(source, images):
    with pytest.raises(UsageError, match="`resume` needs the `run_directory`"):
        modularize(source, *split(images), resume=True)


def test_log_odds_fit_is_a_rising_line():
    scores = np.linspace(-3, 3, 200)
    is_class = np.random.default_rng(0).uniform(size=200) < 1 / (
        1 + np.exp(-2 * scores)
    )
    scale, shift = fit_platt(scores, is_class)
    assert scale == pytest.approx(2, rel=0.4)
    assert abs(shift) < 0.7


@pytest.mark.parametrize("sign", [0, -1], ids=["one-kind", "falling"])
def test_useless_scores_have_no_line(sign):
    scores = np.linspace(-1, 1, 20)
    is_class = np.ones(20, bool) if sign == 0 else scores < 0
    assert fit_platt(scores, is_class) is None
