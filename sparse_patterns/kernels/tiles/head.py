"""What the tiled kernel computes some heads from: their matrices, and buffers."""

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
    views: dict[str, Tensor] = field(default_factory=dict)
    numbers: dict[float, Tensor] = field(default_factory=dict)

    def number(self, value: float) -> Tensor:
        """Return a number as a tensor of no dimensions, which is not to be changed."""
        if value not in self.numbers:
            self.numbers[value] = torch.full((), value, dtype=self.dtype, device=self.device)
        return self.numbers[value]

    def get(self, name: str, *shape: int) -> Tensor:
        """Return an uninitialised tensor, valid until the name is asked for again."""
        view = self.views.get(name)
        if view is not None and view.shape == shape:
            return view
        count = 1
        for size in shape:
            count *= size
        buffer = self.buffers.get(name)
        if buffer is None or buffer.numel() < count:
            buffer = torch.empty(count, dtype=self.dtype, device=self.device)
            self.buffers[name] = buffer
        view = self.views[name] = buffer[:count].view(shape)
        return view


@dataclass
class Side:
    """Queries, keys and values of some heads, in the accumulation type.

    Attributes:
        q: Queries, `(heads, q_len, D)`.
        k: Keys, `(heads, kv_len, D)`.
        v: Values, of the shape of `k`.
        scale: Factor of the products.
        small: Whether scores are certain to be small.
        bound: No scaled product of a query and a key is larger.
        shift: What small scores are lowered by before their exponentials.
        terms: What else changes the scores, `tiles.terms.HeadTerms`, or None.
    """

    q: Tensor
    k: Tensor
    v: Tensor
    scale: float
    small: bool
    bound: float = 0.0
    shift: float = 0.0
    terms: Any = None

    @classmethod
    def of(cls, q: Tensor, k: Tensor, v: Tensor, scale: float, dtype: torch.dtype) -> Side:
        """Stage some heads: tensors are copied only where layout or type requires it."""
        q, k, v = packed(q, dtype), packed(k, dtype), packed(v, dtype)
        bound = abs(scale) * _longest(q) * _longest(k)
        return cls(q, k, v, scale, bool(bound <= SAFE_SCORE), bound)


def _longest(x: Tensor) -> float:
    return float(torch.linalg.vector_norm(x, dim=-1).amax()) if x.numel() else 0.0


def packed(x: Tensor, dtype: torch.dtype) -> Tensor:
    """Return `(heads, n, D)` with contiguous rows and in a type, copied only where it is not so.

    A BLAS library takes rows that are not contiguous too, as a projection leaves a head's, but
    every tile then reads them anew from as many pages: up to 1.4 times the time of the whole
    kernel.
    """
    x = x.to(dtype)
    return x if x.stride(-1) == 1 and x.stride(-2) == x.shape[-1] else x.contiguous()
