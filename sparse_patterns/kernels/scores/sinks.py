"""Sinks: a logit of each head that takes weight in every row and has no value.

A kernel computes attention without them. Its output and log-sum-exp are then corrected, which is
exact:

    out' = out * sigmoid(lse - sink),    lse' = log(exp(lse) + exp(sink))

The gradients of queries, keys and values need nothing more: a kernel that is given the corrected
output and log-sum-exp finds the corrected weights. A row that sees no key keeps zeros and -inf.
"""

from __future__ import annotations

import torch
from torch import Tensor


def corrected(out: Tensor, lse: Tensor, sinks: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return output, changed in place, and log-sum-exp with sinks `(batch, heads)`, if any."""
    if sinks is None:
        return out, lse
    logits = sinks[..., None].to(lse.dtype)
    out.mul_(torch.sigmoid(lse - logits)[..., None])
    empty = lse == -torch.inf
    return out, torch.logaddexp(lse, logits).masked_fill_(empty, -torch.inf)


def gradient(
    sinks: Tensor, out: Tensor, lse: Tensor, grad_out: Tensor, grad_lse: Tensor | None
) -> Tensor:
    """Return the gradient of the sinks, `(batch, heads)`, from the corrected results.

    Args:
        sinks: `(batch, heads)`.
        out: The output.
        lse: The log-sum-exp, -inf for a row that sees no key.
        grad_out: Gradient of the output.
        grad_lse: Gradient of the log-sum-exp, or None.
    """
    change = (grad_out.to(lse.dtype) * out).sum(-1).neg_()
    if grad_lse is not None:
        change += grad_lse
    weight = torch.exp(sinks[..., None] - lse)
    total = torch.where(lse == -torch.inf, 0, weight * change).sum(-1)
    return torch.empty_like(sinks).copy_(total)
