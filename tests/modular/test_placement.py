import keras
import pytest
from keras import layers

from kmod.errors import UnsupportedModelError
from kmod.errors import UsageError
from kmod.graph import channel_graph
from kmod.modular.placement import place


def conv(name, **options):
    return layers.Conv2D(2, 1, name=name, **options)


def place_in(body, mask_from=None, scale_and_shift=True):
    image = keras.Input((4, 4, 3))
    features = layers.GlobalAveragePooling2D()(body(image))
    model = keras.Model(image, layers.Dense(2, name="out")(features))
    return place(channel_graph(model), mask_from, scale_and_shift)


def stack(x):
    for name in "abc":
        x = conv(name)(x)
    return x


def residual(x):
    x = conv("a")(x)
    return conv("c")(layers.Add()([x, conv("b")(x)]))


def test_everything_may_go():
    placement = place_in(stack)
    assert placement.may_go.all()
    assert placement.sizes.tolist() == 6 * [1]
    assert placement.home.tolist() == [0, 0, 1, 1, 2, 2]
    assert placement.least_retention == 0


def test_stem_stays():
    placement = place_in(stack, mask_from="b")
    assert placement.may_go.astype(int).tolist() == [0, 0, 1, 1, 1, 1]
    assert placement.least_retention == pytest.approx(1 / 3)
    assert [family.tolist() for family in placement.families] == [
        [2, 3],
        [4, 5],
    ]
    assert list(placement.adapted) == ["b", "c"]


def test_what_is_joined_with_the_stem_stays():
    placement = place_in(residual, mask_from="b")
    assert placement.sizes.tolist() == [2, 2, 1, 1]
    assert placement.home.tolist() == [0, 0, 2, 2]
    assert placement.may_go.astype(int).tolist() == [0, 0, 1, 1]


def test_mask_from_must_be_a_layer_with_kernels():
    with pytest.raises(
        UsageError, match=r"one of \['a', 'b', 'c'\].*mask_from='out'"
    ):
        place_in(stack, mask_from="out")


def test_mask_from_must_leave_something():
    def body(x):
        return layers.Softmax()(stack(x))

    with pytest.raises(UsageError, match="mask_from='c', behind which all"):
        place_in(body, mask_from="c")


@keras.saving.register_keras_serializable("test_placement")
class Unknown(layers.Layer):
    def call(self, inputs):
        return inputs


def test_model_whose_kernels_are_all_pinned():
    message = (
        "of whose 2 kernels none can. Of 2 kernels, layer 'own' pins 2, "
        "because kmod has no rule for Unknown layers. Teach kmod .* with "
        "`kmod.register_channel_rule`. `kmod inspect` lists all."
    )
    with pytest.raises(UnsupportedModelError, match=message):
        place_in(lambda x: Unknown(name="own")(conv("a")(x)))


def normalised(x):
    x = layers.BatchNormalization(name="norm")(conv("a")(x))
    x = layers.BatchNormalization(scale=False, name="half")(conv("b")(x))
    x = conv("c", activation="relu")(x)
    x = conv("d", use_bias=False)(x)
    x = layers.SeparableConv2D(2, 1, name="e")(x)
    return layers.Conv2DTranspose(2, 1, name="f")(x)


def test_scales_go_where_weights_can_take_them_up():
    placement = place_in(normalised)
    assert placement.adapted == ("norm", "e", "f")


def test_shared_layers_are_not_scaled():
    def body(x):
        twice = conv("twice")
        return twice(twice(conv("a")(x)))

    placement = place_in(body)
    assert list(placement.adapted) == ["a"]
    assert list(placement.gained) == ["out"]


def test_no_scales_without_them():
    placement = place_in(stack, scale_and_shift=False)
    assert placement.adapted == ()
    assert placement.gained == ()


def test_each_reader_of_masked_channels_has_gains():
    def body(x):
        x = conv("a")(x)
        return layers.Concatenate()([conv("b")(x), conv("c")(x)])

    placement = place_in(body)
    assert placement.gained == ("b", "c", "out")
    assert list(place_in(stack, mask_from="b").gained) == ["c", "out"]
