import dataclasses
import math

import keras
import numpy as np
import pytest

from kmod.composition import teaching
from kmod.composition.checks import run_tests
from kmod.composition.composer import compose
from kmod.composition.composition_manifest import read_composition_manifest
from kmod.composition.labelled_images import ImageReader
from kmod.composition.saving import load
from kmod.composition.saving import save
from kmod.data.image_data import ImageData
from kmod.data.image_data import LabelledImages
from kmod.data.image_data import UnlabelledImages
from kmod.errors import ArtifactError
from kmod.errors import UsageError
from kmod.export.keras_file import file_bytes
from kmod.graph import channel_graph
from kmod.graph import rebuild
from kmod.graph.sizes import model_sizes
from kmod.metrics.evaluate import evaluate
from kmod.modules.manifest import InputContract
from kmod.patching.patcher import patch
from kmod.report.subject import open_subject
from kmod.slimming import removal
from kmod.slimming import slim as slimming
from kmod.slimming.slim import slim
from kmod.spec.spec_file import write_spec

SHORT = {"epochs": 3, "batch_size": 8, "learning_rate": 0.01, "verbose": 0}
ONCE = {"epochs": 1, "verbose": 0}


@pytest.fixture(scope="module")
def small(strong, digits):
    """Of several removals."""
    return slim(strong, digits, macs_target=0.4, **{**SHORT, "epochs": 6})


@pytest.fixture(scope="module")
def composed(donor, tmp_path_factory):
    classes = [
        {"name": name, "module": {"store": "digits", "class": name}}
        for name in donor.class_names
    ]
    data = {
        "version": 1,
        "name": "digits",
        "stores": {"digits": {"path": donor.path}},
        "classes": classes,
    }
    path = tmp_path_factory.mktemp("specs") / "spec.yaml"
    return compose(write_spec(data, path))


def share(model, other, images):
    """How often two models answer alike."""
    first, second = (
        each.predict(images, verbose=0).argmax(axis=1)
        for each in (model, other)
    )
    return np.mean(first == second)


def test_slim_model_answers_as_before(small, strong, digits):
    assert model_sizes(small).macs <= 0.4 * model_sizes(strong).macs
    assert small.class_names == digits.class_names
    assert share(small, strong, digits.test.images) > 0.9
    assert evaluate(small, digits.test).accuracy > 0.85
    scores = small.predict(digits.test.images, verbose=0)
    np.testing.assert_allclose(scores.sum(axis=1), 1, atol=1e-5)


def test_slim_model_that_learned_shuffled_answers_knows_nothing(
    strong, digits, monkeypatch
):
    genuine = teaching.Teacher.answers
    random = np.random.default_rng(0)
    monkeypatch.setattr(
        teaching.Teacher,
        "answers",
        lambda *given: random.permutation(genuine(*given)),
    )
    images = digits.train.images
    made = slim(strong, images, macs_target=0.4, **SHORT)
    assert share(made, strong, digits.test.images) < 0.7


@pytest.mark.long
def test_labels_are_learned_where_images_have_them(weak, digits):
    """They tell the digit that the model itself is blind to."""
    options = {**SHORT, "macs_target": 0.6, "class_names": digits.class_names}
    found = {}
    for name, given in (
        ("images", digits.train.images),
        ("arrays", (digits.train.images[..., 0], digits.train.labels)),
        ("data set", digits),
    ):
        made = slim(weak, given, **options)
        learned = made.composition.manifest.slimmed
        recall = evaluate(made, digits.test).recall[1]
        found[name] = learned.get("num_labelled", 0), recall > 0.5
    count = len(digits.train) - math.ceil(0.1 * len(digits.train))
    assert found == {
        "images": (0, False),
        "arrays": (count, True),
        "data set": (count, True),
    }


def test_labels_in_the_wrong_order_are_refused(strong, digits):
    labels = (digits.train.labels + 1) % 3
    with pytest.raises(ArtifactError, match="fit with an accuracy of .* 1 as"):
        slim(strong, (digits.train.images, labels), **ONCE)


