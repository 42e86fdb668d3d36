"""Small parts: feed-forward scores, and distances in buckets."""

from __future__ import annotations

import torch
from torch import Tensor, nn

__all__ = ["BUCKETS", "buckets", "feedforward"]

_BOUNDS = (1, 2, 3, 4, 5, 8, 16, 32, 64)

BUCKETS = len(_BOUNDS) + 1
"""Number of buckets: 0, 1, 2, 3, 4, 5-7, 8-15, 16-31, 32-63, 64 and more (Lee et al. 2017)."""


def buckets(distances: Tensor) -> Tensor:
    """Return the bucket of each distance, int64 of the same shape."""
    return torch.bucketize(distances, torch.tensor(_BOUNDS, device=distances.device), right=True)


def feedforward(inputs: int, inner: int, dropout: float, outputs: int = 1) -> nn.Sequential:
    """Return dense, ReLU, dropout, dense."""
    return nn.Sequential(
        nn.Linear(inputs, inner), nn.ReLU(), nn.Dropout(dropout), nn.Linear(inner, outputs)
    )
