import importlib
import inspect

import keras
import numpy as np
import pytest
from keras import layers

from kmod.errors import UnsupportedModelError
from kmod.errors import UsageError
from kmod.modular.losses import ModuleLoss
from kmod.modular.losses import SigmoidCrossEntropy
from kmod.modular.modular_model import ModularModel
from kmod.modular.modular_model import checked_names
from kmod.modular.optimizer import ModularAdam

NAMES = ["top", "middle", "bottom"]


@pytest.fixture
def modular(small_cnn, quick):
    model = ModularModel(small_cnn, NAMES, quick(retention_target=0.5))
    model.compile(run_eagerly=True)  # Tracing takes longer than a few steps.
    return model


def fit(model, data, epochs=3, **options):
    options = {"batch_size": 12, "verbose": 0, "shuffle": False, **options}
    return model.fit(*data, epochs=epochs, **options)


def test_fit_reaches_the_target(modular, data):
    modular.compile()
    history = fit(modular, data, epochs=6).history
    assert modular.retention_rate == pytest.approx(0.5, abs=1 / 12)
    assert modular.kernel_masks.mean() == pytest.approx(modular.retention_rate)
    assert history["retention_rate"][0] > 0.75
    assert history["retention_rate"][-1] == pytest.approx(0.5, abs=1 / 12)
    assert history["loss"][-1] < history["loss"][0]
    assert "accuracy" in history


@pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="TensorFlow traces."
)
def test_training_step_is_traced_once(modular, data, monkeypatch):
    traced, step = [], ModularModel.train_step
    monkeypatch.setattr(
        ModularModel,
        "train_step",
        lambda self, *args: traced.append(args) or step(self, *args),
    )
    modular.compile()
    fit(modular, data, epochs=1)
    assert len(traced) == 1


def test_modules_learn_the_classes(modular, data):
    modular.compile()
    fit(modular, data, epochs=30)
    assert modular.evaluate(*data, verbose=0)[1] > 0.9
    assert (modular.class_scores(data[0]).argmax(1) == data[1]).mean() > 0.9


@pytest.fixture
def folders(tmp_path, data):
    """Reads the data set of a folder that `keras` gives class names."""
    images, labels = data
    for label, name in enumerate(["10", "2", "ant"]):
        (tmp_path / name).mkdir()
        for index, image in enumerate(images[labels == label][:4]):
            path = tmp_path / name / f"{index}.png"
            keras.utils.save_img(path, image)

    def read(**options):
        return keras.utils.image_dataset_from_directory(
            tmp_path,
            image_size=(6, 6),
            color_mode="grayscale",
            verbose=False,
            **options,
        )

    return read


def test_class_names_are_those_of_the_data_set(small_cnn, quick, folders):
    model = ModularModel(small_cnn, recipe=quick())
    model.compile(run_eagerly=True)
    assert model.class_names == ("0", "1", "2")
    model.fit(folders(), epochs=1, verbose=0)
    assert model.class_names == ("10", "2", "ant")
    again = ModularModel.from_config(model.get_config())
    assert again.class_names == ("10", "2", "ant")
    with pytest.raises(UsageError, match="the same order"):
        model.fit(folders(class_names=["ant", "10", "2"]), verbose=0)


def test_class_names_given_stay(modular, folders):
    modular.fit(folders(), epochs=1, verbose=0)
    assert modular.class_names == tuple(NAMES)


def test_source_weights_stay(modular, small_cnn, data):
    modular.compile()
    frozen = modular.flat_source.get_weights()
    heads, scale = modular.heads.get_weights(), np.array(
        modular.network.adapters["norm"].scale.value
    )
    fit(modular, data)
    assert all(map(np.array_equal, frozen, modular.flat_source.get_weights()))
    assert all(map(np.array_equal, frozen, small_cnn.get_weights()))
    assert not np.array_equal(heads[0], modular.heads.get_weights()[0])
    assert not np.array_equal(
        scale, modular.network.adapters["norm"].scale.value
    )
    assert {weight.name for weight in modular.trainable_weights} == {
        "mask_scores",
        "kernel",
        "bias",
        "scale",
        "shift",
        "gain",
    }