@pytest.mark.parametrize(
    ("names", "kept", "expected"),
    [
        (("a", "b", "c"), ("a", "b", "c"), [0, 1, 2]),
        (("c", "a", "b"), ("a", "b", "c"), [2, 0, 1]),
        (("a", "x", "c"), ("a", "b", "c"), [0, -1, 2]),
        (("a", "b", "c"), ("c", "a"), [1, 0]),
        (("a", "x", "c"), ("c", "b"), [-1, -1, 0]),
        (("x", "y", "z"), ("a", "b", "c"), None),
    ],
    ids=["same", "reordered", "other", "few", "one", "none"],
)
def test_labels_are_of_classes_by_name(names, kept, expected):
    part = LabelledImages(np.zeros((3, 4, 4, 1)), np.arange(3))
    none = part.take(np.arange(0))
    data = ImageData("d", "1", names, (0, 1), part, none, none)
    images, labels = slimming._taken_apart(data, names, reader_of(kept))
    number = 3 if expected is None else len(expected)
    assert len(images.train) == number
    assert (None if labels is None else labels.tolist()) == expected
    alone = UnlabelledImages(part.images, (0, 1), "u")
    assert (
        slimming._taken_apart([data, alone], kept, reader_of(kept))[1] is None
    )


def reader_of(names):
    contract = InputContract((4, 4, 1), "float32", (0, 1))
    return ImageReader(contract, "resize", tuple(names))


def test_labels_without_names_are_indices(digits):
    images = digits.train.images[:4]
    arrays = images, np.array([2, 0, 1, 7])
    names = digits.class_names
    for kept, expected in ((names, [2, 0, 1, -1]), (names[1:], [1, -1, 0, -1])):
        _, labels = slimming._taken_apart(arrays, names, reader_of(kept))
        assert labels.tolist() == expected


@pytest.mark.long
def test_few_images_are_shown_more_often(strong, digits, monkeypatch):
    monkeypatch.setattr(slimming, "EPOCHS", (1, 3))
    monkeypatch.setattr(slimming, "SHOWN", 72)

    def epochs(num_images):
        images = digits.train.images[:num_images]
        small = slim(strong, images, macs_target=0.9, verbose=0)
        return small.composition.manifest.slimmed["epochs"]

    assert [epochs(n) for n in (80, 40, 20)] == [1, 2, 3]


def test_training_that_only_harms_is_left_out(strong, digits):
    given = {**ONCE, "macs_target": 0.9, "learning_rate": 100.0}
    small = slim(strong, digits, **given)
    assert small.composition.manifest.slimmed["agreement"] > 0.8


