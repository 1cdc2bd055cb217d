"""Callbacks that watch the training of a modular model and choose its end."""

from kmod.callbacks.best_modules import BestModules
from kmod.callbacks.mask_recorder import MaskRecorder

__all__ = ["BestModules", "MaskRecorder"]
