"""The fused kernel on the CPU: torch in place of xformers' operator, everything else the same.

The operator masks as FlashAttention 2 does, also where that is odd: window sides as long as the
keys become unlimited, rows without keys have a log-sum-exp of +inf.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import ClassVar

import torch
from torch import Tensor

from sparse_patterns.kernels.base import Request, Tolerance
from sparse_patterns.kernels.fused.kernel import XformersFusedKernel
from sparse_patterns.kernels.fused.operator import Operator, Shape
from sparse_patterns.lowering.fused.bands import Band, flash_window, window_sides

Counts = tuple[int, ...]


def spans(counts: tuple[Counts, Counts]) -> Iterator[tuple[int, int, int, int]]:
    """First row, rows, first key and keys of each rectangle."""
    row = key = 0
    for height, width in zip(*counts, strict=True):
        yield row, height, key, width
        row, key = row + height, key + width


def flash_mask(counts: tuple[Counts, Counts], left: int, right: int) -> Tensor:
    """What FlashAttention 2 sees of one batch entry with a window, bool `(rows, keys)`."""
    left, right = flash_window(left, right, max(counts[1]))
    mask = torch.zeros(sum(counts[0]), sum(counts[1]), dtype=torch.bool)
    for row, height, key, width in spans(counts):
        distance = torch.arange(width) - (torch.arange(height)[:, None] + width - height)
        seen = torch.ones(height, width, dtype=torch.bool)
        if left >= 0:
            seen &= distance >= -left
        if right >= 0:
            seen &= distance <= right
        mask[row : row + height, key : key + width] = seen
    return mask


def flash_forward(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor, scale: float
) -> tuple[Tensor, Tensor]:
    """Output `(batch, rows, heads, head_dim)` and log-sum-exp `(batch, heads, rows)`."""
    scores = (up(q) @ up(k, q.shape[2]).mT * scale).masked_fill(~mask, -torch.inf)
    lse = scores.logsumexp(-1)
    largest = scores.amax(-1, keepdim=True)
    weights = (scores - largest.masked_fill(largest == -torch.inf, 0)).exp()
    total = weights.sum(-1, keepdim=True).clamp(min=1e-30)
    # Half types: weights are rounded before the second product, as tensor cores take them.
    out = weights.to(q.dtype).to(scores.dtype) @ up(v, q.shape[2]) / total
    lse = lse.masked_fill(lse == -torch.inf, torch.inf)
    return out.transpose(1, 2).contiguous().to(q.dtype), lse


def flash_backward(
    grad: Tensor,
    out: Tensor,
    lse: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Tensor,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of `q, k, v`, those of `k, v` added up over the query heads that share them."""
    assert grad.shape == out.shape == q.shape
    assert lse.is_contiguous()
    assert not torch.isnan(lse).any()
    scores = (up(q) @ up(k, q.shape[2]).mT * scale).masked_fill(~mask, -torch.inf)
    weights = (scores - lse[..., None].to(scores.dtype)).exp()
    upstream, full = up(grad), scores.dtype
    delta = (upstream * up(out)).sum(-1, keepdim=True)
    inner = weights * (upstream @ up(v, q.shape[2]).mT - delta)
    inner, weights = inner.to(q.dtype).to(full), weights.to(q.dtype).to(full)
    share = q.shape[2] // k.shape[2]
    grad_q = inner @ up(k, q.shape[2]) * scale
    grad_k = (inner.mT @ up(q) * scale).unflatten(1, (-1, share)).sum(2)
    grad_v = (weights.mT @ upstream).unflatten(1, (-1, share)).sum(2)
    grads = (x.transpose(1, 2).to(q.dtype) for x in (grad_q, grad_k, grad_v))
    grad_q, grad_k, grad_v = grads
    return grad_q, grad_k, grad_v