def test_model_stays_as_it_is(strong, digits):
    before = strong.get_weights()
    slim(strong, digits.train.images, **ONCE)
    for old, new in zip(before, strong.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


def test_saved_model_says_what_it_was(small, strong, tmp_path):
    save(small, tmp_path / "out", formats=["keras"], metrics={"x": 1})
    manifest = read_composition_manifest(tmp_path / "out")
    before = model_sizes(strong)
    assert manifest.slimmed["before"] == {
        "parameters": before.parameters,
        "macs": before.macs,
    }
    assert manifest.slimmed["data"] == "digits"
    assert manifest.slimmed["num_images"] == 308
    assert manifest.slimmed["num_held_out"] == 35
    assert manifest.slimmed["agreement"] > 0.8
    assert [each["store"] for each in manifest.sources] == [None] * 3
    assert manifest.sources[0]["model"] == strong.name
    card = (tmp_path / "out" / "README.md").read_text()
    assert "made from a model of the user's. It was slimmed" in card
    assert {each.outcome for each in run_tests(tmp_path / "out")} == {"passed"}
    assert load(tmp_path / "out").class_names == small.class_names


@pytest.mark.long
def test_few_classes_of_a_model(strong, digits):
    longer = {**SHORT, "epochs": 6}
    made = slim(strong, digits, only=["9", "3"], macs_target=0.2, **longer)
    assert made.class_names == ("9", "3")
    assert model_sizes(made).macs <= 0.2 * model_sizes(strong).macs
    is_kept = digits.test.labels != 1
    answered = made.predict(digits.test.images[is_kept], verbose=0).argmax(1)
    wanted = np.where(digits.test.labels[is_kept] == 2, 0, 1)
    assert np.mean(answered == wanted) > 0.9
    sources = made.composition.manifest.sources
    assert [each["class"] for each in sources] == ["3", "9"]
    # Only images of these classes were learned from.
    own = np.isin(digits.train.labels, [0, 2]).sum()
    slimmed = made.composition.manifest.slimmed
    assert slimmed["num_images"] + slimmed["num_held_out"] == own


@pytest.mark.parametrize(
    "only, least, most",
    [(None, 0.35, 0.5), (["5", "0", "2"], 0.35, 0.5), (["5", "0"], 0.1, 0.25)],
)
def test_target_that_is_not_given_depends_on_what_is_kept(
    build_source, digits, only, least, most
):
    model = build_source(num_classes=6)
    made = slim(model, digits.train.images, only=only, **ONCE)
    left = model_sizes(made).macs / model_sizes(model).macs
    assert least < left <= most


def test_parameters_are_a_target_of_their_own(strong, digits):
    made = slim(strong, digits, parameters_target=0.4, **ONCE)
    assert model_sizes(made).parameters <= 0.4 * model_sizes(strong).parameters


@pytest.mark.long
def test_latency_target_is_reached_by_networks_that_are_timed(
    strong, digits, monkeypatch
):
    def answers_in(model):
        return 1000 + model_sizes(model).macs

    monkeypatch.setattr(removal, "measure_latency", answers_in)
    made = slim(strong, digits, latency_target=0.6, **ONCE)
    assert 0.5 < answers_in(made) / answers_in(strong) <= 0.6
    monkeypatch.setattr(removal, "measure_latency", lambda model: 1.0)
    with pytest.raises(UsageError, match="about 1. .*latency_target=0.6"):
        slim(strong, digits, latency_target=0.6, **ONCE)


def test_frozen_layers_of_a_fine_tuned_model_learn(strong, digits):
    frozen = keras.models.clone_model(strong)
    frozen.set_weights(strong.get_weights())
    frozen.trainable = False
    made = slim(frozen, digits, macs_target=0.4, **SHORT)
    assert share(made, strong, digits.test.images) > 0.9


def test_layers_of_ones_own_may_have_any_name(digits):
    layers = keras.layers
    model = keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            layers.Rescaling(1 / 255),
            layers.Conv2D(8, 3, activation="relu", name="x_rows"),
            layers.GlobalAveragePooling2D(),
            layers.Dense(3, name="log_odds"),
        ]
    )
    made = slim(model, digits.train.images, macs_target=0.5, **ONCE)
    assert made.get_layer("x_rows").filters < 8
    before = model.get_layer("log_odds").bias
    changes = np.array(made.get_layer("log_odds").bias - before)
    assert np.abs(changes).max() > 1e-5


@pytest.mark.long
def test_composed_model_keeps_its_sources_and_spec(composed, digits, tmp_path):
    composed.composition = dataclasses.replace(
        composed.composition,
        manifest=dataclasses.replace(
            composed.composition.manifest, metrics={"checks": [], "x": 2}
        ),
    )
    made = slim(composed, digits.train.images, macs_target=0.5, **SHORT)
    assert model_sizes(made).macs <= 0.5 * model_sizes(composed).macs
    assert share(made, composed, digits.test.images) > 0.85
    save(made, tmp_path / "out", formats=["keras"])
    manifest = read_composition_manifest(tmp_path / "out")
    assert manifest.sources == composed.composition.manifest.sources
    assert manifest.metrics == {"x": 2}
    assert (tmp_path / "out" / "spec.yaml").is_file()
    card = (tmp_path / "out" / "README.md").read_text()
    assert "composed from modules of other models. It was slimmed" in card
    again = slim(
        load(tmp_path / "out"),
        digits.train.images,
        only=["3", "8"],
        macs_target=0.9,
        **ONCE,
    )
    assert again.class_names == ("3", "8")
    assert [s["class"] for s in again.composition.manifest.sources] == [
        "3",
        "8",
    ]


