import dataclasses
import importlib.util
import sys

import keras
import numpy as np
import pytest

from kmod.errors import CheckError
from kmod.errors import UsageError
from kmod.export.savedmodel import predict_by_name
from kmod.export.write import FORMS
from kmod.export.write import write_form
from kmod.export.write import write_forms

needs_onnx = pytest.mark.skipif(
    importlib.util.find_spec("tf2onnx") is None
    or importlib.util.find_spec("onnxruntime") is None,
    reason="needs the extra `onnx`",
)
ALL = [
    pytest.param(name, marks=[needs_onnx] if name == "onnx" else [])
    for name in FORMS
]


@pytest.mark.parametrize("form", ALL)
@pytest.mark.parametrize(
    ("changes", "names"),
    [
        ({}, {"probabilities"}),
        ({"output": "logits"}, {"probabilities", "logits"}),
        ({"num_classes": 1}, {"score"}),
    ],
    ids=["probabilities", "logits", "module"],
)
def test_every_form_answers_alike(
    tmp_path, images, form, changes, names, build, class_names
):
    model = build(**changes)
    path = tmp_path / FORMS[form].path
    classes = class_names[: model.output_shape[-1]]
    write_form(model, classes, form, path, images)
    answers, expected = FORMS[form].predict(path, images), predict_by_name(
        model, images
    )
    assert expected.keys() == names
    assert names <= answers.keys()
    for name in names:
        np.testing.assert_allclose(
            answers[name], expected[name], rtol=0, atol=1e-5
        )


@pytest.mark.parametrize("form", ALL)
def test_other_batch_sizes_are_answered(
    tmp_path, model, images, form, class_names
):
    path = tmp_path / FORMS[form].path
    write_form(model, class_names, form, path, images)
    (answer,) = FORMS[form].predict(path, images[:1])["probabilities"]
    np.testing.assert_allclose(answer.sum(), 1, atol=1e-6)


def test_classes_lie_beside_a_form_without_names(
    tmp_path, model, images, class_names
):
    write_form(model, class_names, "litert", tmp_path / "m.tflite", images)
    labels = (tmp_path / "labels.txt").read_text(encoding="utf-8")
    assert labels == "no\né\na b\n"


@pytest.mark.parametrize("wrong", [0.001, np.nan])
def test_form_that_answers_otherwise_is_refused(
    tmp_path, model, images, monkeypatch, wrong, class_names
):
    answers = predict_by_name(model, images)
    answers = {name: each + wrong for name, each in answers.items()}
    form = dataclasses.replace(FORMS["keras"], predict=lambda *_: answers)
    monkeypatch.setitem(FORMS, "keras", form)
    with pytest.raises(CheckError, match="answers that differ by"):
        write_form(
            model, class_names, "keras", tmp_path / "model.keras", images
        )


def test_second_form_that_answers_otherwise_is_refused(
    tmp_path, model, images, monkeypatch, class_names
):
    form = dataclasses.replace(FORMS["keras"], predict=lambda *_: {})
    monkeypatch.setitem(FORMS, "keras", form)
    names = "savedmodel", "keras"
    paths = {name: tmp_path / FORMS[name].path for name in names}
    with pytest.raises(CheckError, match="'model.keras' with answers that"):
        write_forms(model, class_names, paths, images)


@pytest.mark.parametrize("form", ["savedmodel", "litert", "onnx"])
def test_other_backends(
    tmp_path, model, images, monkeypatch, form, class_names
):
    monkeypatch.setattr(keras.backend, "backend", lambda: "jax")
    with pytest.raises(UsageError, match="Received: backend='jax'"):
        write_form(model, class_names, form, tmp_path / "x", images)


def test_missing_packages_of_onnx(
    tmp_path, model, images, monkeypatch, class_names
):
    monkeypatch.setitem(sys.modules, "tf2onnx", None)
    with pytest.raises(UsageError, match=r"pip install 'kmod\[onnx\]'"):
        write_form(model, class_names, "onnx", tmp_path / "m.onnx", images)
