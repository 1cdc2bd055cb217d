"""Removes the kernels of a network that are worth least for what they cost."""

import dataclasses
import math
from collections.abc import Collection
from collections.abc import Mapping

import keras
import numpy as np
from keras import ops

from kmod.data.disk_arrays import take
from kmod.data.streaming import build_ahead
from kmod.data.streaming import streamed
from kmod.errors import UnsupportedModelError
from kmod.errors import UsageError
from kmod.graph import channel_graph
from kmod.graph import rebuild
from kmod.graph.exactness import TOLERANCE
from kmod.graph.exactness import output_gap
from kmod.graph.sizes import layer_macs
from kmod.graph.sizes import layer_parameters
from kmod.graph.sizes import model_sizes
from kmod.layers import KernelMasks
from kmod.metrics.latency import measure_latency
from kmod.modular.importance import joint_importances
from kmod.modular.macs import Macs
from kmod.modular.masked_network import MaskedNetwork
from kmod.modular.optimizer import ModularAdam
from kmod.modular.placement import families_of
from kmod.modular.placement import place
from kmod.modular.recipe import DEFAULT

COUNTS = {"macs": layer_macs, "parameters": layer_parameters}
STEPS = 128  # Gradients that importances are worked out from,
BATCH_SIZE = 32  # each of so many images.
SURPLUS = 1.5  # What a removal looks ahead by: two layers may share a cost.
ROUND_TO = 16  # Processors work on so many kernels at a time.
TRIES = 8  # Networks that removal chooses from.
WELL_USED = 0.95  # Of a budget; more of it counts for nothing.
NUM_COMPARED = 32
TIMED = 6  # Networks that are timed to find one that is fast enough.


class GatedNetwork(keras.Model):
    """A network with a gate for each of its kernel groups.

    Args:
        network: Flat model from images to logits. Its layers are used; none
            of them trains while the gates do. Kernels of those that do not
            train at all must stay.

    Attributes:
        graph: Channel graph of the network.
        placement: Which groups may go. An input of a concatenation may lose
            all of its groups.
        layer_groups: Sets of groups, one for each layer, or several that are
            joined.
        gates: Layer of the gates, `(1, num_groups)`.
    """

    def __init__(self, network: keras.Model):
        super().__init__(name="gated_network", dtype="float32")
        self.graph = channel_graph(network)
        self.placement = _placement(self.graph, network)
        self.layer_groups = families_of(self.graph, self.placement.may_go)
        self.trained = [layer for layer in network.layers if layer.trainable]
        self.gates = KernelMasks(1, self.graph.kernels.num_groups, name="gates")
        self.masked = MaskedNetwork(
            self.graph, self.gates, self.placement.may_go
        )
        # Keras keeps track of layers, not of what holds them.
        self.parts = [self.masked.stem, self.masked.body]

    def call(self, images, training=False):
        return self.masked(images, self.gates(images, training=training))[:, 0]

    def gradients(self, images: np.ndarray, draws: np.ndarray) -> np.ndarray:
        """Returns the gradient of the loss by each gate, batch by batch.

        The loss is the cross-entropy with a class that is drawn for each image,
        as likely as the network holds it.

        Args:
            images: Array of images.
            draws: Float array `(n, 1)` of numbers between 0 and 1 to draw by.

        Returns:
            Float array `(steps, num_groups)`.
        """
        for layer in self.trained:
            layer.trainable = False
        optimizer = ModularAdam(0.0, importance_steps=STEPS)
        self.compile(optimizer, loss=_loss_of_drawn)
        build_ahead(self)
        given = {
            "x": images,
            "y": draws,
            "batch_size": BATCH_SIZE,
            "shuffle": False,
        }
        self.fit(**streamed(given), verbose=0)
        for layer in self.trained:
            layer.trainable = True
        return optimizer.mask_gradients[:, 0]

    def cut(self, mask: np.ndarray) -> keras.Model:
        """Returns the network of some groups alone.

        Args:
            mask: Array of zeros and ones `(num_groups,)`.
        """
        return rebuild(self.graph, mask[self.graph.kernels.groups])