def up(x: Tensor, heads: int = 0) -> Tensor:
    """`(batch, heads, length, head_dim)` for computing, each key head repeated for its queries."""
    x = x.to(torch.promote_types(x.dtype, torch.float32)).transpose(1, 2)
    return x.repeat_interleave(heads // x.shape[1], 1) if heads > x.shape[1] else x


class TorchOperator:
    """Masked attention with torch, as `kernels.fused_operator.Operator` asks for it."""

    def _mask(self, q: Tensor, k: Tensor, shape: Shape) -> Tensor:
        for x in (q, k):
            assert x.ndim == 4
            assert x.shape[3] % 8 == 0
            assert x.stride(3) == 1
        counts = shape.lengths or ((q.shape[1],), (k.shape[1],))
        assert (sum(counts[0]), sum(counts[1])) == (q.shape[1], k.shape[1])
        if shape.band == Band(None, None):
            return flash_mask(counts, -1, -1)
        return flash_mask(counts, *window_sides(shape.band, max(counts[0]), max(counts[1])))

    def forward(
        self, q: Tensor, k: Tensor, v: Tensor, shape: Shape, scale: float
    ) -> tuple[Tensor, Tensor]:
        """Output and log-sum-exp."""
        return flash_forward(q, k, v, self._mask(q, k, shape), scale)

    def backward(
        self,
        grad: Tensor,
        out: Tensor,
        lse: Tensor,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        shape: Shape,
        scale: float,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Gradients of `q, k, v`."""
        return flash_backward(grad, out, lse, q, k, v, self._mask(q, k, shape), scale)


class EmulatedFused(XformersFusedKernel):
    """The fused kernel with the torch operator, for every type the CPU has."""

    tolerances: ClassVar[Mapping[torch.dtype, Tolerance]] = {
        torch.float64: Tolerance(1e-14, 2e-14),
        torch.float32: Tolerance(2e-6, 5e-6),
        **XformersFusedKernel.tolerances,
    }

    def __init__(self, operator: Operator | None = None) -> None:
        super().__init__(operator or TorchOperator())

    def machine_reasons(self, request: Request) -> list[str]:
        """None: the CPU will do."""
        return []

    def dtype_reasons(self, request: Request) -> list[str]:
        """Those of the types it has."""
        return [] if request.dtype in self.tolerances else ["dtype"]


def raw_forward(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    cu_seqlens_q: Tensor | None,
    cu_seqlens_k: Tensor | None,
    seqused_k: Tensor | None,
    max_seqlen_q: int,
    max_seqlen_k: int,
    p: float,
    softmax_scale: float,
    is_causal: bool,
    window_left: int,
    window_right: int,
    return_softmax: bool,
    block_tables: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """The operator under xformers' own, `xformers_flash::flash_fwd`, by its signature."""
    assert p == 0
    assert seqused_k is block_tables is None
    mask = _raw_mask(query, key, cu_seqlens_q, cu_seqlens_k, is_causal, window_left, window_right)
    if cu_seqlens_q is None:
        out, lse = flash_forward(query, key, value, mask, softmax_scale)
        return out, lse, query
    out, lse = flash_forward(query[None], key[None], value[None], mask, softmax_scale)
    return out[0], lse[0], query


def raw_backward(
    grads_share_storage: bool,
    grad: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    out: Tensor,
    lse: Tensor,
    cu_seqlens_q: Tensor | None,
    cu_seqlens_k: Tensor | None,
    max_seqlen_q: int,
    max_seqlen_k: int,
    p: float,
    softmax_scale: float,
    is_causal: bool,
    window_left: int,
    window_right: int,
    rng_state: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """The operator under xformers' own, `xformers_flash::flash_bwd`, by its signature."""
    assert p == 0
    assert query.shape[-2] == key.shape[-2]
    assert grad.is_contiguous()
    mask = _raw_mask(query, key, cu_seqlens_q, cu_seqlens_k, is_causal, window_left, window_right)
    tensors = (grad, out, lse, query, key, value)
    if cu_seqlens_q is None:
        return flash_backward(*tensors, mask, softmax_scale)
    grads = flash_backward(*(x[None] for x in tensors), mask, softmax_scale)
    return grads[0][0], grads[1][0], grads[2][0]


def _raw_mask(
    query: Tensor,
    key: Tensor,
    cu_q: Tensor | None,
    cu_k: Tensor | None,
    is_causal: bool,
    left: int,
    right: int,
) -> Tensor:
    counts: tuple[Counts, Counts] = ((query.shape[-3],), (key.shape[-3],))
    if cu_q is not None and cu_k is not None:
        assert cu_q.dtype == cu_k.dtype == torch.int32
        counts = (tuple(cu_q.diff().tolist()), tuple(cu_k.diff().tolist()))
    return flash_mask(counts, left, 0 if is_causal else right)
