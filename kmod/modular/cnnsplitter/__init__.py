"""CNNSplitter: finds every class's kernels by a genetic search."""

from kmod.modular.cnnsplitter.modularize import modularize_by_search
from kmod.modular.cnnsplitter.options import SearchOptions

__all__ = ["SearchOptions", "modularize_by_search"]
