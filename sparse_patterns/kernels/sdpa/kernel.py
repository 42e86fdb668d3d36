"""Torch's own attention on the CPU, for what it takes as it is and for short sequences.

Where every query sees every key, or every key up to its own position, torch's operator is called
without a mask: nothing that works by parts can be faster. Any other pattern is a mask that is added
to the scores, which costs all pairs, and is the fastest way for short sequences.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar

import torch
from torch import Tensor

from sparse_patterns.kernels.base import Call, Kernel, Request, Tolerance, accumulation_dtype
from sparse_patterns.kernels.global_rows import GlobalRows
from sparse_patterns.kernels.masks import additive_mask
from sparse_patterns.kernels.rates.work import Work, seconds
from sparse_patterns.kernels.scores.terms import Distances
from sparse_patterns.kernels.sdpa import operator
from sparse_patterns.kernels.sdpa.work import work_of
from sparse_patterns.lowering.plan import Group, Plan

MASK_AT_ONCE = 1 << 22
"""Elements of the masks of several examples held at once; of more, examples are taken in turns."""

LARGEST_MASK = 1 << 26
"""Bytes of the masks of one example; where more are needed, other kernels take far less memory."""

FULL, CAUSAL, MASKED = "full", "causal", "masked"


class SdpaKernel(Kernel):
    """`torch.nn.functional.scaled_dot_product_attention` by its operators for the CPU."""

    name = "sdpa"
    tolerances: ClassVar[Mapping[torch.dtype, Tolerance]] = {
        torch.float64: Tolerance(1e-14, 2e-14),
        torch.float32: Tolerance(2e-6, 5e-6),
        torch.bfloat16: Tolerance(1.6e-2, 1e-2),
        torch.float16: Tolerance(2e-3, 1e-3),
    }

    def why_not(self, request: Request) -> list[str]:
        """Return the reasons why the request cannot be served, none if it can."""
        reasons = super().why_not(request)
        if request.device == "mps":
            # `_scaled_dot_product_attention_math_for_mps` returns weights of all pairs instead.
            reasons.append(
                "torch's attention for MPS gives no log-sum-exp, which the backward pass is made of"
            )
        elif request.device not in ("cpu", "meta"):
            reasons.append(f"runs on the CPU only, not on {request.device!r}")
        if request.dropout_p:
            reasons.append("torch's operator for the CPU has no dropout with a seed of its own")
        if request.softcap:
            reasons.append("torch's operator for the CPU does not cap scores (softcap)")
        if request.bias_grad:
            reasons.append("torch's operator for the CPU has no gradient of a bias (distance_bias)")
        reasons.extend(_too_large(request))
        return reasons

    def work(self, request: Request, plan: Plan) -> Work:
        """Count what torch's operator does; see `sdpa.work`."""
        kind = MASKED if request.distance_bias else kind_of(plan)
        return work_of(request, kind == CAUSAL, kind == MASKED, len(plan.groups))

    def seconds(self, request: Request, plan: Plan) -> float:
        """Estimate the time from the work and the measured rates."""
        return seconds(self.name, self.work(request, plan))

    def forward(self, call: Call, plan: Plan) -> tuple[Tensor, Tensor]:
        """Return output and log-sum-exp; see `Kernel.forward`."""
        outs, logs = [], []
        for some in _steps(call, plan):
            out, lse = operator.forward(
                call.q[some.examples],
                call.k[some.examples],
                call.v[some.examples],
                some.mask,
                some.causal,
                call.scale,
            )
            if some.padded is not None:
                out.masked_fill_(some.padded[..., None], 0)
            if some.empty is not None:
                lse = lse.masked_fill(some.empty, -torch.inf)
            outs.append(out)
            logs.append(lse)
        out, lse = _joined(outs, call.q), torch.cat(logs).contiguous()
        if call.global_qkv is not None:
            GlobalRows(call, plan, Distances.of_call(call)).overwrite(out, lse)
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
        rows = None
        if call.global_qkv is not None:
            rows = GlobalRows(call, plan, Distances.of_call(call))
        logs = rows.shut(lse) if rows is not None else lse.masked_fill(lse == -torch.inf, torch.inf)
        found: list[tuple[Tensor, Tensor, Tensor]] = []
        for some in _steps(call, plan):
            at = some.examples
            grads = operator.backward(
                call.q[at],
                call.k[at],
                call.v[at],
                out[at],
                logs[at],
                grad_out[at],
                None if grad_lse is None else grad_lse[at],
                some.mask,
                some.causal,
                call.scale,
            )
            found.append(grads)
        inputs = (call.q, call.k, call.v)
        main = [
            _joined(list(parts), x)
            for parts, x in zip(zip(*found, strict=True), inputs, strict=True)
        ]
        if rows is None:
            return tuple(main)
        assert call.global_qkv is not None
        dtype = accumulation_dtype(call.q.dtype)
        own = tuple(torch.zeros_like(x, dtype=dtype) for x in call.global_qkv)
        rows.add_gradients(out, lse, grad_out, grad_lse, own)
        return (*main, *(x.to(call.q.dtype) for x in own))


