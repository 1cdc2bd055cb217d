import gc
import weakref

import keras
import numpy as np
import pytest

from kmod.graph.sharing import merge_models
from kmod.graph.trace import trace


def build_model(seed=0, factor=2.0, changed="", names=("stem", "head")):
    """A stem convolution, an operation and a head."""
    image = keras.Input((4, 4, 1), name="image")
    x = keras.layers.Conv2D(3, 3, name=names[0])(image)
    x = keras.layers.ReLU()(x) * factor
    x = keras.layers.Flatten()(x)
    outputs = keras.layers.Dense(2, name=names[1])(x)
    model = keras.Model(image, outputs)
    random = np.random.default_rng(0)
    for layer in model.layers:
        draw = np.random.default_rng(seed) if layer.name == changed else random
        weights = [draw.normal(size=w.shape) for w in layer.get_weights()]
        layer.set_weights(weights)
    return model


def merged(**models):
    image, outputs = merge_models(models.items())
    return keras.Model(image, outputs)


def layer_names(model):
    return {call.name for call in trace_all(model)}


def trace_all(model):
    joined = keras.layers.Concatenate(name="all")(list(model.outputs))
    return trace(keras.Model(model.inputs, joined)).calls[:-1]


def check_answers(model, parts):
    x = np.random.default_rng(1).normal(size=(5, 4, 4, 1))
    answers = model(x)
    for name, part in parts.items():
        np.testing.assert_allclose(answers[name], part(x), rtol=0, atol=1e-5)


def test_models_need_not_all_be_in_memory():
    layers = []

    def models():
        for number in range(4):
            model = build_model(number, changed="head")
            layers.append(weakref.ref(model.get_layer("head")))
            yield f"m{number}", model
            gc.collect()

    _, outputs = merge_models(models())
    assert list(outputs) == ["m0", "m1", "m2", "m3"]
    assert [layer() for layer in layers[:3]] == [None] * 3


def test_stem_is_built_once():
    parts = {
        "a": build_model(1, changed="head"),
        "b": build_model(2, changed="head"),
    }
    model = merged(**parts)
    check_answers(model, parts)
    single = parts["a"].get_layer("stem").count_params()
    total = sum(part.count_params() for part in parts.values())
    assert model.count_params() == total - single
    names = layer_names(model)
    assert {"shared_stem", "a_head", "b_head"} <= names
    assert not any(name.startswith(("a_stem", "b_stem")) for name in names)


def test_names_and_other_layer_instances_do_not_matter():
    parts = {"a": build_model(), "b": build_model(names=("conv", "dense"))}
    model = merged(**parts)
    check_answers(model, parts)
    assert model.count_params() == parts["a"].count_params()
    assert all(name.startswith("shared_") for name in layer_names(model))


def test_different_weights_are_not_merged():
    parts = {"a": build_model(), "b": build_model(3, changed="stem")}
    model = merged(**parts)
    check_answers(model, parts)
    total = sum(part.count_params() for part in parts.values())
    assert model.count_params() == total  # The heads read different inputs.
    assert not any("shared" in name for name in layer_names(model))


def test_one_changed_weight_is_enough():
    parts = {"a": build_model(), "b": build_model()}
    kernel, bias = parts["b"].get_layer("stem").get_weights()
    kernel[0, 0, 0, 0] = np.nextafter(kernel[0, 0, 0, 0], np.float32(9))
    parts["b"].get_layer("stem").set_weights([kernel, bias])
    assert "shared_stem" not in layer_names(merged(**parts))


@pytest.mark.parametrize("factor", [2.0, 2.5])
def test_constants_of_operations_count(factor):
    parts = {"a": build_model(), "b": build_model(factor=factor)}
    model = merged(**parts)
    check_answers(model, parts)
    names = layer_names(model)
    assert "shared_stem" in names
    assert ("shared_head" in names) == (factor == 2.0)


def test_layer_called_twice_stays_one_layer():
    image = keras.Input((4, 4, 1), name="image")
    layer = keras.layers.Dense(1, name="dense")
    part = keras.Model(image, layer(layer(image)))
    model = merged(a=part)
    check_answers(model, {"a": part})
    assert model.count_params() == part.count_params()


def test_models_are_not_changed():
    part = build_model()
    before = part.to_json(), part.get_weights()
    merged(a=part, b=build_model(factor=3.0))
    assert part.to_json() == before[0]
    for new, old in zip(part.get_weights(), before[1], strict=True):
        np.testing.assert_array_equal(new, old)


def test_names_that_collide_are_numbered():
    parts = {
        "x": build_model(1, changed="y_z", names=("y_z", "head")),
        "x_y": build_model(2, changed="z", names=("z", "head")),
    }
    names = layer_names(merged(**parts))
    assert {"x_y_z", "x_y_z_2"} <= names