@pytest.mark.long
def test_classes_of_a_patched_model_that_no_module_answers_for(
    weak, donor, digits, tmp_path
):
    names = digits.class_names
    patched = patch(weak, "8", donor["8"], digits.validation, class_names=names)
    made = slim(patched, digits, only=["3", "9"], macs_target=0.9, **ONCE)
    save(made, tmp_path / "out", formats=["keras"])
    (before,) = patched.composition.manifest.sources
    (source,) = read_composition_manifest(tmp_path / "out").sources
    assert source == {**before, "class": "*", "auxiliary": True}
    card = (tmp_path / "out" / "README.md").read_text()
    assert "composed from modules of other models. It was slimmed" in card


def test_composed_model_has_names_of_its_own(composed, digits):
    images, names = digits.train.images, ["a", "b", "c"]
    with pytest.raises(UsageError, match=r"\['a', 'b', 'c'\] for a model of"):
        slim(composed, images, class_names=names, **ONCE)


def test_spec_of_all_classes_is_not_that_of_few(composed, digits, tmp_path):
    made = slim(composed, digits, only=["9", "3"], macs_target=0.9, **ONCE)
    save(made, tmp_path / "out", formats=["keras"])
    assert not (tmp_path / "out" / "spec.yaml").exists()
    subject = open_subject(tmp_path / "out")
    assert subject.spec is None and subject.plan is None


def test_images_of_another_size_are_brought_to_the_models(strong, digits):
    large = digits.train.images[:60].repeat(2, axis=1).repeat(2, axis=2)
    made = slim(strong, large, macs_target=0.8, **ONCE)
    assert made.input_shape == (None, 8, 8, 1)


def test_model_of_one_score_becomes_one_of_two(train, digits):
    layers = keras.layers
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            layers.Rescaling(1 / 255),
            layers.Conv2D(8, 3, activation="relu"),
            layers.Flatten(),
            layers.Dense(1, activation="sigmoid"),
        ]
    )
    model.compile("adam", "binary_crossentropy")
    images, labels = digits.train.images, digits.train.labels > 0
    model.fit(images, labels, epochs=15, verbose=0)
    made = slim(model, images, class_names=["three", "other"], **SHORT)
    first = model.predict(images, verbose=0)[:, 0] > 0.5
    assert made.class_names == ("three", "other")
    assert np.mean(made.predict(images, verbose=0).argmax(1) == first) > 0.95


