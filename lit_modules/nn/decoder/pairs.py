"""Attention with Transformer-XL's positions on the matrix of all pairs, for short segments.

Heads that are longer by the features of the positions cost more than the matrix of all pairs where
a segment is short and its tokens see most of it. The numbers are the same up to rounding.
"""

from __future__ import annotations

import math
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional as F

import sparse_patterns as sp
from lit_modules.nn.decoder.relative import Relative, sinusoids
from sparse_patterns.spec.binding import bind
from sparse_patterns.spec.lookahead import call_time_parts

__all__ = ["attend_pairs", "shown_pairs"]

PRODUCTS = 3
"""Products of a query with a vector of a head: with a key, with a distance, and with a value."""

MATRICES = 3
"""Matrices of all pairs that are held for the backward pass."""

MARGIN = 1.5
"""How many times less the matrix must cost, since passes over it cost besides the products."""


def shown_pairs(
    pattern: sp.Pattern,
    q: Tensor,
    k: Tensor,
    features: int,
    *,
    layer: int,
    layers: int,
) -> Tensor | None:
    """Return which pairs are seen, bool `(1 or heads, L, T)`, or None where features cost less.

    The matrix is taken where it needs fewer operations and no more memory than the features, so
    that memory grows with the length alone.

    Args:
        pattern: What each token sees.
        q: Queries `(batch, heads, L, head_dim)`.
        k: Keys `(batch, heads, T, head_dim)`.
        features: How many numbers positions add to a head.
        layer: Which layer this is.
        layers: Number of layers.
    """
    length, total, size = q.shape[2], k.shape[2], q.shape[3]
    longer = size + features
    if MATRICES * length * total > 2 * (length + total) * longer:
        return None
    bound = bind(pattern, heads=q.shape[1], layer=layer, layers=layers)
    if any(call_time_parts(one) for one in bound):
        return None
    different = tuple(bound) if len(set(bound)) > 1 else (bound[0],)
    shown, share = _shown(different, length, total, q.device)
    worth = share * 2 * longer > MARGIN * PRODUCTS * size
    return shown if worth else None


def attend_pairs(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    relative: Relative,
    weight: Tensor,
    shown: Tensor,
    dropout: float = 0.0,
) -> Tensor:
    """Return what the queries see, `(batch, heads, L, head_dim)`.

    Args:
        q: Queries `(batch, heads, L, head_dim)`, at the last of the positions.
        k: Keys `(batch, heads, T, head_dim)`.
        v: Values, of the shape of `k`.
        relative: The vectors `u` and `v`.
        weight: `W_R`, `(heads * head_dim, width)`.
        shown: From `shown_pairs`.
        dropout: Share of the weights that is dropped.
    """
    heads, length, size = q.shape[1:]
    total = k.shape[2]
    # From the furthest distance to none, as the keys stand before the last query.
    places = _sinusoids(total, weight.shape[1], q.device).to(q.dtype)
    distances = (places @ weight.to(q.dtype).T).unflatten(-1, (heads, size)).permute(1, 2, 0)
    content = (q + relative.u[:, None].to(q.dtype)) @ k.transpose(-1, -2)
    position = _shift((q + relative.v[:, None].to(q.dtype)) @ distances)
    # Added in float32: the sum of two numbers of half precision would be rounded once more.
    scores = content.to(torch.promote_types(q.dtype, torch.float32)) + position
    scores = (scores * size**-0.5).masked_fill(~shown, -math.inf)
    weights = F.dropout(scores.softmax(-1), dropout).to(v.dtype)
    seen = shown.any(-1, keepdim=True)
    if length and not bool(seen.all()):
        weights = weights.masked_fill(~seen, 0)
    return weights @ v


def _shift(by_distance: Tensor) -> Tensor:
    """Move each row to where its keys are, `(..., L, T)` from distances to keys.

    Row `r` of the input stands as if it were the last one; keys after the query get what is not
    seen. After appendix B of Dai et al. 2019: one column more, and rows cut anew.
    """
    *outer, length, total = by_distance.shape
    padded = F.pad(by_distance, (1, 0)).view(*outer, total + 1, length)
    return padded[..., 1:, :].reshape(*outer, length, total)


@lru_cache(maxsize=64)
def _shown(
    bound: tuple[sp.Pattern, ...], length: int, total: int, device: torch.device
) -> tuple[Tensor, float]:
    masks = [sp.dense_mask(one, length, total, heads=1)[0] for one in bound]
    shown = torch.stack(masks).to(device)
    return shown, float(shown.double().mean()) if shown.numel() else 0.0


@lru_cache(maxsize=8)
def _sinusoids(total: int, width: int, device: torch.device) -> Tensor:
    return sinusoids(torch.arange(total - 1, -1, -1, device=device), width)