def remove_kernels(
    network: keras.Model,
    budgets: Mapping[str, float],
    images: np.ndarray,
    seed: int,
    later: Mapping[str, float] | None = None,
) -> tuple[keras.Model, np.ndarray]:
    """Cuts kernels out of a network until it fits in budgets.

    A kernel group is worth what the answers change without it, if all groups
    that are left are scaled anew; see `joint_importances`. The curvature is
    that of the Kullback-Leibler divergence from the answers, from gradients
    of the cross-entropy with classes that are drawn by them: no label is
    needed. Those that are worth least for what they cost go first.

    Args:
        network: Flat model from images to logits. It is not changed.
        budgets: What it may cost, by the names of `COUNTS`.
        images: Array of images to work the importances out on.
        seed: Integer, seed of the images and classes that are drawn.
        later: What it may cost after further removals, if any are to come.
            Only kernels go that would not stay then.

    Returns:
        The smaller network, which answers as this one does with the removed
        kernels' channels at zero, and which groups stay in it, for
        `cut_kernels`. It is as small as can be if the budgets can not be kept.

    Raises:
        UnsupportedModelError: If nothing can be removed, or the smaller
            network answers other than that.

    References:

    - [Theis et al., 2018](https://arxiv.org/abs/1801.05787), section 2:
      pruning by the Fisher information, which is that curvature.
    - [Singh and Alistarh, 2020](https://arxiv.org/abs/2004.14340).
    """
    gated = GatedNetwork(network)
    costs = _costs_of(network, gated, budgets)
    images, gradients = _gradients(network, gated, images, seed)
    if later is None:
        mask = _keep(gradients, gated, costs, budgets)
    else:
        mask = _keep(gradients, gated, costs, later, budgets)
    smaller = gated.cut(mask)
    _check(gated, mask, smaller, images[:NUM_COMPARED])
    return smaller, mask


def cut_kernels(network: keras.Model, mask: np.ndarray) -> keras.Model:
    """Cuts those kernels out of a network that `remove_kernels` chose.

    Args:
        network: Flat model from images to logits. It is not changed.
        mask: Which groups stay, zeros and ones `(num_groups,)`.
    """
    return GatedNetwork(network).cut(mask)


def macs_for_latency(
    network: keras.Model, ratio: float, images: np.ndarray, seed: int
) -> float:
    """Finds the multiply-accumulates at which a network is fast enough.

    Networks of the kernels that are worth most are cut and timed, one image
    at a time, each beside the whole network. Nothing is trained.

    Args:
        network, images, seed: As in `remove_kernels`.
        ratio: Time of one image to come down to, as a multiple of the
            network's.

    Returns:
        The most multiply-accumulates found that are fast enough.

    Raises:
        UsageError: If none of the networks is fast enough.
    """
    gated = GatedNetwork(network)
    costs = _costs_of(network, gated, ["macs"])
    _, gradients = _gradients(network, gated, images, seed)
    low = least_costs(network, costs)["macs"]
    high = costs["macs"].of_network(np.ones(gated.placement.may_go.shape))
    shares, fast = [], low
    for _ in range(TIMED):
        macs = math.sqrt(low * high)
        smaller = gated.cut(_keep(gradients, gated, costs, {"macs": macs}))
        shares.append(measure_latency(smaller) / measure_latency(network))
        if shares[-1] <= ratio:
            low = macs
            fast = max(fast, model_sizes(smaller).macs)
        else:
            high = macs
    if min(shares) > ratio:
        raise UsageError(
            "`latency_target` must be what removal can reach on this machine, "
            f"for this model about {min(shares):.2g}. Received: "
            f"latency_target={ratio}. Give a higher one; small models spend "
            "their time outside of kernels."
        )
    return fast


