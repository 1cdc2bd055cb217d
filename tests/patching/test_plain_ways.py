import keras
import numpy as np
import pytest

from kmod.composition import plain_ways as plain
from kmod.composition.plain_ways import evaluate_ways
from kmod.graph import channel_graph
from kmod.graph import rebuild
from kmod.graph.sizes import model_sizes
from kmod.metrics.evaluate import evaluate
from kmod.modules.adaptation import Adaptation
from kmod.patching.donors import Donor
from kmod.patching.plain_ways import plain_ways

NAMES = ("3", "8", "9")


def tried(weak, donor, digits, names=NAMES, shown=slice(None), others=()):
    images = digits.validation.take(np.arange(len(digits.validation))[shown])
    best, *others = map(Donor, (donor, *others))
    ways = plain_ways(
        rebuild(channel_graph(weak)),
        dict.fromkeys([*others, best], Adaptation()),
        [best],
        images.images,
        images.labels,
        names,
        [1],
    )
    return {way.name: way for way in ways}


@pytest.fixture(scope="module")
def ways(weak, donor, digits):
    return tried(weak, donor, digits)


def test_models_do_on_test_images_what_was_measured(ways, weak, digits):
    found = {
        name: evaluate(way.model, digits.test, NAMES)
        for name, way in ways.items()
    }
    for name, way in ways.items():
        assert found[name].accuracy == pytest.approx(
            way.evaluation.accuracy, abs=0.12
        )
    images = digits.test.images, digits.test.labels
    together = evaluate_ways(list(ways.values()), *images)
    for each, own in zip(together, found.values()):
        np.testing.assert_array_equal(each.confusion, own.confusion)
    before = evaluate(weak, digits.test, NAMES)
    same = found["weak model"].confusion == before.confusion
    assert same.all()
    for name in ("last layer fitted again", "regression on both"):
        assert found[name].f1[1] > before.f1[1] + 0.3
        assert ways[name].num_labelled == len(digits.validation)
    assert ways["weak model"].num_labelled == 0


def test_donor_of_all_classes_can_take_the_place(ways, weak, donor, digits):
    own = ways["donor instead"]
    scores = np.column_stack(
        [
            donor[name].model.predict(digits.test.images, verbose=0)[:, 0]
            for name in NAMES
        ]
    )
    answers = own.model.predict(digits.test.images, verbose=0).argmax(axis=1)
    assert np.mean(answers == scores.argmax(axis=1)) > 0.98
    assert "donor instead" not in tried(weak, donor, digits, ("a", "8", "9"))


def test_any_donor_of_all_classes_can_take_the_place(
    ways, weak, donor, digits, build_source, store_of
):
    best = store_of(build_source(num_classes=2), ("8", "9"))
    found = tried(weak, best, digits, others=[donor])
    same = found["donor instead"].evaluation.confusion
    np.testing.assert_array_equal(
        same, ways["donor instead"].evaluation.confusion
    )
    regressed = found["regression on both"].modules
    assert {store.path for _, store, _ in regressed} == {best.path}


def test_classes_may_be_called_anything(ways, weak, strong, store_of, digits):
    names = ("Fünf", "fünf", "T-shirt/top: 2")
    donor = store_of(strong, names, mask_from="conv_3")
    found = tried(weak, donor, digits, names)
    images = digits.test.images[:20]
    assert found.keys() == ways.keys()
    for name, way in found.items():  # In a graph, which knows fewer names.
        np.testing.assert_allclose(
            way.model.predict_on_batch(images),
            ways[name].model.predict_on_batch(images),
            atol=1e-5,
        )


def test_sizes_are_of_what_a_way_runs(ways, weak):
    own = model_sizes(rebuild(channel_graph(weak)))
    assert ways["last layer fitted again"].sizes.macs == own.macs
    extra = ways["bias moved"].sizes.macs - own.macs
    assert 0 < extra < 100
    both = ways["regression on both"].sizes.macs
    donor = ways["donor instead"].sizes.macs
    assert both > own.macs and both > donor
    assert both < own.macs + donor + 200


def test_regressions_are_left_out_where_they_can_not_be_compared(
    weak, donor, digits, monkeypatch
):
    regressions = {"last layer fitted again", "regression on both"}
    shown = digits.validation.labels != 2
    assert not regressions & set(tried(weak, donor, digits, shown=shown))
    monkeypatch.setattr(plain, "MOST_WEIGHTS", 20)
    found = set(tried(weak, donor, digits))
    assert found & regressions == {"regression on both"}


def test_bias_is_moved_where_the_mean_f1_is_highest(ways, digits):
    images = digits.validation
    model = keras.Model(
        ways["bias moved"].model.input,
        ways["bias moved"].model.get_layer("bias-moved-scores").output,
    )
    scores = model.predict(images.images, verbose=0)

    def worth(shift):
        from sklearn import metrics

        answers = (scores + [0, shift, 0]).argmax(axis=1)
        return metrics.f1_score(images.labels, answers, average="macro")

    best = worth(0)
    assert best > ways["weak model"].evaluation.macro_f1
    assert all(worth(shift) <= best + 0.02 for shift in (-9, -3, -1, 1, 3, 9))
