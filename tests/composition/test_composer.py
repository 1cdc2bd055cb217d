import os

import keras
import numpy as np
import pytest

from kmod.composition.composer import build_parts
from kmod.composition.composer import compose
from kmod.composition.composer import compose_plan
from kmod.composition.lock import lock_data
from kmod.composition.patched_model import Patch
from kmod.composition.patched_model import build_patched
from kmod.composition.plan import plan
from kmod.data.load import load_data
from kmod.errors import ArtifactError
from kmod.errors import CheckError
from kmod.errors import IntegrityError
from kmod.errors import UsageError
from kmod.graph import channel_graph
from kmod.graph import rebuild
from kmod.graph.sharing import merge_models
from kmod.modules.cut import log_odds_model
from kmod.spec.model import IN_MEMORY
from kmod.spec.spec_file import load_spec

ALL = tuple((name, "a", name) for name in ("cat", "dog", "T-shirt/top", "no"))
MIXED = (("dog", "b", "cat"), ("cat", "a", "cat"), ("bag", "a", "no"))


def softmax_of(modules, images, calibrated=True):
    """What the spec means, computed module by module."""
    columns = []
    for module in modules:
        model = log_odds_model(module.model)
        if not calibrated:
            model = keras.Model(model.input, model.layers[-1].input)
        columns.append(model.predict(images, verbose=0))
    scores = np.concatenate(columns, axis=1)
    powers = np.exp(scores - scores.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


@pytest.mark.parametrize("classes", [ALL, MIXED], ids=["one-store", "mixed"])
@pytest.mark.parametrize("calibration", ["stored", "none"])
def test_answers_are_those_of_the_modules(
    stores, write_spec, images, classes, calibration
):
    model = compose(write_spec(classes, scores={"calibration": calibration}))
    expected = softmax_of(
        [stores[store][module] for _, store, module in classes],
        images,
        calibrated=calibration == "stored",
    )
    answers = model.predict(images, verbose=0)
    np.testing.assert_allclose(answers, expected, rtol=0, atol=1e-5)
    assert answers.dtype == "float32"
    assert model.class_names == tuple(name for name, *_ in classes)


def merged(path):
    """The composed model's scores as they are before they are fused."""
    return keras.Model(*merge_models(build_parts(plan(load_spec(path)))))


def test_answers_are_those_before_fusion(write_spec, images):
    path = write_spec(ALL)
    scores = merged(path).predict(images, verbose=0)
    fused = compose(path)
    log_odds = keras.Model(fused.input, fused.get_layer("log_odds").output)
    np.testing.assert_allclose(
        log_odds.predict(images, verbose=0),
        np.concatenate(list(scores.values()), axis=1),
        rtol=0,
        atol=1e-5,
    )
    assert len(fused.layers) < len(merged(path).layers)


def test_branches_are_one_wide_layer(write_spec):
    model = compose(write_spec(ALL))
    assert model.get_layer("all_conv_3")
    assert not any("norm" in layer.name for layer in model.layers)


def test_stem_is_built_once(stores, write_spec):
    model = merged(write_spec(ALL))
    names = [layer.name for layer in model.layers]
    assert "shared_conv_1" in names and "shared_conv_2" in names
    assert "t-shirt-top_conv_3" in names
    modules = [stores["a"][name].model for name, *_ in ALL]
    shared = sum(
        layer.count_params()
        for layer in model.layers
        if layer.name.startswith("shared")
    )
    total = sum(module.count_params() for module in modules)
    assert shared > 0
    assert model.count_params() == total - shared * (len(ALL) - 1)


def test_modules_of_different_sources_share_nothing(stores, write_spec):
    classes = (("cat", "a", "cat"), ("dog", "b", "dog"))
    model = merged(write_spec(classes))
    total = sum(
        stores[store][name].model.count_params() for name, store, _ in classes
    )
    assert model.count_params() == total


def test_input_and_output_are_named(write_spec):
    model = compose(write_spec())
    assert model.name == "pets"
    assert model.inputs[0].name == "image"
    assert model.layers[-1].name == "probabilities"
    assert model.layers[-2].name == "log_odds"
    assert model.layers[-2].output.shape == (None, 2)


def test_damaged_module(stores, write_spec):
    path = write_spec()
    file = stores["a"].path / "cat" / "assets.extra" / "module.keras"
    content = file.read_bytes()
    try:
        file.write_bytes(content[:-1] + b"x")
        with pytest.raises(IntegrityError, match="has other bytes"):
            compose(path)
    finally:
        file.write_bytes(content)


def test_base_must_take_the_images_of_the_spec(write_spec):
    path = write_spec(
        classes=(),
        base={"path": "flat.keras", "classes": ["cat", "dog"]},
        patches=[{"class": "cat", "module": {"store": "a", "class": "cat"}}],
    )
    image = keras.Input((8, 8))
    scores = keras.layers.Dense(2)(keras.layers.Flatten()(image))
    keras.Model(image, scores).save(path.parent / "flat.keras")
    with pytest.raises(ArtifactError, match="Received: images of \\(8, 8\\) f"):
        compose(path)


def test_base_must_have_the_classes_of_the_spec(write_spec, weak):
    path = write_spec(
        classes=(),
        base={"path": "weak.keras", "classes": ["cat", "dog"]},
        patches=[{"class": "cat", "module": {"store": "a", "class": "cat"}}],
    )
    weak.save(path.parent / "weak.keras")
    with pytest.raises(ArtifactError, match="names 2 classes of its base"):
        compose(path)


def test_patch_without_layer_asks_the_module_alone(
    weak, donor, digits, tmp_path
):
    weak.save(tmp_path / "weak.keras")
    path = tmp_path / "spec.yaml"
    path.write_text(
        "version: 1\n"
        "name: p\n"
        f"stores: {{d: {{path: {os.path.relpath(donor.path, tmp_path)}}}}}\n"
        "base: {path: weak.keras, classes: [a, b, c]}\n"
        "patches: [{class: b, module: {store: d, class: 8}}]\n"
    )
    model = compose(path)
    images = digits.test.images[:20].astype("float32")
    logits = rebuild(channel_graph(weak))
    expected = build_patched(logits, [Patch(1, donor["8"])])
    np.testing.assert_allclose(
        model.predict(images, verbose=0),
        expected.predict(images, verbose=0),
        rtol=0,
        atol=1e-6,
    )
    assert model.class_names == ("a", "b", "c")


def test_any_of_gets_what_its_modules_would_get(stores, write_spec, images):
    apart = compose(write_spec(MIXED)).predict(images, verbose=0)
    path = write_spec(
        classes=(),
        classes_=[
            {
                "name": "pet",
                "any_of": [
                    {"store": "b", "class": "cat"},
                    {"store": "a", "class": "cat"},
                ],
            },
            {"name": "bag", "module": {"store": "a", "class": "no"}},
        ],
    )
    model = compose(path)
    together = model.predict(images, verbose=0)
    assert model.class_names == ("pet", "bag")
    expected = np.stack([apart[:, 0] + apart[:, 1], apart[:, 2]], axis=1)
    np.testing.assert_allclose(together, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("threshold", [0.05, 0.3, 0.9])
def test_other_class_is_chosen_below_the_threshold(
    stores, write_spec, images, threshold
):
    other = {"name": "none", "threshold": threshold}
    model = compose(write_spec(MIXED, scores={"other": other}))
    assert model.class_names == ("dog", "cat", "bag", "none")
    claims = np.concatenate(
        [
            stores[store][module].model.predict(images, verbose=0)
            for _, store, module in MIXED
        ],
        axis=1,
    )
    answers = model.predict(images, verbose=0)
    expected = np.where(
        claims.max(axis=1) >= threshold, claims.argmax(axis=1), len(MIXED)
    )
    np.testing.assert_array_equal(answers.argmax(axis=1), expected)
    np.testing.assert_allclose(answers.sum(axis=1), 1, atol=1e-6)
    if threshold != 0.3:
        assert (threshold == 0.9) == (expected == 3).any()


def test_logits_are_those_in_front_of_the_softmax(write_spec, images):
    scores = {"output": "logits"}
    logits = compose(write_spec(MIXED, scores=scores))
    assert logits.layers[-1].name == "log_odds"
    inner = compose(write_spec(MIXED))
    inner = keras.Model(inner.input, inner.get_layer("log_odds").output)
    np.testing.assert_array_equal(
        logits.predict(images, verbose=0), inner.predict(images, verbose=0)
    )


def test_equal_answers_go_to_the_first_class(write_spec, images):
    twins = (("dog", "a", "cat"), ("cat", "a", "no"), ("bag", "a", "no"))
    answers = compose(write_spec(twins)).predict(images, verbose=0)
    np.testing.assert_array_equal(answers[:, 1], answers[:, 2])
    assert 2 not in answers.argmax(axis=1)
    assert 1 in answers.argmax(axis=1)


def test_same_module_twice_is_built_once(stores, write_spec):
    twins = (("cat", "a", "cat"), ("bag", "a", "cat"))
    model = merged(write_spec(twins))
    module = stores["a"]["cat"].model
    assert model.count_params() == module.count_params()
    assert compose(write_spec(twins)).count_params() < module.count_params()


def test_adapters_are_inside_and_built_once(stores, write_spec, images):
    path = write_spec(
        MIXED, input={"shape": [16, 16, 3], "range": [-1, 1], "size": "resize"}
    )
    model = compose(path)
    assert model.input_shape == (None, 16, 16, 3)
    names = [layer.name for layer in model.layers]
    adapters = sorted(name for name in names if "adapter" in name)
    assert adapters == [
        "shared_adapter_grey",
        "shared_adapter_pool",
        "shared_adapter_rescale",
    ]
    large = np.repeat(np.repeat(images, 2, axis=1), 2, axis=2)
    large = np.repeat(large, 3, axis=3) / 127.5 - 1
    expected = compose(write_spec(MIXED)).predict(images, verbose=0)
    answers = model.predict(large, verbose=0)
    np.testing.assert_allclose(answers, expected, rtol=0, atol=1e-4)


def test_parts_add_up_to_what_is_shared(write_spec):
    planned = plan(load_spec(write_spec(ALL)))
    model, parts = compose_plan(planned), dict(build_parts(planned))
    assert list(parts) == ["cat", "dog", "t-shirt-top", "no"]
    assert sum(part.count_params() for part in parts.values()) > (
        model.count_params()
    )


@pytest.fixture
def digit_spec(donor, tmp_path):
    """Writes a spec of the digits 3 and 8 of the donor."""

    def write(more):
        path = tmp_path / "digits.yaml"
        store = os.path.relpath(donor.path, tmp_path)
        path.write_text(
            "version: 1\n"
            "name: d\n"
            f"stores: {{d: {{path: {store}}}}}\n"
            "classes:\n"
            "  - {name: 3, module: {store: d, class: 3}}\n"
            "  - {name: 8, module: {store: d, class: 8}}\n" + more
        )
        return path

    return write


def test_fit_calibrates_on_images_by_name(digit_spec, donor):
    path = digit_spec(
        "scores:\n"
        "  calibration: fit\n"
        "  data: {name: digits, split: validation}\n"
        "  images_per_class: 10\n"
    )
    model = compose(path)
    data = load_data("digits").validation
    images, labels = data.images, data.labels
    inner = keras.Model(model.input, model.get_layer("log_odds").output)
    log_odds = inner.predict(images, verbose=0)
    for index, digit in enumerate((3, 8)):
        raw = log_odds_model(donor[str(digit)].model)
        raw = raw.predict(images, verbose=0)[:, 0]
        line = np.polyfit(raw, log_odds[:, index], 1)
        np.testing.assert_allclose(
            np.polyval(line, raw), log_odds[:, index], rtol=0, atol=1e-4
        )
        # The donor was calibrated on nothing; now it knows it is one in ten.
        before, after = (
            np.mean(np.logaddexp(0, np.where(labels == digit, -s, s)))
            for s in (raw, log_odds[:, index])
        )
        assert after < before
    again = compose(path).predict(images[:5], verbose=0)
    np.testing.assert_array_equal(again, model.predict(images[:5], verbose=0))


def test_joint_scores_are_one_layer_over_the_modules(digit_spec, donor):
    data = load_data("digits").validation
    part = "data: {name: digits, split: validation}}\n"
    model = compose(digit_spec("scores: {calibration: joint, " + part))
    own = np.isin(data.labels, (3, 8))
    images, labels = data.images[own], data.labels[own]
    evidence = np.concatenate(
        [
            log_odds_model(donor[digit].model).predict(images, verbose=0)
            for digit in "38"
        ],
        axis=1,
    )
    inner = keras.Model(model.input, model.get_layer("log_odds").output)
    log_odds = inner.predict(images, verbose=0)
    inputs = np.column_stack([evidence, np.ones(len(images))])
    weights, *_ = np.linalg.lstsq(inputs, log_odds, rcond=None)
    np.testing.assert_allclose(inputs @ weights, log_odds, rtol=0, atol=1e-4)
    # Each module says something of the other's class, too.
    assert weights[0, 0] > 0 > weights[0, 1]
    assert weights[1, 1] > 0 > weights[1, 0]
    assert np.mean((log_odds.argmax(axis=1) == 1) == (labels == 8)) > 0.9


def test_supporting_scores_count_in_the_layer(digit_spec, donor):
    data = load_data("digits").validation
    part = "data: {name: digits, split: validation}"
    auxiliary = ", auxiliary: [{store: d, class: 9}]"
    found = {}
    for more in ("", auxiliary):
        path = digit_spec("scores: {calibration: joint, " + part + more + "}\n")
        model = compose(path)
        inner = keras.Model(model.input, model.get_layer("log_odds").output)
        found[more] = inner.predict(data.images, verbose=0)
    evidence = np.concatenate(
        [
            log_odds_model(donor[digit].model).predict(data.images, verbose=0)
            for digit in "389"
        ],
        axis=1,
    )
    inputs = np.column_stack([evidence, np.ones(len(data.images))])
    weights, *_ = np.linalg.lstsq(inputs, found[auxiliary], rcond=None)
    np.testing.assert_allclose(
        inputs @ weights, found[auxiliary], rtol=0, atol=1e-4
    )
    assert np.abs(weights[2]).max() > 0.01
    assert np.abs(found[auxiliary] - found[""]).max() > 0.01


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        ("{name: 3, module: {store: d, class: 8}}", r"none of \['b'\]"),
        ("{name: a, module: {store: d, class: 8}}", "must show classes of"),
    ],
)
def test_fit_needs_images_of_every_class(digit_spec, classes, message):
    path = digit_spec(
        "scores: {calibration: fit, data: {name: digits, split: test}}\n"
    )
    text = path.read_text()
    text = text.replace("{name: 3, module: {store: d, class: 3}}", classes)
    path.write_text(text.replace("name: 8", "name: b"))
    with pytest.raises(ArtifactError, match=message):
        compose(path)


