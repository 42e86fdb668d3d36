"""The dense kernel: every score, masked.

It serves any pattern on any device, and is the choice for short sequences with dropout.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import ClassVar

import torch
from torch import Tensor

from sparse_patterns.kernels.base import Call, Kernel, Request, Tolerance, accumulation_dtype
from sparse_patterns.kernels.dropout import Dropout
from sparse_patterns.kernels.masks import global_rows, pair_mask
from sparse_patterns.kernels.rates.work import Work, seconds
from sparse_patterns.kernels.scores.terms import Distances, bias_gradient
from sparse_patterns.lowering.plan import Plan

SCORES_AT_ONCE = 1 << 18
"""Scores held at once; of more, examples are taken some at a time."""


class DenseKernel(Kernel):
    """Masked attention over all pairs."""

    name = "dense"
    tolerances: ClassVar[Mapping[torch.dtype, Tolerance]] = {
        torch.float64: Tolerance(1e-14, 2e-14),
        torch.float32: Tolerance(2e-6, 5e-6),
        torch.bfloat16: Tolerance(1.6e-2, 1e-2),
        torch.float16: Tolerance(2e-3, 1e-3),
    }

    def work(self, request: Request, plan: Plan) -> Work:
        """Count by kind: calls, turns of some examples, pairs of all heads, and masks.

        Pairs times the head size are "product", those with dropout "draw", those that are capped
        "cap". "make" are the elements of masks made at the call.
        All but "make" count once more as "back ..." for the backward pass.
        """
        scores = request.heads * request.q_len * request.kv_len
        turns = -(-request.batch // max(1, SCORES_AT_ONCE // max(1, scores)))
        pairs = request.batch * scores
        given = request.key_mask or request.global_mask or request.segment_ids
        work: dict[str, float] = {
            "call": 1,
            "turn": turns,
            "product": pairs * request.head_dim,
            "pair": pairs,
        }
        if request.dropout_p:
            work["draw"] = pairs
        if request.softcap:
            work["cap"] = pairs
        if request.needs_grad:
            work |= {f"back {kind}": amount for kind, amount in work.items()}
        if given:
            work["make"] = request.batch * len(plan.groups) * request.q_len * request.kv_len
        return work

    def seconds(self, request: Request, plan: Plan) -> float:
        """Estimate the time from the work and the measured rates."""
        return seconds(self.name, self.work(request, plan))

    def forward(self, call: Call, plan: Plan) -> tuple[Tensor, Tensor]:
        """Return output and log-sum-exp; see `Kernel.forward`."""
        out = torch.zeros_like(call.q)
        lse = torch.full(
            call.q.shape[:3],
            -torch.inf,
            dtype=accumulation_dtype(call.q.dtype),
            device=call.q.device,
        )
        distances = Distances.of_call(call)
        for some in _examples(call):
            factors = _dropout_factors(call, some)
            bias = None if distances is None else distances.matrix(some)
            for rows, inputs, mask in _branches(call, plan, some):
                weights, logs, _ = _weights(*inputs[:2], mask, call, _of_rows(bias, rows))
                if factors is not None:
                    weights = weights * factors[:, :, rows]
                out[some][:, :, rows] += (weights @ _expand(inputs[2], call)).to(out.dtype)
                lse[some][:, :, rows] = torch.maximum(lse[some][:, :, rows], logs)
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
        distances = Distances.of_call(call, backward=True)
        for some in _examples(call):
            factors = _dropout_factors(call, some)
            bias = None if distances is None else distances.matrix(some)
            for number, (rows, (q, k, v), mask) in enumerate(_branches(call, plan, some)):
                own = _of_rows(bias, rows)
                weights, logs, slope = _weights(q, k, mask, call, own)
                if call.scores.sinks is not None:
                    kept = torch.exp(logs - lse[some][:, :, rows])
                    weights = weights * kept.masked_fill(logs == -torch.inf, 0)[..., None]
                upstream = grad_out[some][:, :, rows].to(dtype)
                delta = (upstream * out[some][:, :, rows]).sum(-1, keepdim=True)
                if grad_lse is not None:
                    delta = delta - grad_lse[some][:, :, rows, None]
                grad = upstream @ _expand(v, call).mT
                dropped = weights
                if factors is not None:
                    dropped = weights * factors[:, :, rows]
                    grad = grad * factors[:, :, rows]
                grad = weights * (grad - delta)
                if slope is not None:
                    grad = grad * slope
                if distances is not None and distances.grad is not None:
                    distances.add_matrix(some, _at_rows(grad, rows, call))
                target = results[-3:] if number else results[:3]
                grad_q = grad @ _expand(k, call) * call.scale
                grad_k = grad.mT @ q.to(dtype) * call.scale
                target[0][some][:, :, rows] += grad_q
                target[1][some] += _reduce(grad_k, call)
                target[2][some] += _reduce(dropped.mT @ upstream, call)
        grads = tuple(result.to(x.dtype) for result, x in zip(results, inputs, strict=True))
        return (*grads, *bias_gradient(distances))


Branch = tuple[Tensor, tuple[Tensor, Tensor, Tensor], Tensor]


def _examples(call: Call) -> Iterator[slice]:
    """Cut the batch so that no more than `SCORES_AT_ONCE` are held, or one example."""
    request = call.request
    scores = request.heads * request.q_len * request.kv_len
    at_once = max(1, SCORES_AT_ONCE // max(1, scores))
    for first in range(0, request.batch, at_once):
        yield slice(first, min(first + at_once, request.batch))


def _branches(call: Call, plan: Plan, some: slice) -> list[Branch]:
    """Return the local and the global branch: rows, inputs and mask of some examples.

    The mask is `(examples or 1, heads or 1, rows, kv_len)`. A row of a global token with
    projections of its own is empty in the first branch, every other one in the second, so that the
    branches add up.
    """
    mask = pair_mask(call, plan, some)
    everything = torch.arange(call.request.q_len, device=call.q.device)
    local = (call.q[some], call.k[some], call.v[some])
    if call.global_qkv is None:
        return [(everything, local, mask)]
    overwritten = global_rows(call, plan, some)
    rows = overwritten.flatten(0, 1).any(0).nonzero().flatten()
    q, k, v = (x[some] for x in call.global_qkv)
    return [
        (everything, local, mask & ~overwritten[..., None]),
        (rows, (q[:, :, rows], k, v), mask[:, :, rows] & overwritten[:, :, rows, None]),
    ]


def _expand(x: Tensor, call: Call) -> Tensor:
    """Repeat the key heads `(examples, kv_heads, n, D)` for their query heads, made precise."""
    share = call.request.heads // max(1, call.request.kv_heads)
    x = x.to(accumulation_dtype(call.q.dtype))
    return x.repeat_interleave(share, 1) if share > 1 else x


def _reduce(x: Tensor, call: Call) -> Tensor:
    """Add up what the query heads contribute to their key head."""
    share = call.request.heads // max(1, call.request.kv_heads)
    return x.unflatten(1, (-1, share)).sum(2) if share > 1 else x


def _of_rows(bias: Tensor | None, rows: Tensor) -> Tensor | None:
    """Return the bias of some rows."""
    return bias if bias is None or rows.numel() == bias.shape[2] else bias[:, :, rows]


def _at_rows(grad: Tensor, rows: Tensor, call: Call) -> Tensor:
    """Return the gradient of the scores of some rows with zeros for all others."""
    if rows.numel() == call.request.q_len:
        return grad
    whole = grad.new_zeros(*grad.shape[:2], call.request.q_len, grad.shape[3])
    whole[:, :, rows] = grad
    return whole


def _weights(
    q: Tensor, k: Tensor, mask: Tensor, call: Call, bias: Tensor | None
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Return weights, log-sum-exp, and the derivative of the scores by the products.

    The weights are `(examples, heads, rows, kv_len)`, zeros in empty rows. The derivative is None
    where it is 1.
    """
    dtype = accumulation_dtype(call.q.dtype)
    scores = (q.to(dtype) * call.scale) @ _expand(k, call).mT
    slope = call.scores.change(scores, bias)
    scores = scores.masked_fill_(~mask, -torch.inf)
    lse = (
        scores.logsumexp(-1) if scores.shape[-1] else scores.new_full(scores.shape[:3], -torch.inf)
    )
    return scores.sub_(lse.masked_fill(lse == -torch.inf, 0)[..., None]).exp_(), lse, slope


def _dropout_factors(call: Call, some: slice) -> Tensor | None:
    """Draw the factors 0 and 1 / (1 - p) of all weights of some examples.

    Each example has a seed of its own, so that it does not matter how many are taken at once.
    """
    request = call.request
    if not request.dropout_p:
        return None
    shape = (some.stop - some.start, request.heads, request.q_len, request.kv_len)
    factors = torch.empty(shape, dtype=accumulation_dtype(call.q.dtype), device=call.q.device)
    for example, own in zip(range(some.start, some.stop), factors, strict=True):
        Dropout(call, example).draw(own)
    return factors
