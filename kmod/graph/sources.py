"""Which models are read as sources, and what of them answers."""

from collections.abc import Sequence
from typing import Any

import keras
from keras import tree

from kmod.errors import UnsupportedModelError
from kmod.errors import UsageError
from kmod.graph.internals import graph_of
from kmod.graph.internals import output_structure
from kmod.graph.internals import parts_of

FUNCTIONAL_WAY_OUT = (
    "Write it with the Functional API, `keras.Model(inputs, outputs)`, or as a "
    "`keras.Sequential`."
)
PREDICTING = (
    "predict",
    "predict_on_batch",
    "predict_step",
    "make_predict_function",
)


def functional_of(model: keras.Model, output: str | None = None) -> keras.Model:
    """Returns the Functional model behind a model, with one output.

    Args:
        model: Functional or Sequential model, built. It is not changed.
        output: Name of the output to take, of several.

    Raises:
        UnsupportedModelError: If its graph can not be read, or is not all
            that it computes, or it takes other inputs than one image.
        UsageError: If `output` is none of its outputs, or is needed.
    """
    functional = _graph_of(model)
    if len(functional.inputs) != 1:
        raise UnsupportedModelError(
            "A source model has one input, the image. Received: "
            f"{model.name!r} with the inputs {_names(functional.inputs)}. "
            "Put constants in place of the others, "
            "`keras.Model(image, model([image, keras.ops.ones(...)]))`, or "
            "cut the part that reads the image out, "
            "`keras.Model(image, features)`."
        )
    if output is None and len(functional.outputs) == 1:
        return functional
    return _with_output(functional, output)


def _graph_of(model):
    kind = type(model)
    root = kind.__module__.split(".")[0]
    if root in ("tf_keras", "tensorflow"):
        raise UnsupportedModelError(
            "kmod takes Keras 3 models. Received: a Keras 2 model of type "
            f"{kind.__module__}.{kind.__name__}. Save it with "
            "`model.save('model.h5')` and load it with Keras 3, "
            "`keras.models.load_model('model.h5')`."
        )
    if not isinstance(model, keras.Model):
        raise UnsupportedModelError(
            "A source model is a `keras.Model`. Received: an object of type "
            f"{kind.__module__}.{kind.__name__}."
        )
    is_sequential = isinstance(model, keras.Sequential)
    if is_sequential and (not model.built or graph_of(model) is None):
        raise UnsupportedModelError(
            "A Sequential source model must be built. Received: "
            f"{model.name!r}, not built yet. Give it a `keras.Input` as "
            "its first layer, or call it on a batch of images."
        )
    if not runs_its_graph(model):
        raise UnsupportedModelError(
            "kmod takes Functional and Sequential models, because their "
            "graph can be read. Received: the subclassed model "
            f"{model.name!r} of type {kind.__name__}. {FUNCTIONAL_WAY_OUT}"
        )
    _check_predict(model)
    return graph_of(model) if is_sequential else model


def runs_its_graph(model: Any) -> bool:
    """Tells whether calling `model` means running its Functional graph."""
    for kind in type(model).__mro__:
        is_keras = kind.__module__.startswith("keras.")
        if is_keras and kind.__name__ in ("Functional", "Sequential"):
            return type(model).call is kind.call
    return False


def _check_predict(model):
    """Refuses a model that predicts more than its graph computes."""
    changed = [
        name
        for name in PREDICTING
        if getattr(type(model), name) is not getattr(keras.Model, name)
    ]
    if not changed or (
        _is_pipeline(model)
        and {_owner(model, name) for name in changed} == {"PipelineModel"}
    ):
        return
    raise UnsupportedModelError(
        "A source model's graph is all that answers, so that its modules "
        f"answer the same. Received: {model.name!r} of type "
        f"{type(model).__name__}, which overrides `{changed[0]}`. Put what "
        "that does into the graph as layers; if it changes no answer, give "
        "`keras.Model(model.inputs, model.outputs)`."
    )


def _names(tensors):
    return [tensor.name for tensor in tensors]


def _with_output(functional, output):
    """Returns a model of one of several outputs, which share the layers."""
    named = dict(zip(functional.output_names, functional.outputs, strict=True))
    structure = output_structure(functional)
    if isinstance(structure, dict):
        named |= {
            name: tensor
            for name, tensor in structure.items()
            if isinstance(tensor, keras.KerasTensor)
        }
    if output not in named:
        raise UsageError(
            "`output` must be the name of the output to take, one of "
            f"{list(named)}. Received: output={output!r} for "
            f"{functional.name!r}. Give it in Python as `output=`, in "
            "commands as `--output`."
        )
    return keras.Model(functional.inputs, named[output], name=functional.name)


def _is_pipeline(model):
    """Tells whether a model predicts as KerasHub's tasks do.

    They preprocess images and then run their graph. KerasHub need not be
    installed, so its classes are known by their names.
    """
    return (
        _owner(model, "preprocess_samples") in ("Task", "PipelineModel")
        and _owner(model, "predict") == "PipelineModel"
    )


def _owner(thing, method):
    """Returns the name of the class that a method is written in."""
    for kind in type(thing).__mro__:
        if method in vars(kind):
            return kind.__name__
    return None


