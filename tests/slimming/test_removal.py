import keras
import numpy as np
import pytest
from keras import layers

from kmod.errors import UnsupportedModelError
from kmod.graph.sizes import layer_macs
from kmod.graph.sizes import model_sizes
from kmod.modular.macs import Macs
from kmod.slimming import removal
from kmod.slimming.removal import GatedNetwork
from kmod.slimming.removal import cut_kernels
from kmod.slimming.removal import least_costs
from kmod.slimming.removal import remove_kernels

DEAD = [1, 4, 5]


@pytest.fixture
def network():
    """A residual network; nobody reads three kernels of its layer `second`."""
    keras.utils.set_random_seed(0)
    image = keras.Input((8, 8, 1))
    x = layers.Conv2D(6, 3, name="first")(image)
    x = layers.BatchNormalization(name="norm")(x)
    x = layers.ReLU(name="relu")(x)
    y = layers.Conv2D(8, 3, padding="same", name="second")(x)
    y = layers.ReLU(name="relu_2")(y)
    x = layers.Add(name="add")(
        [x, layers.Conv2D(6, 3, padding="same", name="third")(y)]
    )
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    model = keras.Model(image, layers.Dense(3, name="logits")(x))
    kernel, bias = model.get_layer("third").get_weights()
    kernel[:, :, DEAD] = 0
    model.get_layer("third").set_weights([kernel, bias])
    model.get_layer("norm").set_weights(
        [np.linspace(a, b, 6) for a, b in [(0.5, 1), (0, 1), (-1, 1), (1, 2)]]
    )
    return model


@pytest.fixture
def images():
    random = np.random.default_rng(0)
    return random.normal(size=(256, 8, 8, 1)).astype("float32")


