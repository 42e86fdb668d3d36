"""Figures computed by hand."""

from __future__ import annotations

import pytest

from evidence.statistics import difference, spread


def test_spread() -> None:
    found = spread([1.0, 2.0, 3.0])
    assert (found.mean, found.deviation, found.count) == (2.0, 1.0, 3)
    assert spread([5.0]).deviation is None
    with pytest.raises(ValueError, match="at least one number"):
        spread([])


def test_a_paired_difference() -> None:
    # Differences 1, 2, 3: mean 2, deviation 1; Student's t of 2 degrees at 97.5 % is 4.30265.
    found = difference([11.0, 22.0, 33.0], [10.0, 20.0, 30.0])
    half = 4.30265 / 3**0.5
    assert (found.mean, found.low, found.high) == pytest.approx((2, 2 - half, 2 + half), rel=1e-5)
    assert not found.told_apart
    # Five pairs: t of 4 degrees is 2.77645; deviation 0.1 * sqrt(2.5).
    found = difference([1.1, 1.2, 1.3, 1.4, 1.5], [0.0] * 5)
    half = 2.77645 * 0.1 * 2.5**0.5 / 5**0.5
    assert (found.low, found.high) == pytest.approx((1.3 - half, 1.3 + half), rel=1e-5)
    assert found.told_apart
    assert not difference([1.0], [2.0]).told_apart
    with pytest.raises(ValueError, match="got 1 and 2"):
        difference([1.0], [2.0, 3.0])