def test_fit_on_several_data_sets(digit_spec, donor):
    def log_odds(data):
        text = f"scores: {{calibration: fit, data: {data}}}\n"
        model = compose(digit_spec(text))
        inner = keras.Model(model.input, model.get_layer("log_odds").output)
        return inner.predict(load_data("digits").test.images[:20], verbose=0)

    one, other = "{name: digits, split: test}", "{name: digits, split: train}"
    apart = log_odds(one), log_odds(other)
    both = log_odds(f"[{one}, {other}]")
    for answers in apart:
        assert np.abs(both - answers).max() > 1e-3
    np.testing.assert_array_equal(log_odds(f"[{one}]"), apart[0])


def test_checks_are_run(digit_spec):
    check = "{metric: accuracy, min: %s, data: {name: digits, split: test}}"
    compose(digit_spec(f"checks: [{check % 0.5}]\n"))
    with pytest.raises(CheckError, match="accuracy on digits:test is 0.9"):
        compose(digit_spec(f"checks: [{check % 1}]\n"))


SHARES = {"cat": 0.1, "dog": 0.2, "T-shirt/top": 0.3, "no": 0.4}
PETS = [
    {"name": "bag", "module": {"store": "u", "class": "no"}},
    {
        "name": "pet",
        "any_of": [
            {"store": "u", "class": "cat"},
            {"store": "u", "class": "dog"},
        ],
    },
]


