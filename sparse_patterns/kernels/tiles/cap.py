"""Capped scores, `softcap * tanh(score / softcap)`, in few passes over memory.

The library's hyperbolic tangent takes several times as long as an exponential. Where scores are
certain to stay within a bound, two or fewer terms of its expansion in partial fractions,

    tanh(x) = x * sum over k of 2 / (x^2 + ((k - 1/2) * pi)^2),    k = 1, 2, ...

with a constant for the rest and numbers fitted to the bound, are as exact as float32 is.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from sparse_patterns.kernels.tiles.head import SAFE_SCORE, Workspace


@dataclass(frozen=True)
class Expansion:
    """`tanh(x) = x * (rest + sum of weight / (pole + x^2))` for `abs(x) <= limit`.

    Fitted to the smallest relative error (Remez' exchange), which is below 5e-8.

    Attributes:
        limit: The largest argument.
        rest: The constant.
        terms: Weight and pole of each fraction.
    """

    limit: float
    rest: float
    terms: tuple[tuple[float, float], ...]


EXPANSIONS = (
    Expansion(0.35, 0.16594500074074423, ((2.0869760660812666, 2.502204477778046),)),
    Expansion(
        1.75,
        0.06390961007477718,
        ((2.000775123123891, 2.4676607381169022), (3.2956979679441454, 26.304122739499523)),
    ),
)
"""From the cheapest on."""


@dataclass(frozen=True)
class Cap:
    """How the scores of some heads are capped.

    Attributes:
        softcap: The cap.
        expansion: What takes the place of the hyperbolic tangent, or None.
    """

    softcap: float
    expansion: Expansion | None = None

    @classmethod
    def of(cls, softcap: float, bound: float, dtype: torch.dtype) -> Cap:
        """Return how to cap scores that are no larger than `bound`."""
        if dtype == torch.float32:
            for expansion in EXPANSIONS:
                if bound <= expansion.limit * softcap:
                    return cls(softcap, expansion)
        return cls(softcap)

    @property
    def unit(self) -> float:
        """What scores are multiplied by before `apply`."""
        return 2 / self.softcap if self.expansion is None else self.expansion.rest

    def apply(self, scores: Tensor, space: Workspace) -> None:
        """Cap scores, times `unit`, in place."""
        if self.expansion is None:
            # tanh(x) = (exp(2x) - 1) / (exp(2x) - 1 + 2) is as exact and takes half the time.
            # Beyond the limit it is 1 in every type.
            scores.clamp_(max=2 * SAFE_SCORE).expm1_()
            scores.div_(torch.add(scores, 2, out=space.get("cap", *scores.shape)))
            scores.mul_(self.softcap)
            return
        square = 1 / (self.unit * self.softcap) ** 2
        total: Tensor | None = None
        for index, (weight, pole) in enumerate(self.expansion.terms):
            fraction = space.get(f"cap {index}", *scores.shape)
            start = space.number(pole)
            torch.addcmul(start, scores, scores, value=square, out=fraction).reciprocal_()
            if total is None:
                total, first = fraction, weight
            else:
                total.add_(fraction, alpha=weight / first)
        assert total is not None
        scores.addcmul_(scores, total, value=first / self.unit)
