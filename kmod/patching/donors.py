"""The stores that modules may be taken from."""

import dataclasses
from collections.abc import Callable
from collections.abc import Sequence

import keras
import numpy as np

from kmod.data.streaming import predict
from kmod.graph.sharing import merge_models
from kmod.modules.adaptation import Adaptation
from kmod.modules.adaptation import adapt_model
from kmod.modules.adaptation import plan_adaptation
from kmod.modules.class_module import CALIBRATION_LAYER
from kmod.modules.class_module import ClassModule
from kmod.modules.manifest import InputContract
from kmod.modules.module_store import ModuleStore
from kmod.modules.module_store import load_store
from kmod.modules.module_store import split_class


@dataclasses.dataclass(frozen=True, eq=False)
class Donor:
    """A module store, and which of its modules fit a class.

    Attributes:
        store: The store.
        class_name: The class whose module fits every target; `None` for the
            class of the target's own name.
    """

    store: ModuleStore
    class_name: str | None = None

    def class_for(self, target: str) -> str | None:
        """Returns the class whose module fits a target, `None` for none."""
        if self.class_name is not None:
            return self.class_name
        return target if target in self.store else None

    def adaptation(self, contract: InputContract | None) -> Adaptation:
        """Works out how images become such as the modules take.

        Args:
            contract: The images; `None` if they are as the modules take them.

        Raises:
            ArtifactError: If there is no such way.
        """
        if contract is None:
            return Adaptation()
        return plan_adaptation(contract, self.store.manifest.input)


@dataclasses.dataclass(frozen=True, eq=False)
class ModuleAnswers:
    """What a module says of images, before and after its calibration."""

    raw: np.ndarray
    log_odds: np.ndarray


def read_donor(text: str) -> Donor:
    """Opens the donor that `STORE` or `STORE:CLASS` names.

    Raises:
        ArtifactError: If there is no store, or it has no such class.
    """
    path, class_name = split_class(text)
    store = load_store(path, verify=False)
    if class_name is not None:
        store.info(class_name)
    return Donor(store, class_name)


def adapted_part(
    store: ModuleStore,
    class_name: str,
    part: Callable[[keras.Model], keras.Model],
    contract: InputContract | None,
    image: keras.KerasTensor,
) -> keras.Model:
    """Returns a part of a module, for images that it may have to adapt.

    Args:
        store: The store.
        class_name: The module's class in it.
        part: Makes the part of the module's model, such as `log_odds_model`.
        contract: The images; `None` if they are as the modules take them.
        image: Input of the images; only shape and dtype are read.
    """
    adaptation = Donor(store).adaptation(contract)
    return adapt_model(part(store[class_name].model), adaptation, image)


def module_answers(
    modules: Sequence[ClassModule],
    images: np.ndarray,
    adaptation: Adaptation = Adaptation(),
) -> list[ModuleAnswers]:
    """Runs modules of a source once over images, what they share only once.

    Args:
        modules: The modules.
        images: Array `(n, ...)`.
        adaptation: How the images become such as the modules take.

    Returns:
        `ModuleAnswers` of `(n,)` for each module.
    """
    if not modules:
        return []
    layers = [each.model.get_layer(CALIBRATION_LAYER) for each in modules]
    image, outputs = merge_models(
        (f"module_{index}", keras.Model(module.model.input, layer.input))
        for index, (module, layer) in enumerate(zip(modules, layers))
    )
    own = keras.Input(images.shape[1:], dtype="float32")
    model = adapt_model(keras.Model(image, outputs), adaptation, own)
    raw = predict(model, images)
    answers = []
    for part, layer in zip(outputs, layers):
        scale, shift = layer.get_weights()
        own = raw[part][:, 0]
        answers.append(ModuleAnswers(own, own * scale[0, 0] + shift[0]))
    return answers
