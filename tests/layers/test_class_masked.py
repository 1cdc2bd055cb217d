import keras
import numpy as np
import pytest
from keras import layers
from keras import ops

import kmod
from kmod.layers import ClassMasked
from kmod.layers import ClassMaskedNormalization
from kmod.layers import ClassScaleShift
from kmod.layers import KernelMasks
from kmod.layers import RepeatRows
from kmod.layers import SplitRows

CLASSES = np.array([[1], [0], [1], [1]], "int32")


def functional(**options):
    """A small CNN of two modules, whose second layers are masked by hand."""
    image = keras.Input((4, 4, 1), name="image")
    classes = keras.Input((1,), dtype="int32", name="classes")
    masks = KernelMasks(2, 6, name="masks")(image)
    x = layers.Conv2D(6, 3, name="first")(image)
    x = ClassMasked(
        layers.Conv2D(3, 1, name="second"), 2, branches=True, **options
    )(x, masks, classes)
    x = layers.Flatten()(x)
    logits = ClassMasked(
        layers.Dense(2, name="out"), 2, [-1, 0, 1] * 4, scale_and_shift=False
    )(x, masks, classes)
    return keras.Model([image, classes], logits)


@pytest.fixture
def images():
    return np.random.default_rng(0).random((4, 4, 4, 1), dtype="float32")


@pytest.fixture
def model(images):
    keras.utils.set_random_seed(0)
    model = functional()
    draw = np.random.default_rng(1)
    model.get_layer("masks").mask.assign(
        [[1, 0, 1, 1, 0, 1], [0, 1, 1, 0, 1, 1]]
    )
    for weight in model.trainable_weights:
        if weight.name in ("gain", "scale", "shift"):
            weight.assign(draw.uniform(0.5, 1.5, weight.shape))
    return model


def test_row_answers_as_its_module_written_out(model, images):
    first, second, out = (
        model.get_layer(name) for name in ("first", "second", "out")
    )
    answers = ops.convert_to_numpy(model([images, CLASSES]))
    features = first(images)
    for row, (index,) in enumerate(CLASSES):
        mask = np.array(model.get_layer("masks").mask)[index]
        x = features[row : row + 1] * mask * np.array(second.gain)[index]
        x = second.layer(x) * np.array(second.adapter.scale)[index]
        x = x + np.array(second.adapter.shift)[index]
        x = ops.reshape(x, (1, -1))
        kept = np.tile([1, mask[0], mask[1]], 4)
        x = out.layer(x * kept * np.array(out.gain)[index])
        np.testing.assert_allclose(answers[row], x[0], rtol=1e-5, atol=1e-6)
    other = ops.convert_to_numpy(model([images, 1 - CLASSES]))
    assert np.abs(answers - other).max() > 0.01


def test_masks_can_be_read_off_a_wrapped_layer(model):
    second, out = model.get_layer("second"), model.get_layer("out")
    assert second.kernel_masks.tolist() == [
        [1, 0, 1, 1, 0, 1],
        [0, 1, 1, 0, 1, 1],
    ]
    assert out.kernel_masks[:, :3].tolist() == [[1, 1, 0], [1, 0, 1]]
    assert out.kernel_masks.shape == (2, 12)


def test_saved_model_answers_the_same(model, images, tmp_path):
    model.save(tmp_path / "masked.keras")
    loaded = keras.models.load_model(tmp_path / "masked.keras")
    np.testing.assert_array_equal(
        loaded([images, CLASSES]), model([images, CLASSES])
    )


def test_training_loop_of_ones_own_moves_masks_and_nothing_frozen(images):
    keras.utils.set_random_seed(0)
    model = functional()
    masks = model.get_layer("masks")
    for name in ("first", "second", "out"):
        layer = model.get_layer(name)
        getattr(layer, "layer", layer).trainable = False
    frozen = [np.array(w) for w in model.get_layer("second").layer.weights]
    masks.mask_scores.assign(np.full((2, 6), 0.01))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(1.0), loss)
    labels = np.array([0, 1, 0, 1])
    model.fit([images, CLASSES], labels, epochs=3, verbose=0)
    scores = np.array(masks.mask_scores)
    masks(training=True)  # Works the masks out once more.
    np.testing.assert_array_equal(np.array(masks.mask), scores > 0)
    assert 0 < np.mean(scores > 0) < 1
    for before, now in zip(frozen, model.get_layer("second").layer.weights):
        np.testing.assert_array_equal(before, now)