def logit(share):
    return np.log(share / (1 - share))


def log_odds_of(model, images):
    inner = keras.Model(model.input, model.get_layer("log_odds").output)
    return inner.predict(images, verbose=0)


@pytest.mark.parametrize(
    ("prior", "wanted"),
    [
        pytest.param(None, None, id="default"),
        pytest.param("even", None, id="even"),
        pytest.param("calibrated", SHARES, id="calibrated"),
        pytest.param(
            {"bag": 0.3, "pet": 0.7},
            {"no": 0.3, "cat": 0.35, "dog": 0.35},
            id="own",
        ),
    ],
)
def test_frequencies_are_taken_off_and_put_in(
    uneven, write_spec, images, prior, wanted
):
    path = write_spec(
        classes_=PETS,
        stores={"u": {"path": f"../{uneven.path.name}"}},
        scores={"prior": prior} if prior else None,
    )
    planned = plan(load_spec(path))
    scores = {}
    level = np.mean([logit(SHARES[name]) for name in ("no", "cat", "dog")])
    for name in ("no", "cat", "dog"):
        model = log_odds_model(uneven[name].model)
        goal = logit(wanted[name]) if wanted else level
        scores[name] = model.predict(images, verbose=0)[:, 0]
        scores[name] += goal - logit(SHARES[name])
    expected = np.stack(
        [scores["no"], np.logaddexp(scores["cat"], scores["dog"])], axis=1
    )
    model = compose_plan(planned)
    found = log_odds_of(model, images)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)
    named = prior or "even"
    assert model.composition.manifest.calibration["prior"] == named
    assert lock_data(planned)["prior"] == named
    shifts = [s.get("shift", 0) for s in model.composition.manifest.sources]
    assert any(shifts) == (named != "calibrated")


