import pytest

from kmod.errors import ArtifactError
from kmod.modules.adaptation import Adaptation
from kmod.modules.adaptation import plan_adaptation
from kmod.modules.manifest import InputContract

GREY = InputContract((28, 28, 1), "float32", (0.0, 1.0))
RGB = InputContract((32, 32, 3), "float32", (-1.0, 1.0))


def contract(shape=(8, 8, 1), dtype="float32", values=(0.0, 255.0)):
    return InputContract(shape, dtype, values)


def test_equal_contracts_need_nothing():
    adaptation = plan_adaptation(GREY, GREY)
    assert adaptation == Adaptation()
    assert not adaptation.is_needed
    assert adaptation.as_dict() == {}


@pytest.mark.parametrize(
    ("images", "module", "size", "steps"),
    [
        pytest.param(
            GREY,
            RGB,
            "resize",
            {"resize": (32, 32), "rescale": (2.0, -1.0), "to_rgb": True},
            id="grey-to-rgb",
        ),
        pytest.param(
            RGB,
            GREY,
            "resize",
            {"to_grey": True, "resize": (28, 28), "rescale": (0.5, 0.5)},
            id="rgb-to-grey",
        ),
        pytest.param(
            GREY,
            RGB,
            "pad",
            {
                "rescale": (2.0, 0.0),
                "pad": ((2, 2), (2, 2)),
                "shift": -1.0,
                "to_rgb": True,
            },
            id="black-border-where-black-is-not-zero",
        ),
        pytest.param(
            contract((9, 6, 1)),
            contract((6, 9, 1)),
            "pad",
            {"crop": ((1, 2), (0, 0)), "pad": ((0, 0), (1, 2))},
            id="crop-rows-and-pad-columns",
        ),
        pytest.param(
            contract((16, 24, 1)),
            contract((8, 8, 1)),
            "resize",
            {"pool": (2, 3)},
            id="whole-factors-only-average",
        ),
        pytest.param(
            contract((17, 8, 1)),
            contract((8, 8, 1)),
            "resize",
            {"pool": (2, 1), "resize": (8, 8)},
            id="average-and-resize",
        ),
        pytest.param(
            contract(dtype="uint8"),
            contract(values=(0.0, 1.0)),
            "resize",
            {"from_dtype": "uint8", "rescale": (1 / 255, 0.0)},
            id="from-bytes",
        ),
        pytest.param(
            contract(),
            contract(dtype="uint8"),
            "resize",
            {"to_dtype": "uint8"},
            id="to-bytes",
        ),
        pytest.param(
            contract((8, 8, 4)),
            contract((4, 8, 4)),
            "resize",
            {"pool": (2, 1)},
            id="any-equal-number-of-channels",
        ),
    ],
)
def test_steps(images, module, size, steps):
    adaptation = plan_adaptation(images, module, size)
    assert adaptation.is_needed
    assert adaptation.as_dict() == steps


@pytest.mark.parametrize(
    ("images", "module", "message"),
    [
        (contract((8, 8, 2)), contract(), "or 1 and 3"),
        (contract((8, 8, 4)), contract((8, 8, 3)), "or 1 and 3"),
        (contract((8, 1)), contract(), "is \\(height, width, channels\\)"),
        (contract(), contract(values=(1.0, 1.0)), "range of values rises"),
        (contract(values=(0.0, float("inf"))), contract(), "values rises"),
    ],
)
def test_no_way(images, module, message):
    with pytest.raises(ArtifactError, match=f"Received: .*{message}"):
        plan_adaptation(images, module)
