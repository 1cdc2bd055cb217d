import keras
import numpy as np
import pytest
from keras import layers

from kmod.errors import UnsupportedModelError
from kmod.errors import UsageError
from kmod.export.keras_file import load_keras_file
from kmod.graph import channel_graph
from kmod.graph import rebuild
from kmod.graph.exactness import check_exactness
from kmod.graph.exactness import measure_exactness
from kmod.graph.sources import custom_layers_of
from kmod.modular.modular_model import ModularModel

SCALE, OFFSET = [1 / 60, 1 / 57, 1 / 50], [-2.0, -1.9, -1.8]


class PipelineModel(keras.Model):
    """Stands in for the class of KerasHub that preprocesses in `predict`."""

    def preprocess_samples(self, x):
        return x if self.preprocessor is None else self.preprocessor(x)

    def predict(self, x, **kwargs):
        return super().predict(np.array(self.preprocess_samples(x)), **kwargs)


class ImageConverter(layers.Layer):
    def __init__(self, image_size=None, scale=None, offset=None):
        super().__init__()
        self.image_size = image_size
        self.resizing = image_size and layers.Resizing(*image_size)
        self.scale, self.offset = scale, offset
        self.data_format = "channels_last"

    def call(self, inputs):
        values = self.resizing(inputs) if self.image_size else inputs
        values = values * (1.0 if self.scale is None else np.array(self.scale))
        return values + (0.0 if self.offset is None else np.array(self.offset))


class ImageClassifierPreprocessor(layers.Layer):
    def __init__(self, image_converter=None):
        super().__init__()
        self.image_converter = image_converter

    def call(self, x):
        return self.image_converter(x) if self.image_converter else x


class OwnPreprocessor(layers.Layer):
    def call(self, x):
        return x[:, ::-1]


def task(preprocessor, kind=PipelineModel):
    keras.utils.set_random_seed(0)
    image = keras.Input((None, None, 3))
    features = layers.Conv2D(4, 3, activation="relu", name="conv")(image)
    features = layers.GlobalAveragePooling2D()(features)
    model = kind(image, layers.Dense(3, name="out")(features), name="task")
    model.preprocessor = preprocessor
    return model


def converting(*args, **options):
    return ImageClassifierPreprocessor(ImageConverter(*args, **options))


def names(model, **options):
    return [c.name for c in channel_graph(model, **options).trace.calls]


@pytest.mark.parametrize(
    ("preprocessor", "shape", "first"),
    [
        pytest.param(
            converting((8, 9), SCALE, OFFSET), None, "rescaling", id="own-size"
        ),
        pytest.param(
            converting((8, 9), SCALE, OFFSET),
            (10, 7, 3),
            "resizing",
            id="resized",
        ),
        pytest.param(
            converting(None, 1 / 127.5, -1.0),
            (8, 8, 3),
            "rescaling",
            id="scale",
        ),
        pytest.param(
            converting(None, None, OFFSET), (8, 8, 3), "rescaling", id="offset"
        ),
        pytest.param(converting((8, 9)), None, "conv", id="size-only"),
        pytest.param(
            ImageClassifierPreprocessor(), (8, 8, 3), "conv", id="no-converter"
        ),
        pytest.param(
            layers.Rescaling(1 / 255, name="built_in"),
            (8, 8, 3),
            "built_in",
            id="built-in",
        ),
        pytest.param(None, (8, 8, 3), "conv", id="none"),
    ],
)
def test_preprocessing_of_predict_comes_into_the_graph(
    preprocessor, shape, first
):
    model = task(preprocessor)
    graph = channel_graph(model, input_shape=shape)
    assert graph.trace.calls[0].name.startswith(first)
    shape = graph.trace.input.shape[1:]
    images = np.random.default_rng(0).random((4, *shape)) * 255
    expected = model.predict(images, verbose=0)
    answers = rebuild(graph).predict(images, verbose=0)
    np.testing.assert_allclose(
        answers, expected, atol=1e-5 * abs(expected).max()
    )
    assert check_exactness(model, graph).gap <= 1e-5


def test_dropped_preprocessing_is_not_exact():
    model = task(converting((8, 8), SCALE, OFFSET))
    bare = keras.Model(model.inputs, model.outputs)
    graph = channel_graph(bare, input_shape=(8, 8, 3))
    assert measure_exactness(bare, graph).is_exact
    assert measure_exactness(model, graph).gap > 0.1


def test_modules_of_a_task_take_its_images():
    model = task(converting((8, 8), SCALE, OFFSET))
    modular = ModularModel(model, value_range=(0, 255))
    assert modular.flat_source.input_shape == (None, 8, 8, 3)
    images = np.random.default_rng(0).random((4, 8, 8, 3)) * 255
    expected = model.predict(images, verbose=0)
    expected -= expected.mean(axis=1, keepdims=True)
    scores = modular.predict(images, verbose=0)
    np.testing.assert_allclose(scores, expected, atol=1e-5)


