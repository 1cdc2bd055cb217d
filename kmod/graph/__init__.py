"""Channel graph: which tensors of a CNN carry which kernels' channels."""

from kmod.graph.calls import Call
from kmod.graph.calls import TensorRef
from kmod.graph.calls import Trace
from kmod.graph.channel_graph import ChannelGraph
from kmod.graph.channel_graph import PinCost
from kmod.graph.channel_graph import channel_graph
from kmod.graph.channels import ChannelMap
from kmod.graph.channels import ChannelSpace
from kmod.graph.channels import Pin
from kmod.graph.kernels import KernelTable
from kmod.graph.rebuild import rebuild
from kmod.graph.rules.base import Kept
from kmod.graph.rules.base import LayerRule
from kmod.graph.rules.base import copy_of
from kmod.graph.rules.base import set_state
from kmod.graph.rules.per_channel import PassThrough
from kmod.graph.rules.table import register_channel_rule

__all__ = [
    "Call",
    "ChannelGraph",
    "ChannelMap",
    "ChannelSpace",
    "Kept",
    "KernelTable",
    "LayerRule",
    "PassThrough",
    "Pin",
    "PinCost",
    "TensorRef",
    "Trace",
    "channel_graph",
    "copy_of",
    "rebuild",
    "register_channel_rule",
    "set_state",
]
