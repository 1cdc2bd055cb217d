import dataclasses

import keras
import numpy as np
import pytest

from kmod.composition import distillation
from kmod.composition import teaching
from kmod.composition.checks import run_tests
from kmod.composition.composer import compose
from kmod.composition.composition_manifest import read_composition_manifest
from kmod.composition.distillation import distil
from kmod.composition.saving import load
from kmod.composition.saving import save
from kmod.data.image_data import UnlabelledImages
from kmod.errors import ArtifactError
from kmod.errors import UsageError
from kmod.graph.sizes import model_sizes
from kmod.metrics.evaluate import evaluate
from kmod.spec.spec_file import write_spec
from kmod.zoo.build import build

SHORT = {"epochs": 8, "batch_size": 16, "learning_rate": 0.01, "verbose": 0}


def network(num_classes=3, activation="softmax", shape=(8, 8, 1)):
    """A student of one's own, smaller than the source."""
    keras.utils.set_random_seed(0)
    return keras.Sequential(
        [
            keras.Input(shape),
            keras.layers.Rescaling(1 / 255),
            keras.layers.Conv2D(8, 3, activation="relu"),
            keras.layers.Dropout(0.05),
            keras.layers.Flatten(),
            keras.layers.Dense(num_classes, activation),
        ],
        name="own",
    )


@pytest.fixture(scope="module")
def write_digits(donor, tmp_path_factory):
    """Writes a spec of all digits of the donor."""

    def write(**changes):
        path = tmp_path_factory.mktemp("specs") / "spec.yaml"
        classes = [
            {"name": name, "module": {"store": "digits", "class": name}}
            for name in donor.class_names
        ]
        data = {
            "version": 1,
            "name": "digits",
            "stores": {"digits": {"path": donor.path}},
            "classes": classes,
            **changes,
        }
        return write_spec(data, path)

    return write


@pytest.fixture(scope="module")
def composed(write_digits):
    return compose(write_digits())


@pytest.fixture(scope="module")
def student(composed, digits):
    return distil(composed, digits.train.images, network(), **SHORT)


def shares(model, other, images):
    """How often two models answer alike."""
    first, second = (
        each.predict(images, verbose=0).argmax(axis=1)
        for each in (model, other)
    )
    return np.mean(first == second)


def test_student_answers_as_its_composition(student, composed, digits):
    images = digits.test.images
    assert shares(student, composed, images) > 0.85
    assert evaluate(student, digits.test).accuracy > 0.8
    assert student.class_names == composed.class_names
    scores = student.predict(images, verbose=0)
    np.testing.assert_allclose(scores.sum(axis=1), 1, atol=1e-5)


def test_student_of_shuffled_answers_knows_nothing(
    composed, digits, monkeypatch
):
    genuine = teaching.Teacher.answers
    random = np.random.default_rng(0)
    monkeypatch.setattr(
        teaching.Teacher,
        "answers",
        lambda *given: random.permutation(genuine(*given)),
    )
    made = distil(composed, digits.train.images, network(), **SHORT)
    assert shares(made, composed, digits.test.images) < 0.6