def test_kernels_that_nobody_needs_go_first(network, images):
    before = network.get_weights()
    budgets = {"macs": 0.65 * model_sizes(network).macs}
    smaller, _ = remove_kernels(network, budgets, images, 0)
    assert model_sizes(smaller).macs <= budgets["macs"]
    kept = smaller.get_layer("second").get_weights()[0].shape[-1]
    assert kept == 8 - len(DEAD)
    alive = np.delete(network.get_layer("second").get_weights()[0], DEAD, 3)
    np.testing.assert_array_equal(
        smaller.get_layer("second").get_weights()[0], alive
    )
    np.testing.assert_allclose(
        smaller.predict(images, verbose=0),
        network.predict(images, verbose=0),
        atol=1e-5,
    )
    for old, new in zip(before, network.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


def test_smaller_network_is_the_gated_one(network, images, monkeypatch):
    """A network that is cut elsewhere than its gates are shut is refused."""
    budgets = {"macs": 0.3 * model_sizes(network).macs}
    remove_kernels(network, budgets, images, 0)
    genuine = removal.rebuild

    def other(graph, mask):
        ids = graph.kernels.ids_of("second")
        mask = np.array(mask)
        kept, gone = ids[mask[ids] > 0], ids[mask[ids] == 0]
        mask[kept[0]], mask[gone[0]] = 0, 1
        return genuine(graph, mask)

    monkeypatch.setattr(removal, "rebuild", other)
    with pytest.raises(UnsupportedModelError, match="gap of .* report it"):
        remove_kernels(network, budgets, images, 0)


@pytest.mark.parametrize("name", ["macs", "parameters"])
def test_every_layer_keeps_a_kernel(network, images, name):
    sizes = model_sizes(network)
    least = least_costs(network, {name: 0})[name]
    smallest, _ = remove_kernels(network, {name: 0}, images, 0)
    assert getattr(model_sizes(smallest), name) == pytest.approx(
        least, rel=0.15
    )
    assert least < 0.2 * getattr(sizes, name)
    counts = [layer.filters for layer in smallest.layers if _is_conv(layer)]
    assert counts == [1, 1, 1]


@pytest.mark.long
def test_layers_keep_multiples_of_sixteen_or_fewer(wide, images, monkeypatch):
    """One branch of eight kernels stays as it is or goes as a whole."""
    counts, used = _counts_left(wide, images)
    full = np.array([x.filters for x in wide.layers if _is_conv(x)])
    assert {tuple(each) for each in counts} != {tuple(full)}
    for each in counts:
        assert np.all((each < 16) | (each % 16 == 0) | (each == full))
        assert each[-1] in (0, 8) and each[-2:].any()
    assert min(used) > 0.85
    monkeypatch.setattr(removal, "TRIES", 1)
    assert min(_counts_left(wide, images)[1]) < 0.8  # A block freed too much.
    monkeypatch.setattr(removal, "ROUND_TO", 1)
    singly, _ = _counts_left(wide, images)
    assert any(np.any((each > 16) & (each % 16 > 0)) for each in singly[1:])


def test_what_would_stay_later_stays_now(wide, images):
    whole = model_sizes(wide).macs
    now, later = {"macs": 0.75 * whole}, {"macs": 0.35 * whole}
    _, last = remove_kernels(wide, later, images, 0)
    smaller, mask = remove_kernels(wide, now, images, 0, later)
    assert later["macs"] < model_sizes(smaller).macs <= now["macs"]
    assert np.all(mask >= last) and np.any(mask > last)
    _, alone = remove_kernels(wide, now, images, 0)
    assert not np.all(alone >= last)


@pytest.fixture
def branched():
    """Two blocks of branches; `used` is read beside its concatenation."""
    keras.utils.set_random_seed(0)
    image = keras.Input((8, 8, 1))
    x = layers.Conv2D(6, 3, name="stem")(image)
    y = layers.Conv2D(4, 1, activation="relu", name="in_front")(x)
    y = layers.Conv2D(5, 5, padding="same", name="costly")(y)
    y = layers.BatchNormalization(name="norm")(y)
    y = layers.ReLU(name="relu")(y)
    z = layers.MaxPooling2D(3, 1, padding="same", name="pool")(x)
    z = layers.Conv2D(4, 1, activation="sigmoid", name="after_pool")(z)
    x = layers.Concatenate(name="join")(
        [layers.Conv2D(6, 1, name="cheap")(x), y, z]
    )
    y = layers.Conv2D(4, 3, padding="same", name="used")(x)
    x = keras.ops.concatenate([layers.Conv2D(4, 1, name="last")(y), y], axis=-1)
    x = layers.GlobalAveragePooling2D()(x)
    model = keras.Model(image, layers.Dense(3, name="logits")(x))
    for weight in model.get_layer("norm").weights:  # No zero stays zero.
        weight.assign(np.linspace(0.5, 1.5, 5))
    return model


@pytest.mark.parametrize(
    "gone, left",
    [
        (["costly"], ["stem", "cheap", "after_pool", "used", "last"]),
        (
            ["costly", "after_pool", "last"],
            ["stem", "cheap", "used"],
        ),
        (["cheap", "costly"], ["stem", "after_pool", "used", "last"]),
    ],
)
def test_inputs_of_concatenations_can_go_whole(branched, images, gone, left):
    gated = GatedNetwork(branched)
    kernels = gated.graph.kernels
    mask = np.ones(kernels.num_groups, "float32")
    for name in gone:
        mask[kernels.groups[kernels.ids_of(name)]] = 0
    assert all(mask[family].any() for family in gated.placement.families)
    smaller = gated.cut(mask)
    names = {layer.name for layer in smaller.layers}
    assert {layer.name for layer in smaller.layers if _is_conv(layer)} == {
        *left
    }
    assert not names & {*gone, "in_front"} and {*left} <= names
    gated.gates.mask.assign(mask[None])
    expected = np.array(gated(images))
    np.testing.assert_allclose(np.array(smaller(images)), expected, atol=1e-5)
    assert np.abs(np.array(branched(images)) - expected).max() > 1e-3


def test_inputs_that_other_layers_read_stay(branched, images):
    gated = GatedNetwork(branched)
    kernels = gated.graph.kernels
    may_be_empty = {
        name
        for name in kernels.layers
        if not any(
            {*family} <= {*kernels.groups[kernels.ids_of(name)]}
            for family in gated.placement.families
        )
    }
    assert may_be_empty == {"cheap", "costly", "after_pool", "last"}
    smallest, _ = remove_kernels(branched, {"macs": 0}, images, 0)
    left = {layer.name for layer in smallest.layers if _is_conv(layer)}
    assert {"stem", "used"} <= left and "costly" not in left


@pytest.fixture
def wide():
    """A residual network of layers of 40, 48 and 20 kernels, one split."""
    keras.utils.set_random_seed(0)
    image = keras.Input((8, 8, 1))
    x = layers.Conv2D(40, 3, activation="relu", name="first")(image)
    y = layers.Conv2D(48, 3, padding="same", activation="relu")(x)
    y = layers.Conv2D(40, 3, padding="same")(y)
    x = layers.Add()([x, y])
    x = layers.Concatenate()(
        [
            layers.Conv2D(20, 1, activation="relu")(x),
            layers.Conv2D(8, 3, padding="same", activation="relu")(x),
        ]
    )
    x = layers.GlobalAveragePooling2D()(x)
    return keras.Model(image, layers.Dense(3, name="logits")(x))


def _counts_left(model, images):
    """Returns the kernels of each layer, and the share of the budget used."""
    names = [layer.name for layer in model.layers if _is_conv(layer)]
    counts, used = [], []
    for share in (0.6, 0.35):
        budget = share * model_sizes(model).macs
        smaller, _ = remove_kernels(model, {"macs": budget}, images, 0)
        left = {x.name: x.filters for x in smaller.layers if _is_conv(x)}
        counts.append(np.array([left.get(name, 0) for name in names]))
        used.append(model_sizes(smaller).macs / budget)
    return counts, used


def _is_conv(layer):
    return isinstance(layer, layers.Conv2D)


def test_parameters_are_kept_to_as_well_as_macs(network, images):
    sizes = model_sizes(network)
    budgets = {"macs": 0.9 * sizes.macs, "parameters": 0.5 * sizes.parameters}
    smaller = model_sizes(remove_kernels(network, budgets, images, 0)[0])
    assert smaller.macs <= budgets["macs"]
    assert smaller.parameters <= 1.02 * budgets["parameters"]


def test_gradients_are_those_of_the_gates(network, images):
    """Compared with finite differences of the loss, of classes as drawn."""
    gated = GatedNetwork(network)
    images, draws = images[:32], np.linspace(0, 1, 32, dtype="float32")
    shares = np.exp(np.array(gated(images), "float64")).cumsum(axis=1)
    labels = (shares > draws[:, None] * shares[:, -1:]).argmax(axis=1)
    labels[-1] = 2  # No share is above 1.
    assert len(np.unique(labels)) == 3
    (gradients,) = gated.gradients(images, draws[:, None])

    def loss(gates):
        gated.gates.mask.assign(gates[None])
        logits = np.asarray(gated(images), "float64")
        logits -= logits.max(axis=1, keepdims=True)
        shares = np.exp(logits)
        shares /= shares.sum(axis=1, keepdims=True)
        return -np.log(shares[np.arange(32), labels]).mean()

    ones = np.ones(len(gradients), "float32")
    for group in (0, 3, 6, 10):
        step = np.zeros_like(ones)
        step[group] = 0.01
        slope = (loss(ones + step) - loss(ones - step)) / 0.02
        assert gradients[group] == pytest.approx(slope, rel=0.02, abs=1e-4)


@pytest.mark.skipif(
    keras.backend.backend() != "tensorflow",
    reason="only TensorFlow traces again",
)
def test_gradients_are_traced_once(network, images, monkeypatch):
    traced, loss = [], removal._loss_of_drawn

    def counted(draws, logits):
        traced.append(logits.shape)
        return loss(draws, logits)

    monkeypatch.setattr(removal, "_loss_of_drawn", counted)
    draws = np.zeros((len(images), 1), "float32")
    GatedNetwork(network).gradients(images, draws)
    assert len(traced) == 1


def test_what_removal_saves_is_counted_where_kernels_are_made_and_read():
    model = keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            layers.Conv2D(4, 3, name="a"),
            layers.Conv2D(6, 3, name="b"),
            layers.GlobalAveragePooling2D(),
            layers.Dense(3, name="logits"),
        ]
    )
    gated = GatedNetwork(model)
    macs = Macs(gated.graph, gated.placement, layer_macs(model))
    mask = np.ones(10, "float32")
    mask[[1, 7]] = 0
    saved = macs.of_removal(mask)
    for group in (0, 5):
        less = np.array(mask)
        less[group] = 0
        difference = macs.of_network(mask) - macs.of_network(less)
        assert saved[group] == pytest.approx(difference)


