import keras
import pytest

from kmod.modular.mask_schedule import retention_at


@pytest.mark.parametrize(
    ("progress", "expected"),
    [
        pytest.param(0.0, 1.0, id="start"),
        pytest.param(0.2, 1.0, id="end-of-warm-up"),
        pytest.param(0.4, 0.25 + 0.75 / 8, id="half-way"),
        pytest.param(0.6, 0.25, id="end-of-removal"),
        pytest.param(1.0, 0.25, id="end"),
    ],
)
def test_retention_falls_fast_then_slowly(progress, expected):
    progress = keras.ops.convert_to_tensor(progress)
    rate = float(retention_at(progress, 1.0, 0.25, 0.2, 0.6))
    assert rate == pytest.approx(expected)


def test_it_starts_where_an_earlier_training_ended():
    start = keras.ops.zeros(())
    assert float(retention_at(start, 0.5, 0.25, 0.1, 0.6)) == 0.5