def test_own_network_stays_as_it_is(composed, digits):
    own = network()
    before = own.get_weights()
    distil(composed, digits.train.images[:40], own, epochs=1, verbose=0)
    for old, new in zip(before, own.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


def test_saved_student_says_what_it_learned_from(student, composed, tmp_path):
    save(student, tmp_path / "out", formats=["keras"], metrics={"x": 1})
    manifest = read_composition_manifest(tmp_path / "out")
    before = composed.composition.manifest
    assert manifest.sources == before.sources
    assert manifest.student["architecture"] == "own"
    assert manifest.student["num_images"] == 308
    assert manifest.student["num_held_out"] == 35
    assert manifest.student["agreement"] > 0.8
    assert manifest.sizes["parameters"] == model_sizes(student).parameters
    assert (tmp_path / "out" / "spec.yaml").is_file()
    card = (tmp_path / "out" / "README.md").read_text()
    assert "distilled: one network (own)" in card
    assert "308 unlabelled images" in card
    outcomes = {each.outcome for each in run_tests(tmp_path / "out")}
    assert outcomes == {"passed"}
    loaded = load(tmp_path / "out")
    assert loaded.class_names == composed.class_names


def test_loaded_composition_is_a_teacher_as_well(composed, digits, tmp_path):
    save(composed, tmp_path / "out", formats=["keras"])
    loaded = load(tmp_path / "out")
    images = UnlabelledImages(digits.train.images[:60], (0.0, 255.0), "few")
    made = distil(loaded, images, network(), epochs=1, verbose=0)
    save(made, tmp_path / "student", formats=["keras"])
    manifest = read_composition_manifest(tmp_path / "student")
    assert manifest.student["data"] == "few"
    assert not (tmp_path / "student" / "spec.yaml").exists()


def test_student_answers_with_what_its_composition_does(write_digits, digits):
    raw = compose(write_digits(scores={"output": "logits"}))
    images = digits.train.images
    made = distil(raw, images, network(activation=None), **SHORT)
    assert made.predict(images[:8], verbose=0).min() < 0
    assert shares(made, raw, digits.test.images) > 0.85


def test_mixed_precision_leaves_the_student_in_full(composed, digits):
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        made = distil(
            composed,
            digits.train.images[:40],
            augment=True,
            epochs=1,
            verbose=0,
        )
    finally:
        keras.config.set_dtype_policy("float32")
    assert made.composition.manifest.student["architecture"] == "rescnn"
    assert {layer.compute_dtype for layer in made.layers[1:]} == {"float32"}


@pytest.mark.parametrize("num_sources", [1, 2])
def test_small_student_costs_about_one_source(composed, num_sources):
    manifest = composed.composition.manifest
    sources = [{"source": name} for name in "abc"[:num_sources]]
    manifest = dataclasses.replace(manifest, sources=sources)
    large = build("simcnn", (8, 8, 1), 3, width=2)
    _, small = distillation._of_zoo("small", large, manifest)
    ratio = model_sizes(small).macs / model_sizes(large).macs
    assert ratio == pytest.approx(1 / num_sources, rel=0.05)


def test_same_seed_gives_the_same_student(composed, digits):
    images = digits.train.images[:60]
    first, again = (
        distil(composed, images, network(), epochs=1, verbose=0)
        for _ in range(2)
    )
    for one, other in zip(first.get_weights(), again.get_weights()):
        np.testing.assert_allclose(one, other, atol=1e-5)


@pytest.mark.parametrize(
    "make, error, message",
    [
        (
            lambda: network(4),
            ArtifactError,
            r"one output for each class .*, 3\. Received: 'own' .*\(None, 4\)",
        ),
        (
            lambda: network(shape=(16, 16, 1)),
            ArtifactError,
            r"of shape \(8, 8, 1\). Received: 'own', which takes \(16, 16, 1\)",
        ),
        (
            lambda: network(activation="sigmoid"),
            ArtifactError,
            "logits or softmax probabilities. Received: .* with sigmoid",
        ),
        (lambda: "tiny", UsageError, "`student` must be 'small', one of"),
    ],
    ids=["classes", "images", "sigmoid", "name"],
)
def test_students_that_do_not_fit(composed, digits, make, error, message):
    with pytest.raises(error, match=message):
        distil(composed, digits.train.images, make())


@pytest.mark.parametrize(
    "options, message",
    [
        ({"epochs": 0}, "`epochs` and `batch_size` must be whole numbers"),
        ({"temperature": 0}, "must be above 0. Received: .*temperature=0"),
        ({"images": 19}, "learns from 20 images or more.*Received: 19 images"),
        ({"model": None}, "must be what `kmod.compose`, `kmod.patch` or"),
    ],
    ids=["epochs", "temperature", "few", "model"],
)
def test_wrong_calls_are_refused(composed, digits, strong, options, message):
    options = dict(options)
    images = digits.train.images[: options.pop("images", 40)]
    model = composed if options.pop("model", True) else strong
    with pytest.raises(UsageError, match=message):
        distil(model, images, network(), **options)


def test_no_images_are_refused(composed, digits):
    with pytest.raises(ValueError, match="at least one. Received: .*0, 8, 8"):
        distil(composed, digits.train.images[:0])


def test_checks_of_the_composition_are_not_those_of_the_student(
    composed, digits
):
    manifest = dataclasses.replace(
        composed.composition.manifest, metrics={"checks": [1], "x": 2}
    )
    found = distillation._manifest_of_student(manifest, {})
    assert found.metrics == {"x": 2}