def test_kernels_of_frozen_layers_stay(network, images):
    network.get_layer("second").trainable = False
    smaller, _ = remove_kernels(network, {"macs": 0}, images, 0)
    assert smaller.get_layer("second").filters == 8
    assert smaller.get_layer("first").filters == 1
    assert not network.get_layer("second").trainable
    assert network.get_layer("first").trainable
    network.trainable = False
    with pytest.raises(UnsupportedModelError, match="do not train"):
        remove_kernels(network, {"macs": 0}, images, 0)


def test_same_seed_removes_the_same(network, images):
    budgets = {"macs": 0.4 * model_sizes(network).macs}
    first, mask = remove_kernels(network, budgets, images, 3)
    again, _ = remove_kernels(network, budgets, images, 3)
    for made in (again, cut_kernels(network, mask)):
        for one, other in zip(first.get_weights(), made.get_weights()):
            np.testing.assert_array_equal(one, other)


def test_network_of_pinned_kernels_is_refused(images):
    pinned = keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            layers.Conv2D(4, 3, activation="softmax", name="conv"),
            layers.GlobalAveragePooling2D(),
            layers.Dense(3),
        ]
    )
    with pytest.raises(UnsupportedModelError, match="'conv' pins 4"):
        remove_kernels(pinned, {"macs": 1}, images, 0)
