import math

import pytest
from threadpoolctl import ThreadpoolController
from threadpoolctl import threadpool_limits

from kmod.metrics.calibration import in_one_thread
from kmod.metrics.calibration import prior_shifts


def test_scores_lose_what_frequent_classes_gain():
    # Log-odds of 0.2, 0.5 and 0.8 are -log 4, 0 and log 4.
    expected = pytest.approx([math.log(4), 0, -math.log(4)], abs=1e-6)
    assert prior_shifts([0.2, 0.5, 0.8]) == expected
    expected = pytest.approx([math.log(4), 2 * math.log(4)], abs=1e-6)
    assert prior_shifts([0.2, 0.2], [0.5, 0.8]) == expected


@pytest.mark.parametrize("count", [2, 3, 7, 10, 1000])
def test_even_images_change_nothing(count):
    assert prior_shifts([1 / count] * count) == [0.0] * count


def test_scores_of_unknown_images_stay():
    assert prior_shifts([None, 0.3, None, 0.3]) == [0.0] * 4
    assert prior_shifts([None, 0.5], [0.5, 0.5]) == [0.0, 0.0]
    assert prior_shifts([None, None]) == [0.0, 0.0]


def test_shares_of_a_softmax_count_by_their_logarithm():
    found = prior_shifts([0.25, 0.75], [0.5, 0.5], math.log)
    assert found == pytest.approx([math.log(2), math.log(2 / 3)], abs=1e-6)


def test_fits_keep_to_one_thread_and_leave_the_others_as_they_were():
    def threads():
        found = ThreadpoolController().select(user_api="blas").info()
        return [library["num_threads"] for library in found]

    with threadpool_limits(2, user_api="blas"):
        with in_one_thread():
            assert set(threads()) == {1}
        assert set(threads()) == {2}
