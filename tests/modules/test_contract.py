import math

import numpy as np
import pytest

from kmod.data.image_data import LabelledImages
from kmod.modules import contract
from kmod.modules.contract import changed_images
from kmod.modules.contract import changed_share
from kmod.modules.contract import contract_of
from kmod.modules.contract import largest_difference
from kmod.modules.contract import some

IMAGE = np.arange(6).reshape(1, 2, 3, 1)  # 0 1 2 / 3 4 5


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"flip": "horizontal"}, [[2, 1, 0, 5, 4, 3]]),
        ({"flip": "vertical"}, [[3, 4, 5, 0, 1, 2]]),
        (
            {"shift": 1},
            [
                [0, 1, 2, 0, 1, 2],  # Down, up, right and left.
                [3, 4, 5, 3, 4, 5],
                [0, 0, 1, 3, 3, 4],
                [1, 2, 2, 4, 5, 5],
            ],
        ),
    ],
)
def test_changed_images(change, expected):
    found = [each.ravel().tolist() for each in changed_images(IMAGE, **change)]
    assert found == expected


def test_changed_share_is_the_mean_of_the_moves():
    def answer(images):
        return images[:, 0, 0, 0] > 0

    # Up and left put another value than 0 into the first pixel.
    assert changed_share(answer, IMAGE, shift=1) == 0.5
    assert changed_share(answer, IMAGE, flip="horizontal") == 1.0


@pytest.mark.parametrize(
    ("answers", "stored", "expected"),
    [
        ([1.0, 2.5], [1.0, 2.0], 0.25),
        ([0.1, 0.3], [0.1, 0.2], 0.1),
        ([math.nan, 2.0], [1.0, 2.0], math.inf),
        ([1.0], [1.0, 2.0], math.inf),
    ],
)
def test_largest_difference(answers, stored, expected):
    found = largest_difference(np.array(answers), np.array(stored))
    assert found == pytest.approx(expected)


def test_of_very_many_images_some_are_taken(monkeypatch):
    monkeypatch.setattr(contract, "MOST_IMAGES", 4)
    images = LabelledImages(np.arange(9).reshape(9, 1, 1, 1), np.arange(9))
    assert some(images).labels.tolist() == [0, 3, 6]
    assert some(images).images.ravel().tolist() == [0, 3, 6]
    assert some(images.take(np.arange(4))).labels.tolist() == [0, 1, 2, 3]


def test_contract_of_a_store_without_data(donor):
    found = contract_of(donor.manifest, "../source.keras")
    assert [line["metric"] for line in found["checks"]] == [
        "exactness",
        "score_range",
    ]
    assert found["source"] == "../source.keras"
    assert donor.manifest.contract["checks"] == found["checks"]
    assert len(donor.info("8").answers) == 8


def test_latency_may_double(donor):
    line = contract.latency_check(0.83)
    assert line == {"metric": "latency", "max": 1.7}
    found = contract_of(donor.manifest, None, [line])
    assert found["checks"][-1] == line
    assert contract.further_checks(found) == [line]
    assert contract.further_checks(None) == []
