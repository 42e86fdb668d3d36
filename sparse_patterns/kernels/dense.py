"""The dense kernel: every score, masked.

It serves any pattern on any device, and is the choice for short sequences.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor

from sparse_patterns.kernels.base import Call, Kernel, Request, Tolerance, accumulation_dtype
from sparse_patterns.oracle import dense_mask
from sparse_patterns.patterns import Pattern
from sparse_patterns.plan import Plan
from sparse_patterns.terms import has_batch_rows, row_tokens

CALL_SECONDS, FLOP_RATE, MASK_RATE = 100e-6, 150e9, 5e8
"""Declared rates, for choosing a kernel: time of a call, operations and mask elements a second."""

MASK_CACHE_BYTES = 1 << 26
"""Masks kept between calls, in bytes; the one not used for longest goes first."""

_masks: OrderedDict[tuple[object, ...], Tensor] = OrderedDict()


class DenseKernel(Kernel):
    """Masked attention over all pairs."""

    name = "dense"
    tolerances: ClassVar[Mapping[torch.dtype, Tolerance]] = {
        torch.float64: Tolerance(1e-14, 2e-14),
        torch.float32: Tolerance(2e-6, 5e-6),
        torch.bfloat16: Tolerance(1.6e-2, 1e-2),
        torch.float16: Tolerance(2e-3, 1e-3),
    }

    def seconds(self, request: Request, plan: Plan) -> float:
        """Estimate the time from the pairs of all heads."""
        pairs = request.batch * request.heads * request.q_len * request.kv_len
        given = request.key_mask or request.global_mask or request.segment_ids
        masks = request.batch * plan.heads * request.q_len * request.kv_len if given else 0
        return CALL_SECONDS + 4 * request.head_dim * pairs / FLOP_RATE + masks / MASK_RATE

    def forward(self, call: Call, plan: Plan) -> tuple[Tensor, Tensor]:
        """Return output and log-sum-exp; see `Kernel.forward`."""
        out = torch.zeros_like(call.q)
        lse = torch.full(
            call.q.shape[:3],
            -torch.inf,
            dtype=accumulation_dtype(call.q.dtype),
            device=call.q.device,
        )
        for example in range(call.request.batch):
            factors = _dropout_factors(call, example)
            for rows, inputs, mask in _branches(call, plan, example):
                weights, logs = _weights(*inputs[:2], mask, call)
                if factors is not None:
                    weights = weights * factors[:, rows]
                out[example][:, rows] += (weights @ _expand(inputs[2], call)).to(out.dtype)
                lse[example][:, rows] = torch.maximum(lse[example][:, rows], logs)
        return out, lse

    def backward(
        self,
        call: Call,
        plan: Plan,
        out: Tensor,
        lse: Tensor,
        grad_out: Tensor,
        grad_lse: Tensor | None,
    ) -> tuple[Tensor, ...]:
        """Return the gradients; see `Kernel.backward`."""
        dtype = accumulation_dtype(call.q.dtype)
        inputs = (call.q, call.k, call.v, *(call.global_qkv or ()))
        results = tuple(torch.zeros_like(x, dtype=dtype) for x in inputs)
        for example in range(call.request.batch):
            factors = _dropout_factors(call, example)
            for number, (rows, (q, k, v), mask) in enumerate(_branches(call, plan, example)):
                weights, _ = _weights(q, k, mask, call)
                upstream = grad_out[example][:, rows].to(dtype)
                delta = (upstream * out[example][:, rows]).sum(-1, keepdim=True)
                if grad_lse is not None:
                    delta = delta - grad_lse[example][:, rows, None]
                grad = upstream @ _expand(v, call).mT
                dropped = weights
                if factors is not None:
                    dropped, grad = weights * factors[:, rows], grad * factors[:, rows]
                grad = weights * (grad - delta)
                target = results[-3:] if number else results[:3]
                grad_q = grad @ _expand(k, call) * call.scale
                grad_k = grad.mT @ q.to(dtype) * call.scale
                target[0][example][:, rows] += grad_q
                target[1][example] += _reduce(grad_k, call)
                target[2][example] += _reduce(dropped.mT @ upstream, call)
        return tuple(result.to(x.dtype) for result, x in zip(results, inputs, strict=True))


Branch = tuple[Tensor, tuple[Tensor, Tensor, Tensor], Tensor]


def _branches(call: Call, plan: Plan, example: int) -> list[Branch]:
    """Return the local and the global branch: rows, inputs and mask `(heads or 1, rows, kv_len)`.

    A row of a global token with projections of its own is empty in the first branch, every other
    one in the second, so that the branches add up.
    """
    mask = _mask(call, plan, example)
    everything = torch.arange(call.request.q_len, device=call.q.device)
    local = (call.q[example], call.k[example], call.v[example])
    if call.global_qkv is None:
        return [(everything, local, mask)]
    apart = _global_rows(call, plan, example)
    rows = apart.any(0).nonzero().flatten()
    q, k, v = (x[example] for x in call.global_qkv)
    apart = apart[:, :, None]
    return [
        (everything, local, mask & ~apart),
        (rows, (q[:, rows], k, v), (mask & apart)[:, rows]),
    ]


def _global_rows(call: Call, plan: Plan, example: int) -> Tensor:
    """Return which rows are those of global tokens, bool `(heads, q_len)`."""
    request = call.request
    marks = torch.zeros(request.heads, request.q_len, dtype=torch.bool, device=call.q.device)
    positions = torch.arange(request.q_len, device=call.q.device) + request.q_offset
    inside = (positions >= 0) & (positions < request.kv_len)
    for group in plan.groups:
        tokens = torch.zeros(request.kv_len, dtype=torch.bool, device=call.q.device)
        tokens[list(row_tokens(group.pattern, request.kv_len))] = True
        if call.global_mask is not None and has_batch_rows(group.pattern):
            tokens |= call.global_mask[example]
        if request.kv_len:
            row = inside & tokens[positions.clamp(0, request.kv_len - 1)]
            marks[list(group.heads)] = row
    return marks


def _mask(call: Call, plan: Plan, example: int) -> Tensor:
    """Return what each head of an example sees, bool `(heads or 1, q_len, kv_len)`."""
    request = call.request

    def make(**tensors: Tensor) -> Tensor:
        pattern: Pattern = request.pattern
        mask = dense_mask(
            pattern,
            request.q_len,
            request.kv_len,
            heads=request.heads,
            layer=request.layer,
            layers=request.layers,
            q_offset=request.q_offset,
            device=call.q.device,
            **tensors,
        )
        mask = mask[0] if mask.ndim == 4 else mask
        return mask[:1].clone() if len(plan.groups) == 1 else mask

    given = {
        name: tensor[example : example + 1]
        for name, tensor in (
            ("key_mask", call.key_mask),
            ("global_mask", call.global_mask),
            ("segment_ids", call.segment_ids),
        )
        if tensor is not None
    }
    if given:
        return make(**given)
    key = (
        request.pattern,
        request.layer,
        request.layers,
        request.heads,
        request.q_len,
        request.kv_len,
        request.q_offset,
        call.q.device,
    )
    if key in _masks:
        _masks.move_to_end(key)
        return _masks[key]
    mask = make()
    if mask.numel() <= MASK_CACHE_BYTES:
        _masks[key] = mask
        while sum(kept.numel() for kept in _masks.values()) > MASK_CACHE_BYTES:
            _masks.popitem(last=False)
    return mask


def _expand(x: Tensor, call: Call) -> Tensor:
    """Repeat the key heads `(kv_heads, n, D)` for their query heads, in the accumulation type."""
    share = call.request.heads // max(1, call.request.kv_heads)
    x = x.to(accumulation_dtype(call.q.dtype))
    return x.repeat_interleave(share, 0) if share > 1 else x


def _reduce(x: Tensor, call: Call) -> Tensor:
    """Add up what the query heads contribute to their key head."""
    share = call.request.heads // max(1, call.request.kv_heads)
    return x.unflatten(0, (-1, share)).sum(1) if share > 1 else x


def _weights(q: Tensor, k: Tensor, mask: Tensor, call: Call) -> tuple[Tensor, Tensor]:
    """Return weights `(heads, rows, kv_len)`, zeros in empty rows, and the log-sum-exp."""
    dtype = accumulation_dtype(call.q.dtype)
    scores = (q.to(dtype) * call.scale) @ _expand(k, call).mT
    scores = scores.masked_fill(~mask, -torch.inf)
    lse = (
        scores.logsumexp(-1) if scores.shape[-1] else scores.new_full(scores.shape[:2], -torch.inf)
    )
    return (scores - lse.masked_fill(lse == -torch.inf, 0)[..., None]).exp(), lse


def _dropout_factors(call: Call, example: int) -> Tensor | None:
    """Draw the factors 0 and 1 / (1 - p) of all weights of an example."""
    request = call.request
    if not request.dropout_p:
        return None
    generator = torch.Generator(call.q.device).manual_seed((call.seed + example) % (1 << 63))
    factors = torch.empty(
        request.heads,
        request.q_len,
        request.kv_len,
        dtype=accumulation_dtype(call.q.dtype),
        device=call.q.device,
    )
    factors.bernoulli_(1 - request.dropout_p, generator=generator)
    return factors.div_(1 - request.dropout_p) if request.dropout_p < 1 else factors.zero_()