def smallest_network(network: keras.Model) -> keras.Model:
    """Returns a network of as few kernels as can be.

    Args:
        network: As in `remove_kernels`.
    """
    gated = GatedNetwork(network)
    return gated.cut(_fewest(gated))


def least_costs(
    network: keras.Model, names: Collection[str]
) -> dict[str, float]:
    """Returns what `remove_kernels` takes the smallest network to cost.

    Args:
        network: As in `remove_kernels`.
        names: Which costs, names of `COUNTS`.
    """
    gated = GatedNetwork(network)
    costs, mask = _costs_of(network, gated, names), _fewest(gated)
    return {name: each.of_network(mask) for name, each in costs.items()}


def _fewest(gated):
    """Returns a mask of what must stay, and one group of each family."""
    mask = (~gated.placement.may_go).astype("float32")
    for family in gated.placement.families:
        mask[family[0]] = 1
    return mask


def _placement(graph, network):
    """Returns what may go: no kernel of a layer that does not train."""
    placement = place(graph, None, scale_and_shift=False)
    may_go = placement.may_go.copy()
    table = graph.kernels
    for name in table.layers:
        if not network.get_layer(name).trainable:
            may_go[table.groups[table.ids_of(name)]] = False
    if not may_go.any():
        raise UnsupportedModelError(
            "A network must have kernels that can be removed. Received: "
            f"{network.name!r}, whose layers with kernels do not train. Set "
            "`trainable` of some of them."
        )
    families = families_of(graph, may_go, joined_may_go=True)
    return dataclasses.replace(placement, may_go=may_go, families=families)


def _costs_of(network, gated, names):
    """Returns how costs are counted, by name."""
    return {
        name: Macs(gated.graph, gated.placement, COUNTS[name](network))
        for name in names
    }


def _gradients(network, gated, images, seed):
    """Returns images that are drawn, and the gates' gradients by them."""
    random = np.random.default_rng(seed)
    count = min(STEPS * BATCH_SIZE, len(images))
    chosen = np.sort(random.choice(len(images), count, replace=False))
    images = take(images, chosen)
    draws = random.random((count, 1), "float32")
    return images, gated.gradients(images, draws)


def _logits(network, images):
    """Runs a network as it is: to compile it would take longer."""
    batches = range(0, len(images), BATCH_SIZE)
    return np.concatenate(
        [
            ops.convert_to_numpy(network(images[i : i + BATCH_SIZE]))
            for i in batches
        ]
    )


def _loss_of_drawn(draws, logits):
    """Returns the cross-entropy with classes that are drawn by logits."""
    shares = ops.cumsum(ops.softmax(logits), axis=-1)[:, :-1]
    drawn = ops.sum(ops.cast(shares < draws, "int32"), axis=-1)
    return keras.losses.sparse_categorical_crossentropy(
        drawn, logits, from_logits=True
    )


def _keep(gradients, gated, costs, budgets, now=None):
    """Returns which groups stay, zeros and ones `(num_groups,)`.

    `now` are budgets to keep to at first: of what is to go for `budgets`, no
    more goes than that takes.
    """
    worth, blocks = _in_order(gradients, gated, costs, budgets)
    plan = _plan(worth, blocks, gated, costs, budgets)
    if now is None:
        return plan
    mask = np.ones_like(plan)
    for _, _, block in blocks:
        if _fits(mask, costs, now):
            break
        if not plan[block].any():
            mask[block] = 0
    return mask


