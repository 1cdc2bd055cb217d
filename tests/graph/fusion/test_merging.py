import pytest

from kmod.graph.fusion.merging import common_name


@pytest.mark.parametrize(
    ("names", "name"),
    [
        (["cat_conv_1"], "cat_conv_1"),
        (["cat_conv_1", "dog_conv_1"], "all_conv_1"),
        (["cat_conv_1", "cat_conv_2"], "cat_conv_1"),
        (["conv_1", "conv_1"], "all_conv_1"),
    ],
    ids=["alone", "alike", "unlike", "equal"],
)
def test_common_name(names, name):
    assert common_name(names) == name
