"""What changes the scores of a cache's later calls, between new queries and kept keys."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sparse_patterns.kernels.base import accumulation_dtype
from sparse_patterns.kernels.exact import Terms


@dataclass(frozen=True, eq=False)
class CacheTerms:
    """A cap, sinks and a bias by distance, as `attention` takes them."""

    softcap: float | None = None
    sinks: Tensor | None = None
    distance_bias: Tensor | None = None

    @classmethod
    def of_call(
        cls, softcap: float | None, sinks: Tensor | None, distance_bias: Tensor | None
    ) -> CacheTerms | None:
        """Return what a call gives, None where it gives nothing."""
        nothing = softcap is None and sinks is None and distance_bias is None
        return None if nothing else cls(softcap, sinks, distance_bias)

    def of(self, heads: Sequence[int], share: int, queries: Tensor, keys: Tensor) -> Terms:
        """Return the terms of some query heads, those of one key head together.

        Args:
            heads: The query heads.
            share: Query heads of one key head.
            queries: int64 `(new,)`, positions.
            keys: int64 `(kept,)`, positions.

        Returns:
            A bias `(key heads, share * new, kept)` and sinks `(key heads, share * new)`.
        """
        bias = sink = None
        at = list(heads)
        if self.distance_bias is not None:
            m = self.distance_bias.shape[1] // 2
            distance = (keys - queries[:, None]).clamp(-m, m) + m
            bias = self.distance_bias[at][:, distance].unflatten(0, (-1, share)).flatten(1, 2)
        if self.sinks is not None:
            rows = self.sinks[at][:, None].expand(-1, queries.numel())
            sink = rows.reshape(-1, share * queries.numel())
        return Terms(bias, self.softcap, sink)


def attend_with(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor, scale: float, terms: Terms
) -> Tensor:
    """Return attention with terms, in the type of `q`; any numbers in rows that see no key.

    Args:
        q: `(batch, heads, rows, head_dim)`.
        k: `(batch, heads, kept, head_dim)`.
        v: Of the shape of `k`.
        mask: bool, broadcasts to `(batch, heads, rows, kept)`.
        scale: Factor of the scores.
        terms: What changes the scores.
    """
    dtype = accumulation_dtype(q.dtype)
    scores, _ = terms.change((q.to(dtype) * scale) @ k.to(dtype).mT)
    scores = scores.masked_fill(~mask, -torch.inf)
    lse = scores.logsumexp(-1, keepdim=True)
    if terms.sink is not None:
        lse = torch.logaddexp(lse, terms.sink[..., None].to(dtype))
    weights = torch.exp(scores - lse.masked_fill(lse == -torch.inf, 0))
    return (weights @ v.to(dtype)).to(q.dtype)
