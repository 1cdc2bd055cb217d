import numpy as np

from kmod.modular.cnnsplitter.alignment import align
from kmod.modular.cnnsplitter.alignment import align_heads
from kmod.modular.modular_model import ModularModel


def test_lines_are_found_and_never_fall():
    scores = np.array([[0.0, 1, 2], [0, 1, 2], [1, 1, 1]])
    expected = np.array([[3.0, 5, 7], [2, 1, 0], [0, 3, 6]])
    scale, shift = align(scores, expected)
    np.testing.assert_allclose(scale, [2, 0, 0])
    np.testing.assert_allclose(shift, [3, 1, 3])


def test_heads_come_nearer_to_the_source_model(source, images):
    modular = ModularModel(source)
    masks = np.ones_like(modular.kernel_masks)
    masks[:, modular.kernels.ids_of("conv_3")[::2]] = 0
    modular.kernel_masks = masks
    logits = source.predict(images[0], verbose=0)
    expected = logits - logits.mean(axis=1, keepdims=True)

    def gap():
        scores = modular.predict(images[0], verbose=0)
        return np.square(scores - expected).mean(axis=0)

    before = gap()
    align_heads(modular, images[0])
    assert np.all(gap() <= before + 1e-5) and np.any(gap() < before - 1e-3)