def test_second_fit_goes_on(modular, data):
    modular.compile()
    fit(modular, data)
    reached = modular.retention_rate
    rates = fit(modular, data).history["retention_rate"]
    assert reached == pytest.approx(0.5, abs=1 / 12)
    assert max(rates) <= reached + 1e-6
    assert int(modular.optimizer.iterations) == 12


@pytest.mark.parametrize("rows", [0, 2, 3])
def test_rows_per_image(small_cnn, quick, data, rows):
    recipe = quick(rows_per_image=rows, distillation=0.0)
    modular = ModularModel(small_cnn, recipe=recipe)
    inputs = {"images": data[0][:6], "labels": data[1][:6]}
    scores = np.array(modular(inputs))
    assert scores.shape == (6, 3)
    seen = scores > -1e8
    assert (seen.sum(axis=1) == (rows or 3)).all()
    assert seen[np.arange(6), data[1][:6]].all()
    expected = np.array(modular(data[0][:6]))
    np.testing.assert_allclose(scores[seen], expected[seen], rtol=1e-4)


@pytest.mark.parametrize("is_column", [False, True])
def test_fit_takes_datasets(modular, data, is_column):
    tf = pytest.importorskip("tensorflow")
    images, labels = data
    labels = labels[:, None] if is_column else labels
    batches = tf.data.Dataset.from_tensor_slices((images, labels)).batch(12)
    history = modular.fit(batches.prefetch(1), epochs=1, verbose=0).history
    assert int(modular.masks.step) == int(modular.masks.total_steps) == 4
    assert np.isfinite(history["loss"][0])


def trained_weights(small_cnn, recipe, data):
    modular = ModularModel(small_cnn, recipe=recipe)
    modular.compile()
    fit(modular, data, epochs=2)
    wrapped = modular.get_layer("second")
    np.testing.assert_array_equal(
        wrapped.kernel_masks, modular.kernel_masks[:, :4]
    )
    weights = {w.path: np.array(w) for w in modular.trainable_weights}
    return weights | {"masks": modular.kernel_masks}


def test_many_classes_train_as_few_do(small_cnn, quick, data, monkeypatch):
    recipe = quick(rows_per_image=2, warm_up=0.1)
    expected = trained_weights(small_cnn, recipe, data)
    monkeypatch.setattr("kmod.modular.masked_network.FEW_CLASSES", 2)
    monkeypatch.setattr("kmod.modular.mask_schedule.SORTED_AT_ONCE", 1)
    monkeypatch.setattr("kmod.modular.mask_schedule.LEAST_CHANGES", 100)
    found = trained_weights(small_cnn, recipe, data)
    assert 0 < expected["masks"].mean() < 1
    for name, weight in expected.items():
        np.testing.assert_allclose(
            found[name], weight, rtol=1e-3, atol=1e-4, err_msg=name
        )


def test_fit_measures_validation_data(modular, data):
    history = fit(modular, data, epochs=1, validation_split=0.25).history
    assert int(modular.masks.total_steps) == 3
    assert set(history) == {
        "accuracy",
        "loss",
        "retention_rate",
        "val_accuracy",
        "val_loss",
    }


def test_fit_refuses_data_of_unknown_length(modular, data):
    tf = pytest.importorskip("tensorflow")
    endless = tf.data.Dataset.from_tensors(data).repeat()
    with pytest.raises(UsageError, match="Give `steps_per_epoch`"):
        modular.fit(endless)
    modular.fit(endless, steps_per_epoch=2, verbose=0)
    assert int(modular.masks.step) == 2


def test_class_scores(modular, data):
    images = data[0][:5]
    modular.set_calibration([1, 2, 3], [0, 0.5, -0.5])
    raw = modular.predict(images, verbose=0)
    log_odds = raw * [1, 2, 3] + [0, 0.5, -0.5]
    np.testing.assert_allclose(modular.class_log_odds(images), log_odds, 1e-5)
    expected = 1 / (1 + np.exp(-log_odds))
    np.testing.assert_allclose(modular.class_scores(images), expected, 1e-4)
    np.testing.assert_allclose(
        modular.class_scores(images, class_indices=[2, 0]),
        expected[:, [2, 0]],
        1e-4,
    )