@pytest.mark.parametrize(
    "options, error, message",
    [
        ({"macs_target": 1}, UsageError, "below 1, .* macs_target=1. Give"),
        ({"parameters_target": 0}, UsageError, "parameters_target=0"),
        ({"macs_target": 0.001}, UsageError, "above 0.0.*macs_target=0.001"),
        (
            {"parameters_target": 0.0205, "epochs": 2, "verbose": 0},
            UsageError,
            "above 0.023.*parameters_target=0.0205",
        ),
        ({"only": ["3"]}, UsageError, r"two or more .* Received: \['3'\]"),
        ({"only": "38"}, UsageError, r"two or more .* Received: \['3', '8'\]"),
        ({"only": ["3", "x"]}, UsageError, r"Received: \['3', 'x'\]"),
        ({"class_names": ["a", "b"]}, UsageError, "must be 3 different names"),
        ({"epochs": 0}, UsageError, "must be whole numbers"),
        ({"images": 19}, UsageError, "learns from 20 images or more"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_wrong_calls_are_refused(strong, digits, options, error, message):
    options = dict(options)
    images = digits.train.images[: options.pop("images", 40)]
    with pytest.raises(error, match=message):
        slim(strong, images, **options)


def test_file_shrinks_to_its_target(strong, digits):
    made = slim(strong, digits, bytes_target=0.9, **ONCE)
    # Without the state of the optimiser, which the source's own file has.
    before = file_bytes(rebuild(channel_graph(strong)))
    assert file_bytes(made) <= 0.9 * before < file_bytes(strong)
    with pytest.raises(UsageError, match="bytes_target"):
        slim(strong, digits, bytes_target=0.01, **ONCE)


class Cut(keras.callbacks.Callback):
    """Cuts a training short behind some epochs, as Ctrl-C does."""

    def __init__(self, num_epochs):
        super().__init__()
        self.num_epochs = num_epochs

    def on_epoch_begin(self, epoch, logs=None):
        if epoch == self.num_epochs:
            raise KeyboardInterrupt


@pytest.mark.long
@pytest.mark.parametrize(
    ("num_epochs", "augment"),
    [
        pytest.param(1, False, id="cutting"),
        pytest.param(3, True, id="learning"),
    ],
)
def test_resumed_run_ends_as_one_that_ran_through(
    strong, digits, tmp_path, augment, num_epochs
):
    images = digits.train.images[:64]
    given = {**SHORT, "epochs": 4, "augment": augment}
    expected = slim(strong, images, **given)
    kept = {**given, "run_directory": tmp_path / "run"}
    with pytest.raises(KeyboardInterrupt):
        slim(strong, images, **kept, callbacks=[Cut(num_epochs)])
    keras.utils.set_random_seed(99)  # As another process would draw.
    made = slim(strong, images, **kept, resume=True)
    for own, other in zip(made.weights, expected.weights, strict=True):
        np.testing.assert_array_equal(own, other)
    assert made.composition.manifest == expected.composition.manifest
    # What is done is not done again.
    slim(strong, images, **kept, resume=True, callbacks=[Cut(num_epochs)])


def test_run_of_other_arguments_is_not_gone_on_with(strong, digits, tmp_path):
    images, run = digits.train.images[:64], tmp_path / "run"
    slim(strong, images, **ONCE, run_directory=run)
    with pytest.raises(UsageError, match="targets macs 0.4 instead of"):
        slim(
            *(strong, images),
            macs_target=0.4,
            **ONCE,
            run_directory=run,
            resume=True,
        )
    with pytest.raises(UsageError, match="different images"):
        slim(strong, images + 1, **ONCE, run_directory=run, resume=True)


def test_refused_target_leaves_no_run(strong, digits, tmp_path):
    with pytest.raises(UsageError, match="latency_target"):
        slim(
            *(strong, digits.train.images[:64]),
            latency_target=1e-6,
            **ONCE,
            run_directory=tmp_path / "run",
        )
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("macs_target", [0.05, 0.26])
def test_target_in_reach_is_not_refused(digits, macs_target):
    """Separable layers cost other than the product that is estimated."""
    layers = keras.layers
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            layers.Rescaling(1 / 255),
            layers.Conv2D(16, 3, padding="same", activation="relu"),
            layers.DepthwiseConv2D(3, activation="relu"),
            layers.SeparableConv2D(24, 3, activation="relu"),
            layers.Flatten(),
            layers.Dense(10, activation="softmax"),
        ]
    )
    model.compile("adam", "sparse_categorical_crossentropy")
    data = digits.train
    model.fit(data.images, data.labels, epochs=4, verbose=0)
    small = slim(
        model, data.images, only=["3", "8"], macs_target=macs_target, **ONCE
    )
    before = small.composition.manifest.slimmed["before"]["macs"]
    assert model_sizes(small).macs <= macs_target * before