def test_unknown_preprocessing_is_refused():
    message = "preprocessor of type OwnPreprocessor. Set `model.preproc"
    with pytest.raises(UnsupportedModelError, match=message):
        channel_graph(task(OwnPreprocessor()))


class OwnPredict(keras.Model):
    def predict(self, x, **kwargs):
        return super().predict(x / 255, **kwargs)


class OwnStep(keras.Sequential):
    def predict_step(self, data):
        return super().predict_step(data / 255)


class OwnCall(keras.Sequential):
    def call(self, inputs, training=None, mask=None):
        return super().call(inputs / 255, training, mask)


def sequential(kind):
    return kind([keras.Input((8, 8, 3)), layers.Flatten(), layers.Dense(2)])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        pytest.param(
            lambda: task(None, OwnPredict),
            "'task' of type OwnPredict, which overrides `predict`. Put what",
            id="predict",
        ),
        pytest.param(
            lambda: sequential(OwnStep), "overrides `predict_step`", id="step"
        ),
        pytest.param(
            lambda: sequential(OwnCall), "of type OwnCall. Write it", id="call"
        ),
    ],
)
def test_what_runs_outside_of_the_graph_is_refused(make, message):
    with pytest.raises(UnsupportedModelError, match=message):
        channel_graph(make())


def test_its_graph_alone_is_the_way_out():
    model = task(None, OwnPredict)
    assert names(keras.Model(model.inputs, model.outputs))[0] == "conv"


def test_size_must_be_said_once():
    message = r"images of shape \(None, None, 3\). Give it, such as input_shape"
    with pytest.raises(UsageError, match=message):
        ModularModel(task(None))
    modular = ModularModel(task(None), input_shape=(6, 5, 3))
    assert modular.flat_source.input_shape == (None, 6, 5, 3)


@pytest.mark.parametrize("resized", [False, True])
def test_keras_hub_task(resized):
    keras_hub = pytest.importorskip(
        "keras_hub", reason="It is in no extra; a stand-in is tested above."
    )
    keras.utils.set_random_seed(0)
    model = keras_hub.models.DenseNetImageClassifier(
        keras_hub.models.DenseNetBackbone(
            stackwise_num_repeats=[2, 2],
            compression_ratio=0.5,
            growth_rate=4,
            image_shape=(None, None, 3),
        ),
        num_classes=3,
        preprocessor=keras_hub.models.DenseNetImageClassifierPreprocessor(
            keras_hub.layers.ImageConverter(
                image_size=(32, 32), scale=SCALE, offset=OFFSET
            )
        ),
    )
    shape = (40, 48, 3) if resized else None
    graph = channel_graph(model, input_shape=shape)
    assert names(model, input_shape=shape)[0] == (
        "resizing" if resized else "rescaling"
    )
    assert graph.kernels.removable.all()
    assert check_exactness(model, graph, (0, 255)).gap <= 1e-5


def efficient_net(hub):
    return hub.EfficientNetImageClassifier, hub.EfficientNetBackbone(
        stackwise_kernel_sizes=[3, 3],
        stackwise_num_repeats=[1, 1],
        stackwise_input_filters=[8, 8],
        stackwise_output_filters=[8, 8],
        stackwise_expansion_ratios=[1, 2],
        stackwise_strides=[1, 2],
        stackwise_squeeze_and_excite_ratios=[0, 0],
        stackwise_block_types=["fused", "unfused"],
        stackwise_force_input_filters=[0, 0],
        stackwise_nores_option=[False, False],
        width_coefficient=1.0,
        depth_coefficient=1.0,
        image_shape=(16, 16, 3),
    )


def vision_transformer(hub):
    return hub.ViTImageClassifier, hub.ViTBackbone(
        image_shape=(16, 16, 3),
        patch_size=8,
        num_layers=1,
        num_heads=2,
        hidden_dim=8,
        mlp_dim=12,
    )


@pytest.mark.parametrize("build", [efficient_net, vision_transformer])
def test_preset_of_keras_hub_is_opened(build, tmp_path):
    keras_hub = pytest.importorskip("keras_hub", reason="It is in no extra.")
    kind, backbone = build(keras_hub.models)
    kind(backbone=backbone, num_classes=3).save_to_preset(str(tmp_path))
    model = load_keras_file(tmp_path, allow_custom=True)
    graph = channel_graph(model)
    assert graph.kernels.removable.any()
    assert measure_exactness(model, graph).is_exact
    assert not custom_layers_of(rebuild(graph))
