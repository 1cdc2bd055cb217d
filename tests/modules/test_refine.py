import keras
import numpy as np
import pytest

from kmod.data.image_data import UnlabelledImages
from kmod.errors import ArtifactError
from kmod.errors import UsageError
from kmod.graph import channel_graph
from kmod.graph import rebuild
from kmod.graph.sharing import merge_models
from kmod.modular.modular_model import ModularModel
from kmod.modules.class_module import CALIBRATION_LAYER
from kmod.modules.decompose import decompose
from kmod.modules.module_store import StoreContent
from kmod.modules.module_store import save_store
from kmod.modules.refine import JointModel
from kmod.modules.refine import raw_score_model
from kmod.modules.refine import refine

KEPT = 1  # Of 16 kernels, another one for each class.


def network(seed):
    keras.utils.set_random_seed(seed)
    return keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            keras.layers.Rescaling(1 / 255, name="rescaling"),
            keras.layers.Conv2D(8, 3, activation="relu", name="stem"),
            keras.layers.Conv2D(16, 3, name="late"),
            keras.layers.BatchNormalization(momentum=0.9, name="norm"),
            keras.layers.ReLU(name="relu"),
            keras.layers.Flatten(name="flatten"),
            keras.layers.Dropout(0.2, name="dropout"),
            keras.layers.Dense(3, name="logits"),
        ]
    )


@pytest.fixture(scope="module")
def arrays(digits):
    """Training and validation images and labels."""
    parts = (digits.train, digits.validation)
    return [(part.images, part.labels) for part in parts]


@pytest.fixture(scope="module")
def source(train, digits):
    return train(network(0), digits, epochs=4, from_logits=True)


def cut(source, path, arrays, digits):
    """Decomposes into modules of one late kernel each."""
    modular = ModularModel(source, digits.class_names, mask_from="late")
    masks = modular.kernel_masks
    late = modular.kernels.ids_of("late")
    masks[:, late] = 0
    for index in range(3):
        masks[index, late[index * KEPT : (index + 1) * KEPT]] = 1
    modular.kernel_masks = masks
    return decompose(modular, path, data=arrays[1])


@pytest.fixture(scope="module")
def store(source, arrays, digits, tmp_path_factory):
    path = tmp_path_factory.mktemp("stores") / "cut"
    return cut(source, path, arrays, digits)


@pytest.fixture(scope="module")
def refined(store, source, arrays):
    path = store.path.with_name("refined")
    return refine(store, path, source, *arrays, epochs=4, verbose=0)


def accuracy(store, arrays):
    images, labels = arrays[1]
    scores = [store[c].model.predict(images, verbose=0) for c in store]
    return float(np.mean(np.concatenate(scores, 1).argmax(1) == labels))


def weights(store, name, layer):
    return store[name].model.get_layer(layer).get_weights()


@pytest.mark.long
def test_refined_modules_know_more(store, refined, arrays):
    before, after = (accuracy(s, arrays) for s in (store, refined))
    assert after > before
    assert after > 0.9
    assert refined.manifest.metrics["after"]["accuracy"] == after
    assert refined["8"].info.metrics["f1"] > store["8"].info.metrics["f1"]


