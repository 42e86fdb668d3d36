import math

import pytest

from lit_modules.training.schedule import factor


def test_the_rate_rises_and_falls_to_nothing() -> None:
    found = [factor(step, 10, 0.2, "linear") for step in range(11)]
    assert found == pytest.approx([1 / 2, 1, 1, 7 / 8, 6 / 8, 5 / 8, 4 / 8, 3 / 8, 2 / 8, 1 / 8, 0])
    assert factor(12, 10, 0.2, "linear") == 0
    cosine = [factor(step, 10, 2, "cosine") for step in range(11)]
    assert cosine[:3] == [1 / 2, 1, 1]
    assert cosine[6] == pytest.approx(1 / 2)
    assert cosine[10] == pytest.approx(0, abs=1e-12)
    assert cosine[4] == pytest.approx((1 + math.cos(math.pi / 4)) / 2)
    assert [factor(step, 10, 4, "none") for step in (0, 3, 4, 9)] == [1 / 4, 1, 1, 1]


def test_a_warm_up_longer_than_the_run_only_rises() -> None:
    assert [factor(step, 2, 10, "linear") for step in (0, 1)] == [0.1, 0.2]
