"""A class module: one small model and what is known of it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING
from typing import Any

if TYPE_CHECKING:
    import keras

CALIBRATION_LAYER = "calibration"
SCORE_LAYER = "score"


@dataclasses.dataclass(frozen=True)
class ModuleInfo:
    """What is known of one module.

    Attributes:
        class_name: Name of the class that the module recognises.
        class_index: Index of that class in the source model's output.
        source_digest: `sha256:...` over the source model's config and weights.
        kept_kernels: For each kernel layer of the source model, the sorted
            indices of the kernels the module keeps, in that layer's numbering.
        num_kernels: Number of kernels of the whole source model.
        retention_rate: Kept kernels ÷ `num_kernels`, 0 to 1.
        parameters: Number of weights of the module.
        macs: Multiply-accumulates of the module for one image.
        calibration: `scale` and `shift` of the raw score, and the number of
            images (`num_images`) they were fitted on, `num_class_images` of
            them of its class, where that is known. Without images of its
            class, or where scores do not rise with it, they are 1 and 0.
        metrics: Figures on held-out data, by name.
        max_output_gap: Largest difference between module and masked model,
            relative to the largest raw score; `None` if never compared.
        answers: Its log-odds for the first of `comparison_images`, by which
            one sees later whether it still answers so; empty before it is
            saved, and of modules that were saved without.
    """

    class_name: str
    class_index: int
    source_digest: str
    kept_kernels: Mapping[str, tuple[int, ...]]
    num_kernels: int
    retention_rate: float
    parameters: int
    macs: int
    calibration: Mapping[str, Any]
    metrics: Mapping[str, float]
    max_output_gap: float | None
    answers: tuple[float, ...] = ()


@dataclasses.dataclass(frozen=True)
class ClassModule:
    """A physically smaller model that scores one class.

    Attributes:
        model: Functional model of built-in layers, images to
            `(batch, 1)`: the probability that an image shows the class. Its
            last layers are the Dense layer `calibration` (raw score to
            log-odds) and the sigmoid `score`.
        info: What is known of the module.
    """

    model: keras.Model
    info: ModuleInfo
