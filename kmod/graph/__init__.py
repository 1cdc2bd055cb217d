"""Channel graph: which tensors of a CNN carry which kernels' channels."""

from kmod.graph.channel_graph import ChannelGraph
from kmod.graph.channel_graph import channel_graph
from kmod.graph.rebuild import rebuild
from kmod.graph.rules.base import Kept
from kmod.graph.rules.base import LayerRule
from kmod.graph.rules.base import copy_of
from kmod.graph.rules.base import set_state
from kmod.graph.rules.per_channel import PassThrough
from kmod.graph.rules.table import register_channel_rule

__all__ = [
    "ChannelGraph",
    "Kept",
    "LayerRule",
    "PassThrough",
    "channel_graph",
    "copy_of",
    "rebuild",
    "register_channel_rule",
    "set_state",
]
