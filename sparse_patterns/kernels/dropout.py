"""Dropout of attention weights: factors that the backward pass draws again from the same seed."""

from __future__ import annotations

import torch
from torch import Tensor

from sparse_patterns.kernels.base import Call

STREAM = 0x9E3779B97F4A7C15
"""Distance between the seeds of two streams (2**64 divided by the golden ratio)."""


class Dropout:
    """A stream of factors 0 and 1 / (1 - p), freshly seeded.

    Args:
        call: The call, with the probability and the seed.
        number: Number of the random stream within the call: passes that draw separately differ in
            it.
    """

    def __init__(self, call: Call, number: int) -> None:
        self.p = call.request.dropout_p
        self.generator: torch.Generator | None = None
        if self.p:
            seed = (call.seed + number * STREAM) % (1 << 63)
            self.generator = torch.Generator(call.q.device).manual_seed(seed)

    def draw(self, out: Tensor) -> Tensor | None:
        """Fill a tensor with the next factors and return it; None without dropout."""
        if self.generator is None:
            return None
        out.bernoulli_(1 - self.p, generator=self.generator)
        return out.div_(1 - self.p) if self.p < 1 else out.zero_()

    def apply(self, weights: Tensor, out: Tensor | None = None) -> Tensor | None:
        """Multiply weights by the next factors, in place.

        Args:
            weights: Any floating-point tensor.
            out: Where to draw the factors; a new tensor by default.

        Returns:
            The factors, None without dropout.
        """
        if self.generator is None:
            return None
        factors = self.draw(torch.empty_like(weights) if out is None else out)
        assert factors is not None
        weights.mul_(factors)
        return factors