def test_unmasked_modules_rank_as_the_source(small_cnn, data):
    modular = ModularModel(small_cnn)
    ranks = small_cnn.predict(data[0], verbose=0).argsort(axis=1)
    scores = modular.predict(data[0], verbose=0)
    np.testing.assert_array_equal(scores.argsort(axis=1), ranks)


def test_compile_takes_the_recipes_defaults(small_cnn):
    modular, paper = ModularModel(small_cnn), ModularModel(
        small_cnn, recipe="paper"
    )
    modular.compile()
    paper.compile()
    assert isinstance(modular.optimizer, ModularAdam)
    assert isinstance(modular.loss, ModuleLoss)
    assert modular.loss.negative_weight == 1  # Two others, two drawn.
    assert modular.optimizer.importance_steps == modular.recipe.importance_steps
    assert isinstance(paper.loss, SigmoidCrossEntropy)
    assert paper.optimizer.importance_steps is None


def test_compile_takes_other_choices(small_cnn, data):
    modular = ModularModel(small_cnn)
    modular.compile("sgd", "sparse_categorical_crossentropy", metrics=[])
    assert isinstance(modular.optimizer, keras.optimizers.SGD)
    history = fit(modular, data, epochs=1).history
    assert set(history) == {"loss", "retention_rate"}


def test_paper_recipe_trains_masks_by_gradient(small_cnn, quick, data):
    recipe = quick(
        retention_target=None,
        penalty=5.0,
        rows_per_image=0,
        distillation=0.0,
        mask_rate=0.05,
    )
    modular = ModularModel(small_cnn, recipe=recipe)
    modular.compile()
    fit(modular, data, epochs=16)
    assert modular.retention_rate < 1


def test_frozen_masks_do_not_train(small_cnn, quick, data):
    recipe = quick(retention_target=None, penalty=1.0)
    modular = ModularModel(small_cnn, recipe=recipe)
    modular.masks.frozen = True
    modular.compile(run_eagerly=True)
    fit(modular, data)
    np.testing.assert_array_equal(modular.masks.mask_scores, np.ones((3, 12)))
    assert modular.retention_rate == pytest.approx(1)


def test_setting_masks(modular):
    masks = np.ones((3, 12), int)
    masks[0, [1, 5, 9]] = masks[2, 4:7] = 0
    modular.kernel_masks = masks
    np.testing.assert_array_equal(modular.kernel_masks, masks)
    assert modular.kernel_masks.dtype == "int64"
    assert modular.retention_rate == pytest.approx(30 / 36)


def test_setting_masks_checks_them(modular):
    with pytest.raises(UsageError, match=r"0/1 arrays of shape \(3, 12\)"):
        modular.kernel_masks = np.ones(12)
    assert modular.retention_rate == pytest.approx(1)


def test_kernels_is_the_table_of_the_source(modular):
    assert modular.kernels.layers == ("first", "second", "hidden")
    assert modular.kernels.rows()[5] == (5, "second", 1, 5)


def test_save_and_load(small_cnn, quick, data, tmp_path):
    recipe = quick(retention_target=0.5)
    modular = ModularModel(small_cnn, NAMES, recipe, value_range=(-1, 2))
    modular.compile(run_eagerly=True)
    fit(modular, data, batch_size=24)
    modular.set_calibration([1, 2, 3], 0.5, [7, 8, 9])
    modular.save(tmp_path / "modular.keras")
    copy = keras.models.load_model(tmp_path / "modular.keras")
    assert isinstance(copy, ModularModel)
    assert copy.class_names == tuple(NAMES)
    assert copy.value_range == (-1, 2)
    assert np.array(copy.calibration_images).tolist() == [7, 8, 9]
    np.testing.assert_array_equal(copy.kernel_masks, modular.kernel_masks)
    scores, others = (m.class_scores(data[0]) for m in (modular, copy))
    np.testing.assert_allclose(scores, others, rtol=1e-6)
    fit(copy, data, epochs=1)
    assert copy.retention_rate <= modular.retention_rate + 1e-6