@pytest.mark.long
def test_negatives_are_answered_no(
    store, source, arrays, ten_digits, refined, tmp_path
):
    """Seven other digits, half of them seen, half only asked for."""
    others = ten_digits.train.images[
        ~np.isin(ten_digits.train.labels, [3, 8, 9])
    ]
    new = refine(
        store,
        tmp_path / "new",
        source,
        *arrays,
        negatives=others[::2],
        epochs=4,
        verbose=0,
    )
    said = {}
    for each in (refined, new):
        raw = [raw_score_model(each[c].model) for c in each]
        scores = [model.predict(others[1::2], verbose=0) for model in raw]
        said[each.path.name] = np.logaddexp(0, scores).mean()
    assert said["new"] < 0.9 * said["refined"], said
    assert accuracy(new, arrays) > accuracy(refined, arrays) - 0.05
    known = new.manifest.arguments["refinement"]["negatives"]
    assert known == {"name": "images", "num_images": len(others[::2])}
    assert "negatives" not in refined.manifest.arguments["refinement"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        pytest.param(
            lambda x: x[:, :4],
            r"shape of the images .* \(8, 8, 1\). Received: .*\(4, 8, 1\)",
            id="shape",
        ),
        pytest.param(
            lambda x: x / 255.0, "`negatives` must be scaled as", id="range"
        ),
        pytest.param(
            lambda x: UnlabelledImages(x / 255.0, (0.0, 1.0), "x"),
            "takes, 0 to 255. Received: 0 to 1",
            id="declared-range",
        ),
    ],
)
def test_negatives_that_do_not_fit_are_refused(
    store, source, arrays, tmp_path, change, message
):
    negatives = change(arrays[0][0])
    with pytest.raises(UsageError, match=message):
        refine(store, tmp_path / "new", source, *arrays, negatives=negatives)
    assert not (tmp_path / "new").exists()


def test_stem_stays_and_is_still_shared(store, refined):
    for name in store:
        for old, new in zip(
            *(weights(s, name, "stem") for s in (store, refined))
        ):
            np.testing.assert_array_equal(old, new)
        assert np.any(
            weights(store, name, "late")[0] != weights(refined, name, "late")[0]
        )
    image, outputs = merge_models((f"m{n}", refined[n].model) for n in refined)
    names = [
        layer.name
        for layer in keras.Model(image, list(outputs.values())).layers
        if isinstance(layer, keras.layers.Conv2D)
    ]
    assert sum(name.endswith("stem") for name in names) == 1
    assert sum(name.endswith("late") for name in names) == 3


def test_kernels_and_source_stay(store, refined, source):
    for name in store:
        old, new = store[name].info, refined[name].info
        assert new.kept_kernels == old.kept_kernels
        assert (new.macs, new.parameters) == (old.macs, old.parameters)
        assert old.max_output_gap is not None
        assert new.max_output_gap is None
    assert refined.manifest.source == store.manifest.source
    assert refined.manifest.arguments["refinement"]["epochs"] == 4
    assert refined.digest != store.digest
    refined.verify()


def test_calibration_is_fitted_anew(store, refined):
    scale, _ = weights(refined, "9", CALIBRATION_LAYER)
    assert scale.item() == pytest.approx(
        refined["9"].info.calibration["scale"], rel=1e-6
    )
    assert scale.item() != weights(store, "9", CALIBRATION_LAYER)[0].item()


def test_other_source_is_refused(store, arrays, tmp_path):
    with pytest.raises(ArtifactError, match="cut from.*Give that source"):
        refine(store, tmp_path / "new", network(1), *arrays)
    assert not (tmp_path / "new").exists()


def test_store_without_all_classes_is_refused(store, source, arrays, tmp_path):
    part = save_store(
        tmp_path / "part",
        StoreContent([store["3"], store["9"]], store.manifest),
    )
    with pytest.raises(UsageError, match=r"without \['8'\]"):
        refine(part, tmp_path / "new", source, *arrays)


@pytest.mark.parametrize(
    "numbers", [{"epochs": 0}, {"batch_size": 0}, {"learning_rate": 0.0}]
)
def test_numbers_out_of_range_are_refused(
    store, source, arrays, tmp_path, numbers
):
    (name,) = numbers
    with pytest.raises(UsageError, match=f"must be at least 1.*{name}=0"):
        refine(store, tmp_path / "new", source, *arrays, **numbers)


def test_what_the_stem_made_takes_the_place_of_images(store, source, arrays):
    """Batches of a data set run the stem in every step; arrays only once."""
    teacher = rebuild(channel_graph(source))
    modules = [store[name].model for name in store]
    joint = JointModel(modules, teacher, 3.0)
    images = arrays[1][0]
    made = joint.stem.predict(images, verbose=0)
    answers = joint.predict(images, verbose=0)
    kept = joint.predict(made, verbose=0)
    np.testing.assert_allclose(kept, answers, atol=1e-5)
    assert set(made) == {"teacher", "tensor_0"}
    made["tensor_0"] = made["tensor_0"] + 1
    assert np.abs(joint.predict(made, verbose=0) - answers).max() > 0.01


