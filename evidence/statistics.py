"""Means, spreads, and differences over seeds with their intervals."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

LEVEL = 0.95


@dataclass(frozen=True)
class Spread:
    """Mean and standard deviation of the seeds of an arm.

    Args:
        mean: The mean.
        deviation: Standard deviation, with n - 1; None of fewer than two seeds.
        count: Number of seeds.
    """

    mean: float
    deviation: float | None
    count: int


@dataclass(frozen=True)
class Difference:
    """The mean of paired differences and its interval.

    Args:
        mean: The mean, arm minus baseline.
        low: Lower end of the 95 % interval by Student's t; None of fewer than two pairs.
        high: Its upper end.
        count: Number of pairs.
    """

    mean: float
    low: float | None
    high: float | None
    count: int

    @property
    def told_apart(self) -> bool:
        """Whether the interval is known and does not contain 0."""
        return self.low is not None and self.high is not None and not self.low <= 0 <= self.high


def spread(values: Sequence[float]) -> Spread:
    """Return mean and standard deviation.

    Raises:
        ValueError: There are no values.
    """
    if not values:
        raise ValueError("values must hold at least one number, got none")
    deviation = statistics.stdev(values) if len(values) > 1 else None
    return Spread(statistics.fmean(values), deviation, len(values))


def difference(arm: Sequence[float], baseline: Sequence[float]) -> Difference:
    """Return the mean of `arm[i] - baseline[i]` and its interval.

    Args:
        arm: Figures by seed.
        baseline: Figures of the same seeds, in the same order.

    Raises:
        ValueError: The numbers of values differ, or there are none.
    """
    if len(arm) != len(baseline):
        raise ValueError(f"pairs need as many values each, got {len(arm)} and {len(baseline)}")
    found = spread([one - other for one, other in zip(arm, baseline, strict=True)])
    if found.deviation is None:
        return Difference(found.mean, None, None, found.count)
    from scipy.stats import t

    factor = float(t.ppf((1 + LEVEL) / 2, found.count - 1))
    half = factor * found.deviation / math.sqrt(found.count)
    return Difference(found.mean, found.mean - half, found.mean + half, found.count)
