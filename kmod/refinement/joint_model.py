"""All modules of a store as one model that trains them together."""

import keras
from keras import ops

from kmod.composition.sharing import SHARED
from kmod.composition.sharing import merge_models
from kmod.masks.losses import distillation_loss
from kmod.modules.class_module import CALIBRATION_LAYER


class JointModel(keras.Model):
    """Trains modules together, with their source model as teacher.

    What the modules have in common, their stem, runs once and stays as it is;
    every other layer trains. Besides the loss that it is compiled with, the
    model learns the source model's own answers.

    Args:
        modules: Modules of one source model, images to `(batch, 1)`. They are
            copied, never changed.
        teacher: The source model up to its logits, frozen.
        distillation: Float, weight of learning from the teacher.
        **kwargs: Base model keyword arguments, such as `name`.

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
        for layer in self.network.layers:
            layer.trainable = not layer.name.startswith(f"{SHARED}_")

    def call(self, inputs, training=False):
        scores = self.network(inputs, training=training)
        if training and self.distillation:
            logits = ops.stop_gradient(self.teacher(inputs, training=False))
            self.add_loss(
                self.distillation * distillation_loss(scores, logits, None, 1.0)
            )
        return scores

    def weights_of(self, index: int, module: keras.Model) -> keras.Model:
        """Returns a copy of a module with the weights it has learned.

        Args:
            index: Index of the module.
            module: The module as it was given.
        """
        copy = keras.models.clone_model(module)
        copy.set_weights(module.get_weights())
        known = {layer.name: layer for layer in self.network.layers}
        for layer in copy.layers:
            name = f"{self.owners[index]}_{layer.name.replace('/', '_')}"
            if name in known:
                layer.set_weights(known[name].get_weights())
        return copy


def raw_score_model(module: keras.Model) -> keras.Model:
    """Returns the part of a module in front of its calibration."""
    return keras.Model(module.inputs, module.get_layer(CALIBRATION_LAYER).input)
