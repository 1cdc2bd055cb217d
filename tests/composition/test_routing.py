"""Two worlds: digits, and digits white on black."""

import dataclasses
import shutil

import keras
import numpy as np
import pytest
import yaml

from kmod.composition.composer import compose
from kmod.composition.plan import plan
from kmod.composition.routing import Evidence
from kmod.composition.routing import add_evidence
from kmod.composition.routing import add_unfamiliarity
from kmod.composition.routing import group_worlds
from kmod.composition.routing import is_fixed
from kmod.composition.routing import routed_scores
from kmod.composition.routing import routing_layers
from kmod.data.image_data import LabelledImages
from kmod.errors import ArtifactError
from kmod.errors import CheckError
from kmod.export.write import write_quantized
from kmod.graph import channel_graph
from kmod.graph import rebuild
from kmod.modular.modular_model import ModularModel
from kmod.modules.decompose import decompose
from kmod.modules.familiarity import Familiarity
from kmod.modules.image_statistics import SIZE
from kmod.modules.image_statistics import is_known
from kmod.modules.manifest import FAMILIARITY_FILE
from kmod.modules.manifest import write_store_manifest
from kmod.modules.module_store import load_store
from kmod.slimming.slim import slim
from kmod.spec.model import spec_data
from kmod.spec.spec_file import load_spec
from kmod.spec.spec_file import spec_text

SHAPES = {"rgb": (32, 32, 3), "grey": (8, 8, 1)}


def drawn(seed, num_classes=2):
    random = np.random.default_rng(seed)
    root = random.normal(size=(SIZE, SIZE)) / np.sqrt(SIZE)
    return Familiarity(
        tuple(map(str, range(num_classes))),
        random.normal(size=(num_classes, SIZE)).astype("float32"),
        (root @ root.T + np.eye(SIZE)).astype("float32"),
        np.linspace(10, 30, 1001).astype("float32"),
        1000,
    )


def layers_on(build, statistics):
    x = keras.Input((SIZE,))
    return keras.Model(x, build(x)).predict(statistics, verbose=0)


def evidence_on(statistics, *arguments):
    """Evidence of arrays."""
    x = keras.Input((SIZE,))
    evidence = add_evidence(x, *arguments)
    of_classes = layers_on(
        lambda x: add_evidence(x, *arguments).of_classes, statistics
    )
    return dataclasses.replace(evidence, of_classes=of_classes)


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_evidence_is_most_of_the_log_likelihood(shape):
    """Of grey images, that of what grey images have."""
    from scipy.stats import multivariate_normal

    both = drawn(0, 2), drawn(1, 3)
    statistics = np.random.default_rng(2).normal(size=(5, SIZE))
    found = evidence_on(statistics, both, [0, 1], shape).of_worlds
    known = is_known(shape)
    common = np.mean([each.covariance for each in both], axis=0)
    common = common[np.ix_(known, known)]
    expected = [
        np.logaddexp.reduce(
            [
                0.7
                * multivariate_normal(mean[known], common).logpdf(
                    statistics[:, known]
                )
                for mean in each.means
            ]
        )
        for each in both
    ]
    np.testing.assert_allclose(
        found[:, 0] - found[:, 1], expected[0] - expected[1], rtol=1e-3
    )


def test_route_by_hand():
    random = np.random.default_rng(0)
    log_odds = random.normal(0, 5, (6, 4)).astype("float32")
    of_classes = random.normal(0, 5, (6, 3)).astype("float32")
    columns = [{"a": 0, "b": 2}, {"c": 1}]
    evidence = Evidence(of_classes, [1, 0], columns)
    of_worlds = np.stack(
        [of_classes[:, 1], np.logaddexp(of_classes[:, 0], of_classes[:, 2])],
        axis=1,
    )
    np.testing.assert_allclose(evidence.of_worlds, of_worlds, rtol=1e-5)
    modules = [(0, "a"), (1, "c"), (0, "new"), (1, "c")]
    found = routed_scores(log_odds, evidence, modules)
    worlds = [1, 0, 1, 0]
    own = np.stack(
        [of_classes[:, 0], of_classes[:, 1], of_worlds[:, 1], of_classes[:, 1]],
        axis=1,
    )
    for column, world in enumerate(worlds):
        claims = np.logaddexp.reduce(
            log_odds[:, [c for c in range(4) if worlds[c] == world]], axis=1
        )
        expected = (
            log_odds[:, column]
            - 0.9 * np.logaddexp(0, claims)
            + 0.8 * of_worlds[:, world]
            + 0.2 * own[:, column]
        )
        np.testing.assert_allclose(
            found[:, column], expected, rtol=1e-4, atol=1e-4
        )


