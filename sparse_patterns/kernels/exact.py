"""Attention of a few rows in float64, in which a hidden pair takes no part whatever it holds.

A kernel gives a hidden pair the weight 0, and 0 times NaN or infinity is NaN. Here sums run over
the visible pairs only: numbers that are not finite are taken out of the matrix products and put
back where a visible pair brings them in. What they do there follows from floating-point arithmetic.
"""

from __future__ import annotations

from dataclasses import dataclass

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


@dataclass(frozen=True, eq=False)
class Terms:
    """What changes the scores of some rows.

    Attributes:
        bias: Added to the scores, broadcasts to `(..., rows, n)`; or None.
        softcap: Scores become `softcap * tanh(score / softcap)`; None leaves them.
        sink: A logit that takes weight in each row, broadcasts to `(..., rows)`; or None.
    """

    bias: Tensor | None = None
    softcap: float | None = None
    sink: Tensor | None = None

    def change(self, scores: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return the changed scores, and their derivative by the old ones, None where it is 1."""
        if self.bias is not None:
            scores = scores + self.bias.to(scores.dtype)
        if self.softcap is None:
            return scores, None
        bent = torch.tanh(scores / self.softcap)
        return bent * self.softcap, 1 - bent.square()


NO_TERMS = Terms()


def attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Tensor,
    scale: float,
    factors: Tensor | None = None,
    terms: Terms = NO_TERMS,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return output, log-sum-exp and weights of some rows, in float64.

    Args:
        q: `(..., rows, head_dim)`.
        k: `(..., n, head_dim)`.
        v: Of the shape of `k`.
        mask: bool, broadcasts to `(..., rows, n)`; True where visible.
        scale: Factor of the scores.
        factors: Dropout factors of the weights, or None.
        terms: What changes the scores.

    Returns:
        Output `(..., rows, head_dim)`, zeros for a row that sees nothing; log-sum-exp
        `(..., rows)`, -inf for such a row; and the weights before dropout, `(..., rows, n)`.
    """
    q, k, v = q.double(), k.double(), v.double()
    scores, _ = terms.change((q * scale) @ k.mT)
    scores = scores.masked_fill(~mask, -torch.inf)
    # A visible score of -inf in a row of nothing else gives NaN, as the softmax of torch does.
    lse = scores.logsumexp(-1)
    weights = scores.softmax(-1).masked_fill(~mask, 0)
    lse = lse.masked_fill((lse == -torch.inf) & mask.any(-1), torch.nan)
    if terms.sink is not None:
        weights = weights * torch.sigmoid(lse - terms.sink)[..., None]
        lse = torch.where(mask.any(-1), torch.logaddexp(lse, terms.sink.double()), lse)
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
    terms: Terms = NO_TERMS,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return what some rows contribute to the gradients of `q`, `k`, `v` and `bias`, in float64.

    Args:
        q: `(..., rows, head_dim)`.
        k: `(..., n, head_dim)`.
        v: Of the shape of `k`.
        mask: bool, broadcasts to `(..., rows, n)`; True where visible.
        scale: Factor of the scores.
        grad_out: `(..., rows, head_dim)`.
        grad_lse: `(..., rows)` or None.
        factors: Dropout factors of the weights, or None.
        terms: What changes the scores.
    """
    out, _, weights = attend(q, k, v, mask, scale, factors, terms)
    q, k, v, upstream = q.double(), k.double(), v.double(), grad_out.double()
    delta = (upstream * out).sum(-1, keepdim=True)
    if grad_lse is not None:
        delta = delta - grad_lse.double()[..., None]
    inner = upstream @ v.mT
    dropped = weights
    if factors is not None:
        inner, dropped = inner * factors, weights * factors
    inner = weights * (inner - delta)
    _, slope = terms.change((q * scale) @ k.mT)
    inner = (inner if slope is None else inner * slope).masked_fill(~mask, 0)
    turned = mask.expand(weights.shape).mT
    return (
        visible_sum(inner, mask, k) * scale,
        visible_sum(inner.mT, turned, q) * scale,
        visible_sum(dropped.mT, turned, upstream),
        inner,
    )