@keras.saving.register_keras_serializable("test_modular_model")
class Unknown(layers.Layer):
    def call(self, inputs):
        return inputs


def test_target_out_of_reach_names_what_pins(data):
    image = keras.Input(data[0].shape[1:])
    features = layers.Conv2D(8, 3, name="first")(image)
    features = layers.Conv2D(2, 3, name="second")(Unknown(name="own")(features))
    features = layers.GlobalAveragePooling2D()(features)
    model = ModularModel(keras.Model(image, layers.Dense(3)(features)))
    model.compile()
    message = (
        r"retention_target=0.\d+. Of 10 kernels, layer 'own' pins 8, because "
        "kmod has no rule for Unknown layers.*register_channel_rule"
    )
    with pytest.raises(UsageError, match=message):
        fit(model, data)


def test_config_holds_every_argument(small_cnn, quick):
    options = {"dtype": "mixed_bfloat16", "value_range": (-1, 1)}
    model = ModularModel(
        small_cnn, NAMES, quick(), "second", 7, name="own", **options
    )
    config = model.get_config()
    arguments = set(inspect.signature(ModularModel).parameters) - {"kwargs"}
    assert arguments <= config.keys()
    copy = ModularModel.from_config(config)
    again = copy.get_config()
    again.pop("source"), config.pop("source")
    assert again == config
    assert copy.recipe == model.recipe
    assert copy.value_range == (-1.0, 1.0)


class Crash(keras.callbacks.Callback):
    def on_epoch_begin(self, epoch, logs=None):
        if epoch == 2:
            raise KeyboardInterrupt


