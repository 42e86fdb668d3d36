"""The fused kernel: patterns as a few calls of FlashAttention 2, merged exactly.

Its operators are xformers', or those of mslk or torch where xformers is not there (see `engines`).

Windows, causal or not, are native attention biases. A dilated window is one on every residue of
the positions. Documents, blocks and padding become packed sequences. Keys that are listed, as
global columns are, become packed segments of rows with lists of keys, and never hold a pair that a
window shows already. The rows of global tokens are computed separately, from projections of their
own where there are some.

The parts are merged by their log-sum-exp in plain torch, and each one's backward operator is given
the merged output and log-sum-exp (see `fused_merge`). That is exact, needs no gradient of the merge
and nothing kept but `q, k, v, out, lse`, and runs the same on the CPU, where the tests put a torch
operator in place of xformers'. `xformers.ops.fmha.merge_training` would keep every part's output
for its backward, wants all parts to have the same queries, and runs on a GPU alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import ClassVar

import torch
from torch import Tensor

from sparse_patterns.kernels.base import Call, Kernel, Request, Tolerance
from sparse_patterns.kernels.fused import engines
from sparse_patterns.kernels.fused.operator import Operator
from sparse_patterns.kernels.fused.run import (
    ALIGNMENT,
    LSE_COLUMNS,
    head_runs,
    run_backward,
    run_forward,
)
from sparse_patterns.kernels.fused.select import choose_partials
from sparse_patterns.kernels.rates.read import rates, tolerances
from sparse_patterns.lowering.plan import Group, Plan

MAX_HEAD_DIM = 256
"""Largest head size that the operators take."""


class XformersFusedKernel(Kernel):
    """Fused attention operators on the parts of a pattern.

    Args:
        operator: What runs one part; by default that of the engine that is there.
    """

    name = "xformers_fused"
    replaces_hidden = True
    tolerances: ClassVar[Mapping[torch.dtype, Tolerance]] = {
        dtype: Tolerance(*allowed) for dtype, allowed in tolerances("xformers_fused").items()
    }

    def __init__(self, operator: Operator | None = None) -> None:
        self._operator = operator

    @property
    def operator(self) -> Operator:
        """What runs one part."""
        if self._operator is None:
            found = engines.engine()
            assert found is not None, engines.missing_engines()
            self._operator = found.make()
        return self._operator

    def why_not(self, request: Request) -> list[str]:
        """Return the reasons why the request cannot be served, none if it can."""
        machine = self.machine_reasons(request)
        if machine and request.device != "cuda":
            # On every call on the CPU: what the pattern is does not matter then.
            return machine
        reasons = [*machine, *self.dtype_reasons(request)]
        if request.head_dim > MAX_HEAD_DIM:
            reasons.append(f"head_dim must be <= {MAX_HEAD_DIM}, got {request.head_dim}")
        if request.softcap:
            reasons.append("the fused operators do not cap scores (softcap)")
        if request.distance_bias:
            reasons.append(
                "the fused operators take a bias as a matrix of all pairs only (distance_bias)"
            )
        if request.dropout_p:
            reasons.append(
                f"dropout (dropout_p={request.dropout_p:g}) is drawn inside the fused operators "
                "from a state that the backward pass of several parts cannot repeat"
            )
        if request.needs_grad and torch.are_deterministic_algorithms_enabled():
            reasons.append(
                "its backward is not deterministic, and torch.use_deterministic_algorithms is on"
            )
        told = [reason for group in request.plan.groups for reason in group.fused.reasons]
        return [*reasons, *dict.fromkeys(told)]

    def caveats(self, request: Request) -> list[str]:
        """Return what a caller has to know of a request that can be served."""
        if not request.needs_grad:
            return []
        return ["gradients differ in their last bits from run to run"]

    def machine_reasons(self, request: Request) -> list[str]:
        """Return what the machine or its software lacks."""
        if request.device != "cuda":
            return [f"runs on CUDA only, device is {request.device}"]
        return [*filter(None, [engines.missing_device(), engines.missing_engines()])]

    def dtype_reasons(self, request: Request) -> list[str]:
        """Return why a dtype cannot be served."""
        if request.dtype == torch.float32:
            return [
                "dtype float32 is not one of bfloat16, float16: xformers has no fused operator "
                "with a backward for windows in float32"
            ]
        return super().why_not(request)

    def seconds(self, request: Request, plan: Plan) -> float:
        """Estimate the time from the visible pairs and the number of calls."""
        own, calls = rates(self.name), 0
        for group in plan.groups:
            fused = group.fused
            runs = len(head_runs(group.heads, request.heads // max(1, request.kv_heads)))
            calls += runs * (len(fused.stripes) + bool(fused.columns) + bool(fused.row_tokens))
        flops = request.batch * plan.flops
        if request.needs_grad:
            calls, flops = 2 * calls, flops + request.batch * plan.backward_flops
        return calls * own.call_seconds + flops / own.flops(request.dtype)

    def forward(self, call: Call, plan: Plan) -> tuple[Tensor, Tensor]:
        """Return output and log-sum-exp; see `Kernel.forward`."""
        call, _ = _with_positive_scale(call)
        outs: list[_HeadSlice] = []
        lse: Tensor | None = None
        for group, run in _runs(call, plan):
            out, logs = run_forward(call, choose_partials(call, group), run, self.operator)
            outs.append((run[0], out))
            if lse is None:
                lse = logs.new_full(call.q.shape[:3], -torch.inf)
            lse[:, run[0]] = logs
        assert lse is not None
        return _assemble(call.q, outs), lse

    def backward(
        self,
        call: Call,
        plan: Plan,
        out: Tensor,
        lse: Tensor,
        grad_out: Tensor,
        grad_lse: Tensor | None,
    ) -> tuple[Tensor, ...]:
        """Return the gradients; see `Kernel.backward`.

        Raises:
            ValueError: The log-sum-exp has a gradient and the head size leaves no room for it.
        """
        size = call.request.head_dim
        if grad_lse is not None and size + LSE_COLUMNS > MAX_HEAD_DIM:
            raise ValueError(
                f"kernel {self.name!r} takes no gradient of the log-sum-exp with head_dim {size}, "
                f"at most {MAX_HEAD_DIM - ALIGNMENT}; use kernel='tiles'"
            )
        call, sign = _with_positive_scale(call)
        inputs = (call.q, call.k, call.v, *(call.global_qkv or ()))
        slices: list[list[_HeadSlice]] = [[] for _ in inputs]
        for group, run in _runs(call, plan):
            chosen = choose_partials(call, group)
            outcome = (grad_out.to(call.q.dtype), out, lse)
            grads = run_backward(call, chosen, run, self.operator, outcome, grad_lse)
            for number, (into, grad) in enumerate(zip(slices, grads, strict=True)):
                into.append((run[min(1, number % 3)], grad))
        results = [_assemble(x, some) for x, some in zip(inputs, slices, strict=True)]
        if sign != 1:
            results = [x if number % 3 else x * sign for number, x in enumerate(results)]
        return tuple(results)


_HeadSlice = tuple[slice, Tensor]


def _runs(call: Call, plan: Plan) -> list[tuple[Group, tuple[slice, slice]]]:
    """Return the runs of adjacent heads with their group."""
    share = call.request.heads // max(1, call.request.kv_heads)
    return [(group, run) for group in plan.groups for run in head_runs(group.heads, share)]


def _assemble(like: Tensor, slices: list[_HeadSlice]) -> Tensor:
    """Put `(batch, length, heads, head_dim)` of some heads each into a tensor laid out like `like`.

    Heads that several slices hold, as those of shared keys, are added up.
    """
    target = torch.empty_like(like)
    if len(slices) == 1:
        only = slices[0][1].transpose(1, 2)
        if only.dtype == like.dtype and only.stride() == target.stride():
            return only
    heads = [head for run, _ in slices for head in range(run.start, run.stop)]
    if len(set(heads)) == len(heads):
        for run, part in slices:
            target[:, run] = part.transpose(1, 2)
        return target
    dtype = torch.promote_types(like.dtype, torch.float32)
    total = torch.zeros(like.shape, dtype=dtype, device=like.device)
    for run, part in slices:
        total[:, run] += part.transpose(1, 2)
    return target.copy_(total)


def _with_positive_scale(call: Call) -> tuple[Call, int]:
    """Return the call with a positive scale, which operators ask for, and the factor of `q` in it.

    They take the largest score before they scale it.
    """
    if call.scale > 0:
        return call, 1
    sign = -1 if call.scale < 0 else 0
    own = call.global_qkv
    if own is not None:
        own = (own[0] * sign, *own[1:])
    scale = abs(call.scale) or 1.0
    return replace(call, q=call.q * sign, global_qkv=own, scale=scale), sign