def test_images_in_python_are_as_those_by_name(digit_spec, images, ten_digits):
    path = digit_spec(
        "scores: {calibration: joint, prior: {3: 0.2, 8: 0.8}, "
        "images_per_class: 10, data: {name: digits, split: validation}}\n"
    )
    model = compose(path, data=ten_digits)
    found, expected = (log_odds_of(m, images) for m in (model, compose(path)))
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)
    assert model.composition.manifest.calibration == {
        "kind": "joint",
        "prior": {"3": 0.2, "8": 0.8},
        "num_images": 100,
        "class_images": {"3": 10, "8": 10},
    }
    # What it is saved with says that no file holds these images.
    assert model.composition.plan.spec.scores.data == (IN_MEMORY,)


def test_checks_take_images_in_python(digit_spec, ten_digits):
    check = "{metric: accuracy, min: %s, data: {name: pets, split: test}}"
    own = np.isin(ten_digits.test.labels, (3, 8))
    images, labels = ten_digits.test.images[own], ten_digits.test.labels[own]
    given = {"pets:test": (images, (labels == 8).astype(int))}
    compose(digit_spec(f"checks: [{check % 0.5}]\n"), data=given)
    with pytest.raises(CheckError, match="accuracy on pets:test is 0"):
        compose(digit_spec(f"checks: [{check % 1}]\n"), data=given)


@pytest.mark.parametrize(
    ("scores", "data", "message"),
    [
        pytest.param(
            "{calibration: stored}",
            ("images", "labels"),
            "`data` calibrates the scores of a spec of `calibration: "
            "unlabelled`, `fit` or `joint`",
            id="not-fitted",
        ),
        pytest.param(
            "{calibration: fit, data: {name: pets, split: train}}",
            {"pets:test": None},
            r"Accepted: \['pets:train'\]. Received: \['pets:test'\]",
            id="another-name",
        ),
        pytest.param(
            "{calibration: fit, data: {name: in-memory, split: train}}",
            None,
            "Received: 'in-memory:train' without them. Give them as",
            id="none",
        ),
        pytest.param(
            "{calibration: fit, data: {name: pets, split: train}}",
            (np.linspace(0, 1, 128).reshape(2, 8, 8, 1), np.array([0, 1])),
            r"value_range=\(0, 255\) and float64 images with values from 0 to",
            id="another-range",
        ),
    ],
)
def test_images_in_python_must_fit_the_spec(digit_spec, scores, data, message):
    path = digit_spec(f"scores: {scores}\n")
    with pytest.raises((ArtifactError, UsageError), match=message):
        compose(path, data=data)
