"""The tiled kernel: batched matrix products over the runs of a plan.

It is made for the CPU, and right everywhere. Each run of tiles is taken one tile in some heads, or
some tiles of one head, at a time: scores by one batched product over strided views of `q` and `k`
(nothing is copied), a mask on the columns that need one, exponentials in place, and a second
product into the output. Parts add up: numerators and denominators of disjoint parts are sums.
Scores that are certain to stay small (by Cauchy-Schwarz) are not shifted by their maximum; all
others are, as in FlashAttention (Dao et al. 2022). The backward pass computes the weights again
from the log-sum-exp, so memory grows with the length and not with the window. Forward, torch's own
fused operator does the same where it can (see `tiles.fused`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor

from sparse_patterns.kernels.base import Call, Kernel, Request, Tolerance, accumulation_dtype
from sparse_patterns.kernels.rates.work import Work, seconds
from sparse_patterns.kernels.scores.terms import bias_gradient
from sparse_patterns.kernels.tiles.fused import forward as fused
from sparse_patterns.kernels.tiles.head import Workspace, packed
from sparse_patterns.kernels.tiles.heads import Heads, Sums
from sparse_patterns.kernels.tiles.passes import forward_parts
from sparse_patterns.kernels.tiles.selection import Selection
from sparse_patterns.kernels.tiles.stacks import Stack
from sparse_patterns.kernels.tiles.work import least_work_of, work_of
from sparse_patterns.lowering.plan import Plan


class TilesKernel(Kernel):
    """Batched matrix products over the tiles of the plan."""

    name = "tiles"
    tolerances: ClassVar[Mapping[torch.dtype, Tolerance]] = {
        torch.float64: Tolerance(1e-14, 2e-14),
        torch.float32: Tolerance(2e-6, 5e-6),
        torch.bfloat16: Tolerance(1.6e-2, 1e-2),
        torch.float16: Tolerance(2e-3, 1e-3),
    }

    def work(self, request: Request, plan: Plan) -> Work:
        """Count strips, pieces, pairs and what is copied; see `tiles.work`."""
        return work_of(request, plan)

    def at_least(self, request: Request, plan: Plan) -> float:
        """Return the time of the visible pairs, where their number follows from the pattern."""
        return seconds(self.name, least_work_of(request, plan))

    def seconds(self, request: Request, plan: Plan) -> float:
        """Estimate the time from the work and the measured rates."""
        return seconds(self.name, self.work(request, plan))

    def forward(self, call: Call, plan: Plan) -> tuple[Tensor, Tensor]:
        """Return output and log-sum-exp; see `Kernel.forward`."""
        out = torch.empty_like(call.q)
        dtype = accumulation_dtype(call.q.dtype)
        lse = torch.empty(call.q.shape[:3], dtype=dtype, device=call.q.device)
        fast = fused.serves(call)
        if fast:
            fused.forward(call, plan, out, lse)
        heads = Heads(call, plan, (out, lse))
        out_of, lse_of = heads.views

        def compute(stack: Stack, at: Selection, space: Workspace) -> None:
            target, logs = stack.queries(out_of), stack.queries(lse_of)
            side = None
            if not fast:
                side, dropout = heads.side(stack), heads.dropout(stack)
                heads.attend(stack, side, at, dropout, space, target, logs)
            for part in at.row_parts:
                if side is None:
                    values, sums = heads.rows_by_operator(stack, at, part, space)
                else:
                    row_side = heads.row_side(stack, side, part)
                    values, sums = forward_parts(row_side, [part], at, dropout, space)
                assert part.queries is not None
                rows = part.queries.to(target.device)
                target[:, rows], logs[:, rows] = values.to(target.dtype), sums
            if at.padded.numel():
                target[:, at.padded] = 0
                logs[:, at.padded] = -torch.inf

        def needed(at: Selection) -> bool:
            return not fast or bool(at.row_parts) or at.padded.numel() > 0

        heads.each_stack(compute, needed)
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
        inputs = (call.q, call.k, call.v, *(call.global_qkv or ()))
        results = tuple(torch.empty_like(x) for x in inputs)
        given = (out, lse, grad_out, *(() if grad_lse is None else (grad_lse,)))
        heads = Heads(call, plan, (*given, *results), backward=True)
        out_of, lse_of, grad_of, *others = heads.views
        logs_of = others.pop(0) if grad_lse is not None else None
        sums = Sums(tuple(others), heads.dtype, heads.share)

        def compute(stack: Stack, at: Selection, space: Workspace) -> None:
            upstream = packed(stack.queries(grad_of), heads.dtype)
            delta = heads.rowwise(upstream, stack.queries(out_of), space)
            if logs_of is not None:
                delta -= stack.queries(logs_of)
            logs = stack.queries(lse_of)
            # A row that sees nothing, or is padded, has weights exp(score - inf) = 0.
            logs = logs.masked_fill(logs == -torch.inf, torch.inf)
            own = sums.of(stack)
            heads.add_gradients(stack, at, logs, upstream, delta, own, space)
            sums.store(stack, own)

        heads.each_stack(compute)
        sums.finish()
        return (*results, *bias_gradient(heads.distances))