def test_resumed_training_draws_the_rows_that_were_to_come(
    small_cnn, quick, data, tmp_path
):
    def run(*callbacks):
        model = ModularModel(small_cnn, recipe=quick(rows_per_image=2))
        model.compile(run_eagerly=True)
        options = {"batch_size": 24, "callbacks": list(callbacks)}
        fit(model, data, epochs=4, **options)
        return model

    def backup():
        return keras.callbacks.BackupAndRestore(tmp_path / "backup")

    whole = run()
    with pytest.raises(KeyboardInterrupt):
        run(backup(), Crash())
    resumed = run(backup())
    for one, two in zip(resumed.weights, whole.weights, strict=True):
        np.testing.assert_allclose(one, two, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_mixed_precision(small_cnn, quick, data, policy):
    modular = ModularModel(
        small_cnn, recipe=quick(retention_target=0.5), dtype=policy
    )
    modular.compile()
    history = fit(modular, data).history
    optimizer = modular.optimizer
    if policy == "mixed_float16":  # Keras wraps it to scale the loss.
        optimizer = optimizer.inner_optimizer
    assert int(optimizer.total_steps) == 12
    assert np.isfinite(history["loss"]).all()
    assert {w.dtype for w in modular.trainable_weights} == {"float32"}
    assert modular.retention_rate == pytest.approx(0.5, abs=1 / 12)


def test_dropout_and_statistics_stay_out_of_training(quick, data):
    source = keras.Sequential(
        [
            keras.Input((6, 6, 1)),
            layers.Conv2D(4, 3),
            layers.BatchNormalization(),
            layers.Dropout(0.9),
            layers.Flatten(),
            layers.Dense(3),
        ]
    )
    modular = ModularModel(source, recipe=quick(rows_per_image=0))
    inputs = {"images": data[0], "labels": data[1]}
    np.testing.assert_allclose(
        modular(inputs, training=True), modular(data[0]), rtol=1e-5
    )


@pytest.mark.parametrize(
    "names",
    [
        pytest.param(["a", "b"], id="too-few"),
        pytest.param(["a", "b", "b"], id="twice"),
        pytest.param(["a", "b", ""], id="empty"),
        pytest.param([0, 1, 2], id="no-strings"),
    ],
)
def test_class_names_are_checked(small_cnn, names):
    with pytest.raises(UsageError, match="`class_names` must be 3 different"):
        ModularModel(small_cnn, names)


def test_class_names_are_numbers_by_default(small_cnn):
    assert ModularModel(small_cnn).class_names == ("0", "1", "2")


def test_target_must_be_within_reach(small_cnn, quick, data):
    recipe = quick(retention_target=0.5)
    modular = ModularModel(small_cnn, recipe=recipe, mask_from="hidden")
    modular.compile()
    with pytest.raises(
        UsageError, match="at least .* 0.667 with mask_from='hidden'"
    ):
        fit(modular, data)


@pytest.mark.parametrize(
    "value_range", [(1, 0), (0, 0), (0, np.inf), (0, np.nan), (1,), 255, "ab"]
)
def test_value_range_is_checked(small_cnn, value_range):
    with pytest.raises(UsageError, match="`value_range` must be the smallest"):
        ModularModel(small_cnn, value_range=value_range)


@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16"])
def test_sources_that_would_answer_otherwise_are_refused(
    small_cnn, policy, monkeypatch
):
    """In half precision, too, where rounding makes more difference."""
    rebuilding = importlib.import_module("kmod.graph.rebuild")

    def careless(layer, weights):
        layer.set_weights([1.001 * weight for weight in weights])

    ModularModel(small_cnn, dtype=policy)
    monkeypatch.setattr(rebuilding, "set_state", careless)
    with pytest.raises(UnsupportedModelError, match="first at layer 'first'"):
        ModularModel(small_cnn, dtype=policy)


def test_sources_that_can_not_be_read_are_refused():
    with pytest.raises(UnsupportedModelError, match="must be built"):
        ModularModel(keras.Sequential([layers.Dense(2)]))


@pytest.mark.parametrize(
    "labels",
    [
        pytest.param(lambda y: y + 1, id="index"),
        pytest.param(lambda y: np.eye(4)[y], id="one-hot"),
    ],
)
def test_labels_of_other_classes_are_refused(small_cnn, data, labels):
    images, wrong = data[0], labels(data[1])
    modular = ModularModel(small_cnn, value_range=(-2, 3))
    modular.compile()
    with pytest.raises(ValueError, match="3 classes"):
        modular.calibrate(images, wrong)
    for given in ({"y": wrong}, {"validation_data": (images, wrong)}):
        with pytest.raises(ValueError, match="3 classes"):
            modular.fit(**{"x": images, "y": data[1], **given}, verbose=0)


def test_calibration_takes_one_hot_labels(small_cnn, data):
    images, labels = data
    found = []
    for given in (labels, np.eye(3)[labels]):
        modular = ModularModel(small_cnn, value_range=(-2, 3))
        modular.calibrate(images, given)
        found.append(modular.class_scores(images))
        counts = np.array(modular.calibration_images)
        assert counts.tolist() == np.bincount(labels).tolist()
    np.testing.assert_array_equal(*found)


def test_scales_and_shifts_of_deep_networks_learn_more_slowly(
    modular, monkeypatch
):
    num_layers = len(modular.placement.adapted)
    assert num_layers > 1
    for limit, factor in (num_layers, 1), (num_layers / 2, 0.25):
        monkeypatch.setattr("kmod.modular.optimizer.FULL_RATE_LAYERS", limit)
        modular.compile()
        factors = modular.optimizer.factors
        recipe = modular.recipe
        rate = factor * recipe.adapt_rate / recipe.head_rate
        for name in ("scale", "shift", "gain"):
            assert factors[name] == pytest.approx(rate)
        rate = recipe.mask_rate / recipe.head_rate
        assert factors["mask_scores"] == pytest.approx(rate)


@pytest.mark.parametrize(
    ("names", "received"),
    [
        (("a\x1b[31m", "b"), r"'a\\x1b\[31m'"),
        (("a" * 201, "b"), "'aaa"),
        (("\u00e9", "e\u0301"), r"'e\\u0301'"),
    ],
    ids=["control-character", "long", "twins"],
)
def test_names_that_no_spec_can_name_are_refused(names, received):
    with pytest.raises(
        UsageError, match=f"look the same. Received: {received}"
    ):
        checked_names(names, 2)


def test_more_classes_than_a_store_holds_are_refused_first():
    with pytest.raises(UsageError, match="at most 10,000 classes"):
        checked_names(None, 10_001)
