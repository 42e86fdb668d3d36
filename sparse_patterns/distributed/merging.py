"""Results over several sets of keys, merged by log-sum-exp, and the gradients of each of them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


def merge(out: Tensor, lse: Tensor, more: Tensor, logs: Tensor) -> tuple[Tensor, Tensor]:
    """Return output and log-sum-exp over two sets of keys, from those over each."""
    total = torch.logaddexp(lse, logs)
    shift = total.masked_fill(total == -torch.inf, 0)
    first, second = (lse - shift).exp(), (logs - shift).exp()
    return out * first[..., None] + more * second[..., None], total


@dataclass(frozen=True, eq=False)
class Upstream:
    """What the gradients of all sets of keys are made of.

    Attributes:
        grad_out: Gradient of the output, zeros in the rows of global tokens.
        delta: `(batch, heads, rows)`: output times its gradient, less that of the log-sum-exp.
        lse: Log-sum-exp over all keys; +inf for rows that see nothing or are computed elsewhere.
    """

    grad_out: Tensor
    delta: Tensor
    lse: Tensor


def share_of(upstream: Upstream, out: Tensor, lse: Tensor) -> tuple[Tensor, Tensor]:
    """Return the gradients of the output and log-sum-exp over some of the keys."""
    weight = (lse - upstream.lse).exp()
    grad = upstream.grad_out.to(lse.dtype)
    grad_lse = weight * ((grad * out).sum(-1) - upstream.delta)
    return (grad * weight[..., None]).to(out.dtype), grad_lse


def summed(own: list[Tensor], more: list[Tensor]) -> list[Tensor]:
    """Return the sums of the gradients of two ranks."""
    return [a + b for a, b in zip(own, more, strict=True)]


def merged(own: list[Tensor], more: list[Tensor]) -> list[Tensor]:
    """Return output and log-sum-exp, `(..., 1)`, over the keys of two ranks."""
    out, lse = merge(own[0], own[1][..., 0], more[0], more[1][..., 0])
    return [out, lse[..., None]]
