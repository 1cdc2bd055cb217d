"""Layers in which every class has masks, gains, scales and shifts of its own.

A *row* is one image seen by one module. Behind the layer where rows branch,
tensors have one entry for each row, the rows of an image in a run.
"""

from kmod.layers.class_masked import ClassMasked
from kmod.layers.class_masked import ClassMaskedNormalization
from kmod.layers.kernel_masks import KernelMasks
from kmod.layers.rows import ClassScaleShift
from kmod.layers.rows import MaskRows
from kmod.layers.rows import RepeatRows
from kmod.layers.rows import SplitRows

__all__ = [
    "ClassMasked",
    "ClassMaskedNormalization",
    "ClassScaleShift",
    "KernelMasks",
    "MaskRows",
    "RepeatRows",
    "SplitRows",
]
