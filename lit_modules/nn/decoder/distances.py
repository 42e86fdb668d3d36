"""Positions as a bias of the scores by distance: ALiBi, or T5's learned one."""

from __future__ import annotations

from torch import Tensor, nn

import sparse_patterns as sp

__all__ = ["DistanceBias"]

BUCKETS, FARTHEST = 32, 128
"""T5's buckets, and the distance from which on all keys share the last one."""


class DistanceBias(nn.Module):
    """The table of distances of all layers.

    Args:
        kind: `alibi` (fixed) or `t5` (a learned weight, drawn by the decoder).
        heads: Attention heads.
    """

    def __init__(self, kind: str, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.weight = nn.Embedding(BUCKETS, heads) if kind == "t5" else None

    def forward(self, farthest: int, like: Tensor) -> Tensor:
        """Return the table `(heads, 2 * m + 1)` for distances up to `farthest` tokens.

        Args:
            farthest: No query sees a key farther away.
            like: A tensor on the device of the scores.
        """
        if self.weight is not None:
            return sp.t5_bias(self.weight.weight, FARTHEST, False, FARTHEST)
        return sp.alibi(self.heads, farthest).to(like.device)