def test_source_at_chance_level_is_refused(store, source, arrays, tmp_path):
    train, (images, labels) = arrays
    wrong = images, (labels + 1) % 3
    with pytest.raises(ArtifactError, match="must be better than guesses"):
        refine(store, tmp_path / "new", source, train, wrong)
    assert not (tmp_path / "new").exists()


def test_other_value_range_is_refused(store, source, arrays, tmp_path):
    train, (images, labels) = arrays
    scaled = images / 255.0, labels
    with pytest.raises(UsageError, match=r"value_range=\(0, 255\) and float"):
        refine(store, tmp_path / "new", source, train, scaled)
    assert not (tmp_path / "new").exists()


@pytest.mark.long
@pytest.mark.parametrize("is_data_set", [False, True])
def test_one_hot_labels_are_taken(store, source, arrays, tmp_path, is_data_set):
    tf = pytest.importorskip("tensorflow")
    train, validation = ((x, np.eye(3)[y]) for x, y in arrays)
    if is_data_set:
        train = tf.data.Dataset.from_tensor_slices(train).batch(64)
    path = tmp_path / "new"
    new = refine(store, path, source, train, validation, epochs=1, verbose=0)
    assert accuracy(new, arrays) > 0.6


@pytest.mark.parametrize("part", [0, 1], ids=["train", "validation"])
def test_labels_out_of_range_are_refused(store, source, arrays, tmp_path, part):
    given = list(arrays)
    given[part] = given[part][0], given[part][1] + 1
    with pytest.raises(ValueError, match="3 classes. Received: a label 3"):
        refine(store, tmp_path / "new", source, *given)
    assert not (tmp_path / "new").exists()


@pytest.mark.long
def test_frozen_layers_stay_frozen(source, arrays, digits, tmp_path):
    partly = keras.models.clone_model(source)
    partly.set_weights(source.get_weights())
    for name in ("norm", "late"):
        partly.get_layer(name).trainable = False
    old = cut(partly, tmp_path / "cut", arrays, digits)
    path = tmp_path / "new"
    new = refine(old, path, partly, *arrays, epochs=1, verbose=0)
    for layer in ("norm", "late", "stem"):
        for before, after in zip(*(weights(s, "8", layer) for s in (old, new))):
            np.testing.assert_array_equal(before, after)
    before, after = (weights(s, "8", "logits")[0] for s in (old, new))
    assert np.any(before != after)


@pytest.mark.long
@pytest.mark.parametrize(
    "policy",
    [
        "mixed_float16",
        pytest.param("mixed_bfloat16", marks=pytest.mark.slow),
    ],
)
def test_the_whole_way_under_a_global_policy(
    train, digits, arrays, tmp_path, policy
):
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        source = train(network(0), digits, epochs=4, from_logits=True)
        modular = ModularModel(
            source,
            digits.class_names,
            mask_from="late",
            value_range=(0, 255),
            retention_target=0.7,
        )
        modular.compile()
        modular.fit(*arrays[0], epochs=1, verbose=0)
        modular.calibrate(*arrays[1])
        old = decompose(modular, tmp_path / "cut", data=arrays[1])
        new = refine(
            old, tmp_path / "new", source, *arrays, epochs=1, verbose=0
        )
    finally:
        keras.config.set_dtype_policy(before)
    assert modular.dtype_policy.name == policy
    assert accuracy(new, arrays) > 0.6
    assert new["8"].model.get_layer("late").compute_dtype == "float32"


@pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="TensorFlow traces"
)
def test_training_traces_a_step_once(
    store, source, arrays, tmp_path, monkeypatch
):
    traced = []

    def train_step(self, data):
        traced.append(data)
        return keras.Model.train_step(self, data)

    monkeypatch.setattr(JointModel, "train_step", train_step, raising=False)
    steps = {"steps_per_epoch": 3, "epochs": 1, "batch_size": 8, "verbose": 0}
    refine(store, tmp_path / "once", source, *arrays, **steps)
    assert len(traced) == 1
