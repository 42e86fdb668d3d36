"""Attention of a few rows in float64, in which a hidden pair takes no part whatever it holds.

A kernel gives a hidden pair the weight 0, and 0 times NaN or infinity is NaN. Here sums run over
the visible pairs only: numbers that are not finite are taken out of the matrix products and put
back where a visible pair brings them in. What they do there follows from floating-point arithmetic.
"""

from __future__ import annotations

import torch
from torch import Tensor


def visible_sum(weights: Tensor, mask: Tensor, x: Tensor) -> Tensor:
    """Return `sum_j weights[i, j] * x[j]` over the visible `j` of each row `i`.

    Args:
        weights: float64 `(..., rows, n)`, 0 where hidden.
        mask: bool, broadcasts to the shape of `weights`; True where visible.
        x: float64 `(..., n, head_dim)`.

    Returns:
        `(..., rows, head_dim)`.
    """
    finite = x.isfinite()
    total = weights @ x.masked_fill(~finite, 0)
    if bool(finite.all()):
        return total
    mask = mask.expand(weights.shape)

    def meets(pairs: Tensor, elements: Tensor) -> Tensor:
        return pairs.to(x.dtype) @ elements.to(x.dtype) > 0

    above, below = x == torch.inf, x == -torch.inf
    positive, negative = weights > 0, weights < 0
    up = meets(positive, above) | meets(negative, below)
    down = meets(positive, below) | meets(negative, above)
    undefined = meets(mask, x.isnan()) | meets(mask & (weights == 0), above | below)
    total = total + torch.where(up, torch.inf, 0.0) - torch.where(down, torch.inf, 0.0)
    return total.masked_fill(undefined, torch.nan)


def attend(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor, scale: float, factors: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Return output, log-sum-exp and weights of some rows, in float64.

    Args:
        q: `(..., rows, head_dim)`.
        k: `(..., n, head_dim)`.
        v: Of the shape of `k`.
        mask: bool, broadcasts to `(..., rows, n)`; True where visible.
        scale: Factor of the scores.
        factors: Dropout factors of the weights, or None.

    Returns:
        Output `(..., rows, head_dim)`, zeros for a row that sees nothing; log-sum-exp
        `(..., rows)`, -inf for such a row; and the weights before dropout, `(..., rows, n)`.
    """
    q, k, v = q.double(), k.double(), v.double()
    scores = ((q * scale) @ k.mT).masked_fill_(~mask, -torch.inf)
    # A visible score of -inf in a row of nothing else gives NaN, as the softmax of torch does.
    lse = scores.logsumexp(-1)
    weights = scores.softmax(-1).masked_fill(~mask, 0)
    lse = lse.masked_fill((lse == -torch.inf) & mask.any(-1), torch.nan)
    dropped = weights if factors is None else weights * factors
    return visible_sum(dropped, mask, v), lse, weights


def gradients(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Tensor,
    scale: float,
    grad_out: Tensor,
    grad_lse: Tensor | None = None,
    factors: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return what some rows contribute to the gradients of `q`, `k` and `v`, in float64.

    Args:
        q: `(..., rows, head_dim)`.
        k: `(..., n, head_dim)`.
        v: Of the shape of `k`.
        mask: bool, broadcasts to `(..., rows, n)`; True where visible.
        scale: Factor of the scores.
        grad_out: `(..., rows, head_dim)`.
        grad_lse: `(..., rows)` or None.
        factors: Dropout factors of the weights, or None.
    """
    out, _, weights = attend(q, k, v, mask, scale, factors)
    q, k, v, upstream = q.double(), k.double(), v.double(), grad_out.double()
    delta = (upstream * out).sum(-1, keepdim=True)
    if grad_lse is not None:
        delta = delta - grad_lse.double()[..., None]
    inner = upstream @ v.mT
    dropped = weights
    if factors is not None:
        inner, dropped = inner * factors, weights * factors
    inner = (weights * (inner - delta)).masked_fill(~mask, 0)
    turned = mask.expand(weights.shape).mT
    return (
        visible_sum(inner, mask, k) * scale,
        visible_sum(inner.mT, turned, q) * scale,
        visible_sum(dropped.mT, turned, upstream),
    )