@pytest.mark.parametrize(
    ("names", "shift", "worlds"),
    [
        (("0", "1"), 0.0, [0, 0]),
        (("0", "x"), 0.0, [0, 0]),
        (("y", "x"), 0.0, [0, 1]),
        (("0", "1"), 2.0, [0, 1]),
    ],
    ids=["same", "half", "other-classes", "other-images"],
)
def test_sources_of_the_same_classes_and_images_are_one_world(
    names, shift, worlds
):
    first = drawn(0)
    second = dataclasses.replace(
        first, class_names=names, means=first.means + np.float32(shift)
    )
    assert group_worlds([first, second]) == worlds


def test_source_between_two_others_does_not_join_them():
    found = drawn(0)
    means = np.repeat(found.means[:1], 2, axis=0)
    first, between, last = (
        dataclasses.replace(found, class_names=names, means=means)
        for names in (("0", "1"), ("1", "2"), ("2", "3"))
    )
    assert group_worlds([first, between, last]) == [0, 0, 1]
    assert group_worlds([last, first, between]) == [0, 1, 0]
    assert group_worlds([first, last]) == [0, 1]
    assert group_worlds([first, between, first]) == [0, 0, 0]


def test_unfamiliarity_is_the_distance_beyond_the_threshold():
    both = drawn(0), drawn(1)
    statistics = np.random.default_rng(2).normal(size=(5, SIZE)) * 2
    found = layers_on(
        lambda x: add_unfamiliarity(x, both, (8, 8, 3), 0.1), statistics
    )
    expected = np.min(
        [
            (each.distance(statistics) - each.threshold(0.1)) / each.spread
            for each in both
        ],
        axis=0,
    )
    np.testing.assert_allclose(found[:, 0], expected, rtol=1e-3, atol=1e-3)


@pytest.fixture(scope="module")
def inverted(digits):
    """White digits on black ground become black ones on white."""
    parts = {
        split: LabelledImages(
            255 - getattr(digits, split).images, getattr(digits, split).labels
        )
        for split in ("train", "validation", "test")
    }
    return dataclasses.replace(digits, **parts)


@pytest.fixture(scope="module")
def worlds(strong, train, build_source, digits, inverted, tmp_path_factory):
    """Stores of both worlds, without familiarity and with it."""
    folder = tmp_path_factory.mktemp("worlds")
    other = train(build_source(seed=5, num_classes=3), inverted)
    found = {}
    for name, model, data in (
        ("white", strong, digits),
        ("black", other, inverted),
    ):
        modular = ModularModel(model, digits.class_names, mask_from="conv_3")
        held_out = data.validation.images, data.validation.labels
        own = data.train.images, data.train.labels
        path = folder / name
        store = decompose(modular, path, data=held_out, train=own)
        blind = shutil.copytree(path, folder / f"{name}-blind")
        (blind / FAMILIARITY_FILE).unlink()
        manifest = dataclasses.replace(store.manifest, familiarity=None)
        write_store_manifest(blind, manifest)
        found[name] = [load_store(blind), store]
    return found