def _too_large(request: Request) -> list[str]:
    """Return the reason why the masks of a request are too large, none if they are not."""
    one = request.q_len * request.kv_len * accumulation_dtype(request.dtype).itemsize
    if one * request.heads <= LARGEST_MASK:
        return []
    if not request.distance_bias and kind_of(request.plan) != MASKED:
        return []
    size = one * (request.heads if request.distance_bias else len(request.plan.groups))
    if size <= LARGEST_MASK:
        return []
    return [f"its masks would take {size >> 20} MiB, and {LARGEST_MASK >> 20} MiB are allowed"]


@dataclass(frozen=True)
class _Step:
    """What the operator is told of some examples.

    Attributes:
        examples: Which.
        causal: Whether keys after the query are hidden.
        mask: What else is hidden: 0 or -inf, `(examples or 1, heads or 1, q_len or 1, kv_len)`.
        empty: Rows that see no key, bool `(examples or 1, heads or 1, q_len)`, or None.
        padded: Those among them that the operator does not leave at zero, or None.
    """

    examples: slice
    causal: bool
    mask: Tensor | None
    empty: Tensor | None
    padded: Tensor | None


def _steps(call: Call, plan: Plan) -> Iterator[_Step]:
    """Yield all examples at once, or some at a time where their masks are large."""
    request, examples = call.request, call.examples
    distances = Distances.of_call(call)
    kind = kind_of(plan) if distances is None else MASKED
    everything = slice(0, request.batch)
    if kind == MASKED:
        masks = len(plan.groups) if distances is None else request.heads
        size = masks * request.q_len * request.kv_len
        at_once = max(1, MASK_AT_ONCE // max(1, size))
        own = any(group.forms.takes_example_tensors for group in plan.groups)
        if distances is not None and distances.values.shape[0] > 1:
            own = True
        if not own and examples.key_mask is None:
            at_once = max(1, request.batch)
        for first in range(0, max(1, request.batch), at_once):
            some = slice(first, min(first + at_once, request.batch))
            hidden, rows = additive_mask(call, plan, some)
            if distances is not None:
                hidden = hidden + distances.matrix(some)
            yield _Step(some, False, hidden, rows, None)
        return
    mask = empty = padded = None
    if examples.key_mask is not None:
        assert examples.padded_rows is not None
        padded = examples.padded_rows[:, None]
        dtype = accumulation_dtype(request.dtype)
        mask = torch.zeros(examples.key_mask.shape, dtype=dtype, device=examples.device)
        mask = mask.masked_fill_(~examples.key_mask, -torch.inf)[:, None, None]
        seen = examples.key_mask.any(-1, keepdim=True)
        if kind == CAUSAL:
            before = examples.key_mask.cumsum(-1) > 0
            seen = before[:, examples.positions.clamp(max=request.kv_len - 1)]
        empty = padded | ~seen[:, None]
    yield _Step(everything, kind == CAUSAL, mask, empty, padded)


def _joined(parts: list[Tensor], like: Tensor) -> Tensor:
    """Return the results of all examples in the layout of an input."""
    if len(parts) == 1:
        return parts[0]
    return torch.cat(parts, out=torch.empty_like(like))


@lru_cache(maxsize=128)
def kind_of(plan: Plan) -> str:
    """Return whether all heads see all keys (full), all up to their position (causal), or else."""
    if plan.q_len and plan.kv_len:
        kinds = {_kind_of_group(group, plan) for group in plan.groups}
        if len(kinds) == 1:
            return kinds.pop()
    return MASKED


def _kind_of_group(group: Group, plan: Plan) -> str:
    forms = group.forms
    conjuncts = forms.conjuncts
    if any(one.documents or one.rest or one.layout is not None for one in conjuncts):
        return MASKED
    pairs = plan.q_len * plan.kv_len
    if forms.pairs_at_most == pairs and forms.numbers.visible == pairs:
        return FULL
    if plan.q_offset or any(one.batch for one in conjuncts):
        return MASKED
    length = min(plan.q_len, plan.kv_len)
    causal = math.comb(length + 1, 2) + (plan.q_len - length) * plan.kv_len
    if forms.pairs_at_most < causal or forms.numbers.visible != causal:
        return MASKED
    return CAUSAL if forms.numbers.receptive_field[1] == 0 else MASKED