@pytest.mark.parametrize(
    "layer",
    [
        layers.LayerNormalization(epsilon=0.1),
        layers.LayerNormalization(axis=[1, 2], scale=False),
        layers.RMSNormalization(epsilon=0.1),
        layers.GroupNormalization(1, epsilon=0.1),
    ],
    ids=lambda layer: type(layer).__name__,
)
def test_normalises_over_what_a_class_keeps(layer):
    draw = np.random.default_rng(0)
    values = draw.normal(3, 2, (2, 5, 4)).astype("float32")
    wrapper = ClassMaskedNormalization(layer, 2, branches=True)
    masks = np.array([[1, 0, 1, 1], [1, 1, 1, 1]], "float32")
    wrapper(values, masks)
    layer.set_weights([draw.random(w.shape) for w in layer.weights])
    answers = np.array(wrapper(values, masks)).reshape(2, 2, 5, 4)
    np.testing.assert_allclose(answers[:, 1], layer(values), atol=1e-5)
    kept = [0, 2, 3]
    cut = type(layer).from_config(layer.get_config())
    cut.build((None, 5, 3))
    cut.set_weights([w[..., kept] for w in layer.get_weights()])
    expected = cut(values[..., kept])
    np.testing.assert_allclose(answers[:, 0][..., kept], expected, atol=1e-5)
    copy = ClassMaskedNormalization.from_config(wrapper.get_config())
    assert copy.get_config() == wrapper.get_config()


WRAPPED = {
    "dense": lambda: layers.Dense(3),
    "convolution": lambda: layers.Conv2D(3, 2),
    "separable": lambda: layers.SeparableConv2D(3, 2),
    "transposed": lambda: layers.Conv2DTranspose(3, 2),
}


@pytest.mark.parametrize("kind", WRAPPED)
def test_config_makes_an_equal_layer(kind):
    layer = ClassMasked(WRAPPED[kind](), 2, [0, -1, 3])
    layer.build((None, 4, 4, 3), (2, 4))
    copy = ClassMasked.from_config(layer.get_config())
    copy.build((None, 4, 4, 3), (2, 4))
    assert copy.get_config() == layer.get_config()
    assert [w.shape for w in copy.weights] == [w.shape for w in layer.weights]


@pytest.mark.parametrize("kind", WRAPPED)
@pytest.mark.parametrize("branches", [True, False])
def test_shapes_that_are_promised_are_made(kind, branches):
    layer = ClassMasked(WRAPPED[kind](), 2, branches=branches)
    masks = ops.ones((2, 3))
    promised = layer(keras.Input((4, 4, 3)), masks)
    made = layer(np.ones((4, 4, 4, 3), "float32"), masks)
    assert promised.shape == (None, *made.shape[1:])
    assert len(made) == (8 if branches else 4)


@pytest.mark.parametrize("policy", ["float16", "mixed_bfloat16"])
def test_tables_are_float32_and_answers_of_the_layers_policy(policy):
    layer = ClassMasked(layers.Dense(2, dtype=policy), 2, branches=True)
    compute = keras.dtype_policies.get(policy).compute_dtype
    answers = layer(np.ones((1, 3), compute), ops.ones((2, 3)))
    assert keras.backend.standardize_dtype(answers.dtype) == compute
    own = [*layer.adapter.weights, layer.gain]
    assert {weight.dtype for weight in own} == {"float32"}


@pytest.mark.parametrize(
    "layer",
    [
        ClassScaleShift(2, axis=1, branches=True, name="a"),
        KernelMasks(2, 3, name="b"),
        RepeatRows(name="c"),
        SplitRows(name="d"),
    ],
    ids=lambda layer: type(layer).__name__,
)
def test_small_layers_keep_their_config(layer):
    data = keras.saving.serialize_keras_object(layer)
    copy = keras.saving.deserialize_keras_object(data)
    assert type(copy) is type(layer)
    assert copy.get_config() == layer.get_config()


@pytest.mark.parametrize(
    "kernels", [[0, 1], [0, 1, 3], [0, -2, 1]], ids=["few", "large", "small"]
)
def test_kernels_that_do_not_fit_are_refused(kernels):
    layer = ClassMasked(layers.Dense(2), 2, kernels)
    with pytest.raises(ValueError, match="`kernels` must have one column"):
        layer.build((None, 3), (2, 3))


def test_masks_outside_a_graph_can_not_be_read():
    layer = ClassMasked(layers.Dense(2), 2)
    layer(np.ones((2, 3), "float32"), ops.ones((2, 3)))
    with pytest.raises(AttributeError, match="needs a graph"):
        layer.kernel_masks


def test_modular_model_is_a_graph_of_wrapped_layers(images):
    keras.utils.set_random_seed(0)
    source = keras.Sequential(
        [
            keras.Input((4, 4, 1)),
            layers.Conv2D(3, 3, name="conv_1"),
            layers.ReLU(name="relu_1"),
            layers.Conv2D(3, 1, name="conv_2"),
            layers.Flatten(),
            layers.Dense(2, name="out"),
        ]
    )
    modular = kmod.ModularModel(source)
    lines = []
    modular.summary(120, print_fn=lambda line, **_: lines.append(line))
    shown = "".join(lines)
    assert "conv_2 (ClassMasked)" in shown
    assert "conv_1 (Conv2D)" in shown
    masks = np.ones((2, 6), "int64")
    masks[0, 1] = 0
    modular.kernel_masks = masks
    assert modular.get_layer("conv_2").kernel_masks.tolist() == [
        [1, 0, 1],
        [1, 1, 1],
    ]