@pytest.fixture
def write(worlds, digits, tmp_path):
    def write(is_familiar=True, **scores):
        data = {
            "version": 1,
            "name": "both",
            "stores": {name: {"path": f"{name}-store"} for name in worlds},
            "classes": [
                {"name": f"{world}-{c}", "module": {"store": world, "class": c}}
                for world in worlds
                for c in digits.class_names
            ],
            "scores": {"calibration": "stored", **scores},
        }
        for name, stores in worlds.items():
            link = tmp_path / f"{name}-store"
            link.unlink(missing_ok=True)
            link.symlink_to(stores[is_familiar].path)
        path = tmp_path / "spec.yaml"
        path.write_text(yaml.safe_dump(data))
        return path

    return write


@pytest.fixture(scope="module")
def both(digits, inverted):
    """Test images of both worlds, in the order of the classes."""
    return LabelledImages(
        np.concatenate([digits.test.images, inverted.test.images]),
        np.concatenate([digits.test.labels, inverted.test.labels + 3]),
    )


def right(model, images):
    answers = model.predict(images.images, verbose=0)
    return np.mean(answers.argmax(axis=1) == images.labels)


@pytest.mark.long
def test_familiarity_tells_worlds_apart(write, both):
    model, blind = compose(write()), compose(write(is_familiar=False))
    answers = model.predict(both.images, verbose=0)
    is_white = answers[:, :3].sum(axis=1)
    assert np.mean((is_white > 0.5) == (both.labels < 3)) > 0.99
    assert right(model, both) > right(blind, both) + 0.2
    manifest = model.composition.manifest
    assert manifest.calibration["routed"] is True
    assert "routed" not in blind.composition.manifest.calibration


@pytest.mark.long
def test_what_tells_worlds_apart_outlives_slimming(write, both):
    """It is known by the names of its layers, and no training changes it."""
    model = compose(write(other={"name": "none", "reject": 0.05}))
    made = slim(
        *(model, both.images),
        macs_target=0.95,
        learning_rate=0.02,
        epochs=2,
        verbose=0,
    )
    before, after = (
        {
            layer.name: layer.get_weights()
            for layer in rebuild(channel_graph(each)).layers
            if layer.get_weights()
        }
        for each in (model, made)
    )
    fixed = [name for name in before if is_fixed(name)]
    rest = [name for name in before if not is_fixed(name)]
    of_sources = "conv", "logits", "calibration", "raw"
    assert all(any(w in name for w in of_sources) for name in rest), set(rest)
    assert any("to_means" in name for name in fixed), set(fixed)
    for name in fixed:
        for old, new in zip(before[name], after[name], strict=True):
            np.testing.assert_array_equal(old, new)
    answers = made.predict(both.images, verbose=0)
    is_white = answers[:, :3].sum(axis=1) > answers[:, 3:6].sum(axis=1)
    assert np.mean(is_white == (both.labels < 3)) > 0.97


@pytest.mark.long
def test_eight_bits_leave_what_tells_worlds_apart(write, both, tmp_path):
    model = compose(write())
    images = np.random.default_rng(0).permutation(both.images)
    given = model, model.class_names, tmp_path / "a.tflite", "int8"
    given = *given, images.astype("float32"), 0.5
    layers = routing_layers(model)
    assert write_quantized(*given, layers)["agreement"] > 0.97
    # Its scores reach too far for eight bits, and LiteRT may not even start.
    with pytest.raises(CheckError, match="Quantize as `dynamic`"):
        write_quantized(*given)


def test_one_world_is_quantized_whole(strong, store_of):
    store = store_of(strong, ("3", "8", "9"))
    model = keras.Model(strong.input, strong.output)
    assert routing_layers(model) == []
    assert routing_layers(store["3"].model) == []


def test_within_a_source_modules_decide(write, both):
    """The evidence for classes changes few answers."""
    own, alone = (
        compose(write(is_familiar, output="logits"))
        .predict(both.images, verbose=0)[:, :3]
        .argmax(axis=1)[both.labels < 3]
        for is_familiar in (True, False)
    )
    labels = both.labels[both.labels < 3]
    assert np.mean(own == alone) > 0.9
    assert np.mean(own == labels) > np.mean(alone == labels) - 0.05


