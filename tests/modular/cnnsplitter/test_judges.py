import numpy as np
import pytest

from kmod.modular.cnnsplitter.judges import Judges
from kmod.modular.modular_model import ModularModel


@pytest.fixture
def judges(source, images):
    return Judges(ModularModel(source), *images, num_rows=3)


def test_whole_modules_score_as_the_source_model(judges, source, images):
    everything = np.ones((3, 20), "float32")
    scores = judges.score(everything, np.arange(3))
    np.testing.assert_allclose(scores, judges.source_scores, atol=1e-3)
    logits = source.predict(images[0], verbose=0)
    np.testing.assert_allclose(
        scores.T, logits - logits.mean(axis=1, keepdims=True), atol=1e-3
    )


def test_source_accuracy_among_some_classes(judges):
    judges.labels = np.array([0, 1, 2, 0])
    judges.source_scores = np.array([[1, 0, 9, 2], [0, 3, 0, 4], [5, 0, 1, 0]])
    assert judges.source_accuracy(np.array([0, 1])) == pytest.approx(2 / 3)
    assert judges.source_accuracy(np.arange(3)) == pytest.approx(1 / 4)
    judges.labels = np.array([2, 2, 2, 2])
    assert judges.source_accuracy(np.array([0, 1])) == 0
