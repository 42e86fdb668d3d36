"""The reference that kernels are held to: float64 softmax over the oracle's mask, by autograd."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

import sparse_patterns as sp
from sparse_patterns.lowering.normal_form import has_batch_rows, row_tokens
from sparse_patterns.spec.binding import bind


@dataclass
class Result:
    """Output, log-sum-exp and the gradients of `q, k, v` and of `global_qkv` if given."""

    out: Tensor
    lse: Tensor
    grads: tuple[Tensor, ...]


def softmax_attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Attend with `(batch, heads, n, D)` where a `(batch, heads, q_len, kv_len)` mask is True."""
    share = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(share, 1), v.repeat_interleave(share, 1)
    scores = q @ k.mT / math.sqrt(q.shape[-1])
    seen = mask.any(-1, keepdim=True)
    # Rows that see nothing are computed over all keys and then set to zero, so that no NaN arises.
    scores = scores.masked_fill(~mask & seen, -torch.inf)
    if not scores.shape[-1]:
        return q * 0, scores.new_full(q.shape[:3], -torch.inf)
    out = scores.softmax(-1) @ v
    lse = scores.logsumexp(-1).masked_fill(~seen[..., 0], -torch.inf)
    return out.masked_fill(~seen, 0), lse


def global_rows(pattern: sp.Pattern, batch: int, q_len: int, kv_len: int, **context) -> Tensor:
    """Return which rows are those of global tokens, bool `(batch, heads, q_len)`."""
    bound = bind(pattern, heads=context["heads"], layer=context["layer"], layers=context["layers"])
    offset = kv_len - q_len if context["q_offset"] is None else context["q_offset"]
    rows = torch.zeros(batch, len(bound), q_len, dtype=torch.bool)
    for head, one in enumerate(bound):
        for row in range(q_len):
            position = row + offset
            if not 0 <= position < kv_len:
                continue
            rows[:, head, row] = position in row_tokens(one, kv_len)
            if context["global_mask"] is not None and has_batch_rows(one):
                rows[:, head, row] |= context["global_mask"][:, position]
    return rows


def reference(
    inputs: list[Tensor], pattern: sp.Pattern, grad_out: Tensor, grad_lse: Tensor | None, **context
) -> Result:
    """Compute everything in float64 from `q, k, v` and, if there are six inputs, `global_qkv`."""
    leaves = [x.detach().double().requires_grad_() for x in inputs]
    q, k, v = leaves[:3]
    batch, _, q_len, _ = q.shape
    kv_len = k.shape[2]
    mask = sp.dense_mask(pattern, q_len, kv_len, **context)
    mask = mask.expand(batch, *mask.shape[-3:])
    out, lse = softmax_attention(q, k, v, mask)
    if len(leaves) == 6:
        rows = global_rows(pattern, batch, q_len, kv_len, **context)
        own, own_lse = softmax_attention(*leaves[3:], mask)
        out, lse = torch.where(rows[..., None], own, out), torch.where(rows, own_lse, lse)
    total = (out * grad_out.double()).sum()
    if grad_lse is not None:
        total = total + torch.where(lse == -torch.inf, 0, lse * grad_lse.double()).sum()
    grads = torch.autograd.grad(total, leaves, allow_unused=True)
    filled = [torch.zeros_like(x) if g is None else g for x, g in zip(leaves, grads, strict=True)]
    return Result(out.detach(), lse.detach(), tuple(filled))