def test_plan_says_whether_worlds_are_told_apart(write):
    assert plan(load_spec(write())).is_routed
    assert not plan(load_spec(write())).warnings
    planned = plan(load_spec(write(is_familiar=False)))
    assert not planned.is_routed and len(planned.warnings) == 2


def test_familiarity_can_be_left_out(write, both):
    spec = load_spec(write(familiarity=False))
    planned = plan(spec)
    assert not planned.is_routed
    (warning,) = planned.warnings
    assert "may be sure of each other's images. Leave it out" in warning
    model, blind = compose(spec), compose(write(is_familiar=False))
    found, expected = (
        each.predict(both.images, verbose=0) for each in (model, blind)
    )
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert "familiarity: false" in spec_text(spec_data(spec), spec.path)


@pytest.mark.parametrize(
    "other", [{"reject": 0.05}, {"reject": 0.05, "threshold": 0.01}]
)
def test_images_of_no_world_are_rejected(write, both, other):
    model = compose(write(other={"name": "none", **other}))
    assert model.class_names[-1] == "none"
    answers = model.predict(both.images, verbose=0).argmax(axis=1)
    assert np.mean(answers == 6) < 0.15
    noise = np.random.default_rng(0).uniform(0, 255, (40, 8, 8, 1))
    answers = model.predict(noise, verbose=0).argmax(axis=1)
    assert np.all(answers == 6)


def test_rejection_takes_a_familiarity(write):
    path = write(is_familiar=False, other={"name": "none", "reject": 0.05})
    with pytest.raises(ArtifactError, match="`reject` takes the familiarity"):
        compose(path)


@pytest.mark.long
@pytest.mark.parametrize("calibration", ["fit", "joint"])
def test_labels_go_on_from_familiarity(
    write, both, digits, inverted, calibration
):
    few = LabelledImages(
        np.concatenate(
            [digits.validation.images[:12], inverted.validation.images[:12]]
        ),
        np.concatenate(
            [digits.validation.labels[:12], inverted.validation.labels[:12] + 3]
        ),
    )
    data = {"name": "in-memory", "split": "validation"}
    scores = {"calibration": calibration, "data": data}
    model, blind = (
        compose(write(is_familiar, **scores), data=few)
        for is_familiar in (True, False)
    )
    assert right(model, both) > right(compose(write()), both) - 0.1
    assert right(model, both) > right(blind, both)


def test_shares_are_found_without_labels(write, both):
    """Three in four images are black digits on white."""
    kept = np.flatnonzero(
        (both.labels >= 3) | (np.arange(len(both.labels)) % 3 == 0)
    )
    uneven = both.take(kept)
    data = {"name": "in-memory", "split": "validation"}
    model = compose(
        write(calibration="unlabelled", data=data), data=uneven.images
    )
    shares = model.composition.manifest.calibration["class_shares"]
    assert sum(shares.values()) == pytest.approx(1)
    white = sum(share for name, share in shares.items() if "white" in name)
    assert white == pytest.approx(np.mean(uneven.labels < 3), abs=0.03)
    assert right(model, uneven) > right(compose(write()), uneven) - 0.01
    changes = np.log(6 * np.array(list(shares.values())))
    shift = model.get_layer("log_odds").offset
    np.testing.assert_allclose(shift, changes, rtol=1e-6)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (np.arange(59 * 64).reshape(59, 8, 8, 1) % 256, "10 images for each"),
        (
            np.random.default_rng(0).uniform(0, 255, (60, 8, 8, 1)),
            "100% of 60 images are less familiar",
        ),
    ],
    ids=["few", "unlike"],
)
def test_unlabelled_images_that_tell_nothing_are_refused(
    write, images, message
):
    data = {"name": "in-memory", "split": "validation"}
    path = write(calibration="unlabelled", data=data)
    with pytest.raises(ArtifactError, match=message):
        compose(path, data=images.astype("float32"))
