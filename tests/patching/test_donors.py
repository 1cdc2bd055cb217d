import numpy as np
import pytest

from kmod.errors import ArtifactError
from kmod.modules.cut import log_odds_model
from kmod.modules.manifest import InputContract
from kmod.patching.donors import Donor
from kmod.patching.donors import module_answers
from kmod.patching.donors import read_donor


def test_store_and_class_are_read(donor):
    whole = read_donor(str(donor.path))
    assert whole.store.digest == donor.digest
    assert (whole.class_for("8"), whole.class_for("x")) == ("8", None)
    named = read_donor(f"{donor.path}:3")
    assert named.class_for("8") == named.class_for("x") == "3"


def test_unknown_donors(donor, tmp_path):
    with pytest.raises(ArtifactError, match="Received: class 'x'"):
        read_donor(f"{donor.path}:x")
    with pytest.raises(ArtifactError, match="nowhere"):
        read_donor(str(tmp_path / "nowhere"))


def test_answers_are_those_of_each_module(donor, images):
    modules = [donor["3"], donor["9"]]
    answers = module_answers(modules, images)
    for module, found in zip(modules, answers, strict=True):
        log_odds = log_odds_model(module.model).predict(images, verbose=0)
        np.testing.assert_allclose(
            found.log_odds, log_odds[:, 0], rtol=1e-4, atol=1e-4
        )
        scale, shift = module.model.get_layer("calibration").get_weights()
        np.testing.assert_allclose(
            found.raw * scale[0, 0] + shift[0], found.log_odds, rtol=1e-5
        )


def test_images_are_adapted(donor, images):
    ours = InputContract((8, 8, 1), "float32", (0.0, 1.0))
    adaptation = Donor(donor).adaptation(ours)
    (adapted,) = module_answers([donor["3"]], images / 255, adaptation)
    (plain,) = module_answers([donor["3"]], images)
    np.testing.assert_allclose(adapted.raw, plain.raw, rtol=1e-3, atol=1e-3)


def test_no_module_no_answers(images):
    assert module_answers([], images) == []
