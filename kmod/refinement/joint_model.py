"""All modules of a store as one model that trains them together."""

import keras

from kmod.composition.sharing import SHARED
from kmod.composition.sharing import merge_models
from kmod.graph import set_state
from kmod.masks.front import TEACHER
from kmod.masks.losses import distillation_loss
from kmod.modules.class_module import CALIBRATION_LAYER


class JointModel(keras.Model):
    """Trains modules together, with their source model as teacher.

    What the modules have in common, their stem, runs once and stays as it is;
    every other layer trains. So `stem` can be run ahead of the training, and
    the model takes what it made in place of images. Besides the loss that it
    is compiled with, the model learns the source model's own answers.

    Args:
        modules: Modules of one source model, images to `(batch, 1)`. They are
            copied, never changed.
        teacher: The source model up to its logits, frozen.
        distillation: Float, weight of learning from the teacher.
        **kwargs: Base model keyword arguments, such as `name`.

    Attributes:
        stem: Model from images to a dict: as `teacher` the source model's
            logits, and what the branches read.

    Output shape:
        `(batch, num_modules)`: raw scores before calibration.
    """

    def __init__(self, modules, teacher, distillation, **kwargs):
        super().__init__(**kwargs)
        self.distillation = distillation
        self.teacher = teacher
        self.owners = [f"module{index}" for index in range(len(modules))]
        image, outputs = merge_models(
            {
                owner: raw_score_model(module)
                for owner, module in zip(self.owners, modules, strict=True)
            }
        )
        scores = keras.layers.Concatenate(name="scores", dtype="float32")
        self.network = keras.Model(image, scores(list(outputs.values())))
        border = _border(self.network)
        self.stem = keras.Model(image, {TEACHER: teacher(image), **border})
        self.branches = keras.Model(list(border.values()), self.network.output)
        for layer in self.network.layers:
            layer.trainable = not _is_stem(layer)

    def call(self, inputs, training=False):
        if not isinstance(inputs, dict):
            inputs = self.stem(inputs, training=False)
        border = [inputs[name] for name in inputs if name != TEACHER]
        scores = self.branches(border, training=training)
        if training and self.distillation:
            self.add_loss(
                self.distillation
                * distillation_loss(scores, inputs[TEACHER], None, 1.0)
            )
        return scores

    def weights_of(self, index: int, module: keras.Model) -> keras.Model:
        """Returns a copy of a module with the weights it has learned.

        Args:
            index: Index of the module.
            module: The module as it was given.
        """
        copy = keras.models.clone_model(module)
        set_state(copy, module.get_weights())
        known = {layer.name: layer for layer in self.network.layers}
        for layer in copy.layers:
            name = f"{self.owners[index]}_{layer.name.replace('/', '_')}"
            if name in known:
                set_state(layer, known[name].get_weights())
        return copy


def _border(network):
    """Names the tensors of the stem that the branches read."""
    found = {}
    for operation in network.operations:
        if _is_stem(operation):
            continue
        for node in operation._inbound_nodes:
            for tensor in node.input_tensors:
                if _is_stem(tensor._keras_history.operation):
                    found[id(tensor)] = tensor
    return {f"border_{i}": tensor for i, tensor in enumerate(found.values())}


def _is_stem(operation):
    is_image = isinstance(operation, keras.layers.InputLayer)
    return is_image or operation.name.startswith(f"{SHARED}_")


def raw_score_model(module: keras.Model) -> keras.Model:
    """Returns the part of a module in front of its calibration."""
    return keras.Model(module.inputs, module.get_layer(CALIBRATION_LAYER).input)
