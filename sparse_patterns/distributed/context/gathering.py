"""Stretches joined to the whole sequence on every process, with gradients."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, distributed

from sparse_patterns.distributed.exchange import told
from sparse_patterns.kernels.base import accumulation_dtype


class Gather(torch.autograd.Function):
    """Joins the stretches of all processes along the first dimension.

    Gradients come from all processes, which each have one of the whole; a stretch gets their sum.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, lengths: Sequence[int], group: Any) -> Tensor:
        """Return the whole, `(sum of lengths, ...)`."""
        ctx.lengths, ctx.group, ctx.dtype = lengths, group, x.dtype
        own = _filled(x, max(lengths))
        parts = [torch.empty_like(own) for _ in lengths]
        with told("gather the stretches", group):
            distributed.all_gather(parts, own, group=group)
        return torch.cat([part[:length] for part, length in zip(parts, lengths, strict=True)])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        """Return the sum of the gradients of the own stretch."""
        lengths = ctx.lengths
        # Sums of half types are rounded once, at the end.
        parts = grads[0].to(accumulation_dtype(ctx.dtype)).split(lengths)
        sent = [_filled(part, max(lengths)) for part in parts]
        own = torch.empty_like(sent[0])
        with told("add the gradients of the stretches", ctx.group):
            distributed.reduce_scatter(own, sent, group=ctx.group)
        return own[: lengths[distributed.get_rank(ctx.group)]].to(ctx.dtype), None, None


def _filled(x: Tensor, length: int) -> Tensor:
    """Return a contiguous tensor of a length, zeros at its end."""
    if x.shape[0] == length:
        return x.contiguous()
    filled = x.new_zeros(length, *x.shape[1:])
    filled[: x.shape[0]] = x
    return filled