def custom_layers_of(model: keras.Model) -> list[type]:
    """Lists the classes of layers in a model that are not Keras' own."""
    kinds = dict.fromkeys(
        type(layer) for layer in parts_of(model, include_self=False)
    )
    return [kind for kind in kinds if kind.__module__.split(".")[0] != "keras"]


def registered_name(kind: type) -> str:
    """Returns the name that a layer class of a user's own is registered by.

    Raises:
        UsageError: If it is not registered, or no layer class.
    """
    is_layer = isinstance(kind, type) and issubclass(kind, keras.layers.Layer)
    name = keras.saving.get_registered_name(kind) if is_layer else ""
    if ">" in name:
        return name
    raise UsageError(
        "Modules have Keras' own layers and registered ones, so that they can "
        f"be saved and loaded. Received: {getattr(kind, '__name__', kind)!r}, "
        "which is no registered layer class. Put "
        "`@keras.saving.register_keras_serializable(package='...')` above the "
        "class."
    )


def is_preprocessing(model: keras.Model) -> bool:
    """Tells whether a model preprocesses images outside of its graph."""
    return (
        _is_pipeline(model) and getattr(model, "preprocessor", None) is not None
    )


def preprocessing(
    model: keras.Model, input_shape: Sequence[int] | None = None
) -> tuple[list[keras.layers.Layer], tuple[int | None, ...]]:
    """Writes what a model does in front of its graph as built-in layers.

    Args:
        model: A model for which `is_preprocessing` holds.
        input_shape: Shape of the images. Defaults to the one that they are
            resized to, so that nothing needs to be.

    Returns:
        Tuple `(layers, shape)`: what to call on images, and the shape of the
        images, batch axis first.

    Raises:
        UnsupportedModelError: If it can not be written so.
    """
    converter = model.preprocessor
    if _owner(converter, "call") == "ImageClassifierPreprocessor":
        converter = converter.image_converter
    shape = tuple(model.input_shape)
    if converter is None:
        return [], sized(shape, input_shape, model.name)
    if _owner(converter, "call") == "ImageConverter":
        return _of_converter(converter, model, input_shape)
    is_built_in = type(converter).__module__.startswith("keras.")
    if isinstance(converter, keras.layers.Layer) and is_built_in:
        return [converter], sized(shape, input_shape, model.name)
    raise UnsupportedModelError(
        "Preprocessing that runs in front of a source model's graph must be "
        "an image converter of KerasHub or a built-in Keras layer. Received: "
        f"{model.name!r} with a preprocessor of type "
        f"{type(converter).__name__}. Set `model.preprocessor = None`, and "
        "give images that have gone through it."
    )


def _of_converter(converter, model, input_shape):
    layers, shape = [], list(model.input_shape)
    if converter.image_size is not None:
        at = 2 if converter.data_format == "channels_first" else 1
        resized = list(shape)
        resized[at : at + 2] = converter.image_size
        shape[at : at + 2] = None, None
        shape = sized(shape, input_shape or resized[1:], model.name)
        if shape != tuple(resized):
            layers.append(converter.resizing)
    else:
        shape = sized(shape, input_shape, model.name)
    scale, offset = converter.scale, converter.offset
    if scale is not None or offset is not None:
        layers.append(
            keras.layers.Rescaling(
                1.0 if scale is None else scale,
                0.0 if offset is None else offset,
                name="rescaling",
            )
        )
    return layers, shape


def answers_of(source: keras.Model, images):
    """Runs a source model on images, with what it does in front of its graph.

    Args:
        source: The source model.
        images: Tensor `(batch, ...)`.

    Returns:
        Tensor or array `(batch, num_scores)`.
    """
    if is_preprocessing(source):
        images = keras.ops.convert_to_numpy(images)
        return source.predict(images, verbose=0)
    structure = getattr(source, "_inputs_struct", None)
    if structure is not None:
        images = tree.pack_sequence_as(structure, [images])
    (answers,) = tree.flatten(source(images, training=False))
    return answers


def sized(
    shape: Sequence[int | None],
    input_shape: Sequence[int] | None,
    name: str,
) -> tuple[int | None, ...]:
    """Fills the sizes that a source model leaves open.

    Args:
        shape: Shape of the model's input, batch axis first.
        input_shape: Shape of the images, `(height, width, channels)`; the
            channels may be left out if there is one.
        name: Name of the model, for the error.

    Raises:
        UsageError: If the model does not take such images.
    """
    if input_shape is None:
        return tuple(shape)
    given = tuple(input_shape)
    if len(given) == len(shape) - 2 and shape[-1] == 1:
        given += (1,)
    if len(given) != len(shape) - 1 or any(
        own not in (None, size) or size is None
        for own, size in zip(shape[1:], given)
    ):
        raise UsageError(
            "`input_shape` must be the shape of images that the source model "
            f"takes. Received: input_shape={tuple(input_shape)}, and {name!r} "
            f"takes images of shape {tuple(shape[1:])}. Bring the images to "
            "it; a `None` stands for any size."
        )
    return (shape[0], *given)
