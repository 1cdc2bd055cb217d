"""Weak models of every form: measured as they answer, patched, composed."""

import dataclasses
import types

import keras
import numpy as np
import pytest
from keras import layers
from keras import ops

from kmod.cli.main import main
from kmod.composition.composer import compose
from kmod.composition.patched_model import Patch
from kmod.composition.saving import save
from kmod.data.subsets import class_subset
from kmod.errors import UsageError
from kmod.metrics.evaluate import evaluate
from kmod.patching.donors import Donor
from kmod.patching.patcher import patch_spec
from kmod.patching.search import choose_patches
from kmod.spec.spec_file import load_spec


def logits(features, dense):
    return layers.Dense(3, name="answer"), features, dense


def softmax_layer(features, dense):
    return [layers.Dense(3, name="answer"), layers.Softmax()], features, dense


def softmax_argument(features, dense):
    layer = layers.Dense(3, activation="softmax", name="answer")
    return layer, features, dense


def softmax_operation(features, dense):
    return [layers.Dense(3, name="answer"), ops.softmax], features, dense


def of_two(activation):
    def head(features, dense):
        kernel, bias = (weight[..., [1]] - weight[..., [0]] for weight in dense)
        layer = layers.Dense(1, activation=activation, name="answer")
        return layer, features, [kernel, bias]

    return head


def convolution(features, dense):
    """What is linear may be done before the mean as well as behind it."""
    steps = [
        layers.Conv2D(3, 1, name="answer"),
        layers.GlobalAveragePooling2D(),
        layers.Softmax(),
    ]
    return (
        steps,
        features._keras_history.operation.input,
        [
            dense[0][None, None],
            dense[1],
        ],
    )


HEADS = {
    "logits": logits,
    "softmax-layer": softmax_layer,
    "softmax-argument": softmax_argument,
    "softmax-operation": softmax_operation,
    "sigmoid": of_two("sigmoid"),
    "one-logit": of_two(None),
    "convolution": convolution,
    "any-size": softmax_layer,
    "several-outputs": softmax_layer,
}


@pytest.fixture(scope="module", params=HEADS)
def case(request, strong, digits):
    """A model that hardly ever says 8, with a head of its own."""
    shape = (None, None, 1) if request.param == "any-size" else (8, 8, 1)
    image = keras.Input(shape)
    body = keras.Model(strong.input, strong.get_layer("pool").output)
    features = keras.models.clone_model(body, input_tensors=image)
    features.set_weights(body.get_weights())
    kernel, bias = strong.get_layer("logits").get_weights()
    dense = [kernel, bias - [0, 30, 0]]
    steps, x, weights = HEADS[request.param](features.output, dense)
    for step in steps if isinstance(steps, list) else [steps]:
        x = step(x)
    outputs, output = x, None
    if request.param == "several-outputs":
        outputs, output = {"digit": x, "parity": layers.Dense(2)(x)}, "digit"
    model = keras.Model(features.input, outputs)
    model.get_layer("answer").set_weights(weights)
    data = digits
    if x.shape[-1] == 1:
        parts = {
            name: class_subset(getattr(digits, name), [0, 1])
            for name in ("train", "validation", "test")
        }
        names = digits.class_names[:2]
        data = dataclasses.replace(digits, class_names=names, **parts)
    return types.SimpleNamespace(
        name=request.param, model=model, output=output, data=data
    )


def own_predictions(case, images):
    answers = case.model.predict(images, verbose=0)
    answers = answers[case.output] if case.output else answers
    if answers.shape[1] == 1:
        return answers[:, 0] > (0.5 if case.name == "sigmoid" else 0)
    return answers.argmax(axis=1)


def test_measured_patched_and_composed(case, donor, tmp_path):
    data, names = case.data, case.data.class_names
    weak = evaluate(case.model, data.test, names, output=case.output)
    expected = own_predictions(case, data.test.images)
    assert weak.accuracy == np.mean(expected == data.test.labels)
    assert weak.recall[1] < 0.5
    choice = choose_patches(
        case.model,
        [Donor(donor)],
        data.validation,
        target_classes=["8"],
        class_names=names,
        output=case.output,
    )
    assert choice.evaluation.recall[1] < 0.5
    path = tmp_path / "weak.keras"
    case.model.save(path)
    (chosen,) = choice.chosen
    spec = patch_spec(
        path,
        names,
        [chosen.fit.patch],
        [donor.path],
        tmp_path / "spec.yaml",
        output=case.output,
    )
    patched = compose(spec)
    assert patched.output_shape == (None, len(names))
    assert evaluate(patched, data.test, names).f1[1] > weak.f1[1] + 0.2


def test_legacy_hdf5_is_kept_with_its_patches(donor, digits, tmp_path):
    weak = keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            layers.Conv2D(4, 3),
            layers.GlobalAveragePooling2D(),
            layers.Dense(3, activation="softmax"),
        ]
    )
    path = tmp_path / "weak.h5"
    weak.save(path)
    patches = [Patch(1, donor["8"], "raw")]
    spec = patch_spec(
        path, digits.class_names, patches, [donor.path], tmp_path / "s.yaml"
    )
    patched = compose(spec)
    save(patched, tmp_path / "out", formats=("keras",))
    again = compose(load_spec(tmp_path / "out" / "spec.yaml"))
    images = digits.test.images[:9]
    np.testing.assert_array_equal(again(images), patched(images))
    others = weak.predict(images, verbose=0)[:, [0, 2]]
    answers = patched.predict(images, verbose=0)[:, [0, 2]]
    np.testing.assert_allclose(answers, others, atol=1e-5)


@pytest.mark.long
@pytest.mark.parametrize("command", ["evaluate", "patch"])
def test_commands_take_one_of_several_outputs(
    weak, donor, tmp_path, capsys, command
):
    x = weak.get_layer("probabilities").output
    outputs = {"digit": x, "parity": layers.Dense(2)(x)}
    path = tmp_path / "two.keras"
    keras.Model(weak.input, outputs).save(path)
    arguments = [command, str(path), "--data", "digits:validation"]
    arguments += ["--classes", "3,8,9"]
    if command == "patch":
        arguments += ["--donor", str(donor.path), "--out", str(tmp_path / "o")]
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert "'digit', 'parity']" in error and "`--output`" in error
    code = main([*arguments, "--output", "digit"])
    assert code == 0, capsys.readouterr().err


def test_one_of_several_outputs_must_be_named(strong, digits):
    x = strong.get_layer("probabilities").output
    model = keras.Model(strong.input, [x, layers.Dense(2)(x)])
    with pytest.raises(UsageError, match="`output` must be the name"):
        evaluate(model, digits.test)