def _in_order(gradients, gated, costs, budgets):
    """Returns what groups are worth, and blocks of them in order of removal.

    A block is what it is worth for what it costs, the number of its layer, and
    its groups.
    """
    may_go = np.flatnonzero(gated.placement.may_go)
    whole = np.ones(len(gated.placement.may_go), "float32")
    saved = np.stack([c.of_removal(whole)[may_go] for c in costs.values()])
    left = [
        own.sum() - SURPLUS * max(c.of_network(whole) - budgets[name], 0)
        for own, (name, c) in zip(saved, costs.items())
    ]
    left = np.maximum(left, 1e-3 * saved.sum(axis=1))
    worth, share = np.zeros((2, len(whole)))
    worth[may_go] = joint_importances(
        gradients[:, may_go], saved, left, DEFAULT.own_importance
    )
    share[may_go] = (saved / left[:, None]).sum(axis=0).clip(1e-6)
    order = may_go[np.argsort(worth[may_go] / share[may_go], kind="stable")]
    blocks = [
        (worth[block].sum() / share[block].sum(), layer, block)
        for layer, own in enumerate(_blocks(order, gated))
        for block in own
    ]
    return worth, sorted(blocks, key=lambda block: block[0])


def _plan(worth, blocks, gated, costs, budgets):
    """Returns which groups stay in the end.

    The last block that goes may free far more than has to go, so it is also
    tried what goes if that one stays. Of these networks the one counts that
    makes use of the budgets, and of several the one that loses least.
    """
    found = []
    for _ in range(TRIES):
        mask, last = _without(blocks, gated, costs, budgets)
        if last is None:
            break
        used = max(c.of_network(mask) / budgets[n] for n, c in costs.items())
        found.append((min(used, WELL_USED), worth @ mask, mask))
        layer = blocks[last][1]
        blocks = blocks[:last] + [b for b in blocks[last:] if b[1] != layer]
    return max(found, key=lambda each: each[:2])[2] if found else mask


def _without(blocks, gated, costs, budgets):
    """Removes blocks in their order until the rest fits in budgets.

    Returns:
        Which groups stay, and the index of the last block that goes; `None`
        if none does or it still does not fit.
    """
    families = gated.placement.families
    mask = np.ones(len(gated.placement.may_go), "float32")
    removed = []
    for index, (_, _, block) in enumerate(blocks):
        if _fits(mask, costs, budgets):
            break
        mask[block] = 0
        if all(mask[family].any() for family in families):
            removed.append(index)
        else:
            mask[block] = 1
    if not removed or not _fits(mask, costs, budgets):
        return mask, None
    full = set()
    for index in reversed(removed):  # Some may stay after all.
        _, layer, block = blocks[index]
        mask[block] = layer not in full
        if not _fits(mask, costs, budgets):
            mask[block] = 0
            full.add(layer)
    return mask, removed[-1]


def _fits(mask, costs, budgets):
    return all(c.of_network(mask) <= budgets[n] for n, c in costs.items())


def _blocks(order, gated):
    """Splits groups into what is removed at once.

    Args:
        order: Groups that may go, in the order of removal.
        gated: The `GatedNetwork`.

    Returns:
        For each layer a list of arrays of groups in the order of removal,
        which leave multiples of `ROUND_TO`. Those of the last multiple go one
        by one if not all can go. So do groups of no layer, which follow.
    """
    layers, free = [], np.isin(np.arange(order.max() + 1), order)
    for groups in gated.layer_groups:
        own = order[np.isin(order, groups[free[groups]])]
        free[own] = False
        surplus = max(len(own) - ROUND_TO, 0)
        ends = [*range(surplus % ROUND_TO, surplus, ROUND_TO), surplus]
        if any({*family} <= {*groups} for family in gated.placement.families):
            ends += range(surplus, len(own))
        layers.append([x for x in np.split(own, ends) if len(x)])
    return layers + [[group] for group in order[free[order], None]]


def _check(gated, mask, smaller, images):
    """Compares a cut network with the same one, gates shut."""
    gated.gates.mask.assign(mask[None])
    expected, answers = (_logits(each, images) for each in (gated, smaller))
    gap = output_gap(answers, expected)
    if not gap <= TOLERANCE:
        raise UnsupportedModelError(
            "A cut network must answer as it did with the removed kernels at "
            f"zero, within {TOLERANCE:g} of the largest answer. Received: "
            f"{smaller.name!r} with a gap of {gap:.3g}. Please report it with "
            "the model."
        )
