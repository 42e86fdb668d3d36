"""What the tiled kernel computes one head from: its matrices, its dropout, and buffers."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

SAFE_SCORE = 40.0
"""Scores up to this need no shift: exp(40) times a million keys is far from float32's range."""


@dataclass
class Workspace:
    """Buffers that all pieces of a call share."""

    dtype: torch.dtype
    device: torch.device
    buffers: dict[str, Tensor] = field(default_factory=dict)

    def get(self, name: str, *shape: int) -> Tensor:
        """Return an uninitialised tensor, valid until the name is asked for again."""
        count = 1
        for size in shape:
            count *= size
        buffer = self.buffers.get(name)
        if buffer is None or buffer.numel() < count:
            buffer = torch.empty(count, dtype=self.dtype, device=self.device)
            self.buffers[name] = buffer
        return buffer[:count].view(shape)


@dataclass
class Side:
    """Queries, keys and values of one head as matrices of the accumulation type, queries scaled.

    Attributes:
        q: Scaled queries.
        k: Keys.
        v: Values.
        small: Whether scores are certain to be small.
        bound: No product of a query and a key is larger.
        terms: What else changes the scores, `tiles.terms.HeadTerms`, or None.
    """

    q: Tensor
    k: Tensor
    v: Tensor
    small: bool
    bound: float = 0.0
    terms: Any = None

    @property
    def scored(self) -> Tensor:
        """What products with keys are made of: `q`, as `terms` need it."""
        return self.q if self.terms is None else self.terms.q

    @classmethod
    def of(cls, q: Tensor, k: Tensor, v: Tensor, scale: float, space: Workspace) -> Side:
        """Stage one head: `q` is copied, `k` and `v` only where layout or type requires it."""
        dtype = space.dtype
        scaled = torch.empty(q.shape, dtype=dtype, device=q.device)
        torch.mul(q.to(dtype), scale, out=scaled)
        k, v = packed(k, dtype), packed(v, dtype)
        bound = _longest(scaled) * _longest(k)
        return cls(scaled, k, v, bool(bound <= SAFE_SCORE), bound)


def _longest(x: Tensor) -> float:
    return float(torch.linalg.vector_norm(x, dim=-1).amax()) if x.numel() else 0.0


def packed(x: Tensor, dtype: torch.dtype) -> Tensor:
    """Return `x` row-contiguous and in a type, copied only where it is not so.

    A BLAS library takes rows that are not contiguous too, as a projection leaves a head's, but
    every tile then reads them anew from as many pages: up to 1.4 times the time of the whole
    kernel.
    """
    return x.to(dtype).contiguous()
