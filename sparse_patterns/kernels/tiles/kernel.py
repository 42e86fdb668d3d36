"""The tiled kernel: batched matrix products over the runs of a plan.

It is made for the CPU, and right everywhere. For each head, each run of tiles is taken some tiles
at a time: scores by one batched product over strided views of `q` and `k` (nothing is copied), a
mask on the columns that need one, exponentials in place, and a second product into the output.
Parts add up: numerators and denominators of disjoint parts are sums. Scores that are certain to
stay small (by Cauchy-Schwarz) are not shifted by their maximum; all others are, as in
FlashAttention (Dao et al. 2022). The backward pass computes the weights again from the log-sum-exp,
so memory grows with the length and not with the window.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import ClassVar

import torch
from torch import Tensor

from sparse_patterns.kernels.base import Call, Kernel, Request, Tolerance, accumulation_dtype
from sparse_patterns.kernels.dropout import Dropout
from sparse_patterns.kernels.scores.terms import Distances, bias_gradient
from sparse_patterns.kernels.tiles import fused
from sparse_patterns.kernels.tiles.head import Side, Workspace, packed
from sparse_patterns.kernels.tiles.passes import Gradients, backward_parts, forward_parts
from sparse_patterns.kernels.tiles.pieces import SCORES_AT_ONCE
from sparse_patterns.kernels.tiles.selection import Selection, select
from sparse_patterns.kernels.tiles.terms import HeadTerms
from sparse_patterns.lowering.plan import Plan
from sparse_patterns.lowering.tiles.runs import PlanPart

HEAD_SECONDS, PIECE_SECONDS, CALL_SECONDS, FLOP_RATE = 80e-6, 20e-6, 100e-6, 120e9
"""Declared rates, for choosing a kernel: time of a head and of a piece where products are our own,
of a call of the operator where they are not, and operations per second."""


class TilesKernel(Kernel):
    """Batched matrix products over the tiles of the plan."""

    name = "tiles"
    tolerances: ClassVar[Mapping[torch.dtype, Tolerance]] = {
        torch.float64: Tolerance(1e-14, 2e-14),
        torch.float32: Tolerance(2e-6, 5e-6),
        torch.bfloat16: Tolerance(1.6e-2, 1e-2),
        torch.float16: Tolerance(2e-3, 1e-3),
    }

    def seconds(self, request: Request, plan: Plan) -> float:
        """Estimate the time from the pairs computed and the number of calls and pieces.

        Where a backward pass may follow, its overhead counts as that of the forward pass does.
        """
        calls = pieces = 0
        at_once = fused.ELEMENTS_AT_ONCE // max(1, request.q_len * request.head_dim)
        for group in plan.groups:
            runs = [run for part in group.parts for run in part.runs]
            calls += len(runs) * -(-request.batch * len(group.heads) // max(1, at_once))
            pieces += len(group.heads) * sum(1 + run.pairs // SCORES_AT_ONCE for run in runs)
        seconds = CALL_SECONDS * calls
        own = request.needs_grad or request.dropout_p or request.device != "cpu"
        if own or request.softcap:
            seconds = request.batch * (HEAD_SECONDS * request.heads + PIECE_SECONDS * pieces)
        return seconds + request.batch * 4 * request.head_dim * plan.computed / FLOP_RATE

    def forward(self, call: Call, plan: Plan) -> tuple[Tensor, Tensor]:
        """Return output and log-sum-exp; see `Kernel.forward`."""
        heads = _Heads(call, plan)
        out = torch.empty_like(call.q)
        lse = torch.empty(call.q.shape[:3], dtype=heads.dtype, device=call.q.device)
        fast = fused.serves(call)
        if fast:
            fused.forward(call, plan, out, lse)
        for example in range(call.request.batch):
            for head, at in enumerate(heads.selections(example)):
                target, logs = out[example, head], lse[example, head]
                if at.row_parts or not fast:
                    dropout = heads.dropout(example, head)
                    side = heads.side(example, head, at)
                    if not fast:
                        heads.attend(side, at, dropout, target, logs)
                    for part in at.row_parts:
                        row_side = heads.row_side(side, part, example, head)
                        values, sums = forward_parts(row_side, [part], at, dropout, heads.space)
                        target[part.queries], logs[part.queries] = values.to(target.dtype), sums
                if at.padded.numel():
                    target[at.padded] = 0
                    logs[at.padded] = -torch.inf
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
        heads = _Heads(call, plan, backward=True)
        inputs = (call.q, call.k, call.v, *(call.global_qkv or ()))
        results = tuple(torch.empty_like(x) for x in inputs)
        for example in range(call.request.batch):
            selections = heads.selections(example)
            for kv_head in range(call.request.kv_heads):
                sums = [heads.zeros(result[example], kv_head) for result in results]
                for head in range(kv_head * heads.share, (kv_head + 1) * heads.share):
                    if head % heads.share:
                        for query_sum in sums[::3]:
                            query_sum.zero_()
                    at = selections[head]
                    upstream = packed(grad_out[example, head], heads.dtype)
                    products = heads.space.get("products", *upstream.shape)
                    delta = torch.mul(upstream, out[example, head], out=products).sum(-1)
                    if grad_lse is not None:
                        delta -= grad_lse[example, head]
                    # A row that sees nothing, or is padded, has weights exp(score - inf) = 0.
                    logs = lse[example, head].masked_fill(
                        lse[example, head] == -torch.inf, torch.inf
                    )
                    heads.add_gradients(example, head, at, logs, upstream, delta, sums)
                    for result, query_sum in zip(results[::3], sums[::3], strict=True):
                        query_sum.mul_(call.scale)
                        heads.store(result[example, head], query_sum)
                for index, total in enumerate(sums):
                    if index % 3:
                        heads.store(results[index][example, kv_head], total)
        return (*results, *bias_gradient(heads.distances))


class _Heads:
    """One call, head by head."""

    def __init__(self, call: Call, plan: Plan, backward: bool = False) -> None:
        self.call = call
        self.backward = backward
        self.distances = Distances.of_call(call, backward)
        self.plan = plan
        self.dtype = accumulation_dtype(call.q.dtype)
        self.share = call.request.heads // max(1, call.request.kv_heads)
        self.space = Workspace(self.dtype, call.q.device)

    def zeros(self, results: Tensor, kv_head: int) -> Tensor:
        """Return zeros to add the gradient of a head up in: its place in the result, if it can be.

        Args:
            results: `(heads or kv_heads, n, D)` of one example.
            kv_head: The key head.
        """
        target = results[kv_head]
        if self.share == 1 and target.dtype == self.dtype and target.is_contiguous():
            return target.zero_()
        return torch.zeros(target.shape, dtype=self.dtype, device=target.device)

    def store(self, target: Tensor, total: Tensor) -> None:
        """Write a gradient to its place, unless it was added up there."""
        if target.data_ptr() != total.data_ptr() or target.dtype != total.dtype:
            target.copy_(total)

    def selections(self, example: int) -> list[Selection]:
        """Return what each head of an example computes."""
        chosen: dict[int, Selection] = {}
        for group in self.plan.groups:
            at = select(self.call, group, example)
            chosen.update(dict.fromkeys(group.heads, at))
        return [chosen[head] for head in sorted(chosen)]

    def dropout(self, example: int, head: int) -> Dropout:
        """Return the dropout of a head, freshly seeded."""
        return Dropout(self.call, example * self.call.request.heads + head)

    def side(self, example: int, head: int, at: Selection) -> Side:
        """Return the matrices of a head."""
        call, kv_head = self.call, head // self.share
        k, v = call.k[example, kv_head], call.v[example, kv_head]
        side = Side.of(call.q[example, head], k, v, call.scale, self.space)
        return self.with_terms(side, example, head, at.parts)

    def with_terms(self, side: Side, example: int, head: int, parts: list[PlanPart]) -> Side:
        """Return the matrices with what changes the scores of some parts."""
        scores, distances = self.call.scores, self.distances
        if scores.plain:
            return side
        terms = HeadTerms.of(side.q, scores, distances, example, head)
        terms.backward = self.backward
        small = terms.is_small(side.bound, parts, self.call.key_mask is not None)
        return replace(side, small=small, terms=terms)

    def attend(
        self, side: Side, at: Selection, dropout: Dropout, target: Tensor, logs: Tensor
    ) -> None:
        """Write one head's output and log-sum-exp, all but the rows of parts of their own."""
        usable = target.dtype == self.dtype and target.is_contiguous()
        total, sums = forward_parts(
            side, at.parts, at, dropout, self.space, target if usable else None
        )
        logs.copy_(sums)
        if not usable:
            target.copy_(total)

    def row_side(self, side: Side, part: PlanPart, example: int, head: int) -> Side:
        """Return the matrices that the rows of global tokens are computed from."""
        assert part.queries is not None
        rows = part.queries.to(side.q.device)
        if self.call.global_qkv is None:
            row_side = replace(side, q=side.q[rows])
            return self.with_terms(row_side, example, head, [part])
        q, k, v = self.call.global_qkv
        kv_head = head // self.share
        q = q[example, head].index_select(0, rows)
        side = Side.of(q, k[example, kv_head], v[example, kv_head], self.call.scale, self.space)
        return self.with_terms(side, example, head, [part])

    def add_gradients(
        self,
        example: int,
        head: int,
        at: Selection,
        logs: Tensor,
        upstream: Tensor,
        delta: Tensor,
        sums: list[Tensor],
    ) -> None:
        """Add one head's gradients to `sums`: those of `q, k, v` and, if given, of `global_qkv`."""
        dropout = self.dropout(example, head)
        side = self.side(example, head, at)
        own = logs.index_fill(0, at.overwritten, torch.inf)
        grads = Gradients(*sums[:3])
        backward_parts(side, at.parts, at, dropout, self.space, own, upstream, delta, grads)
        for part in at.row_parts:
            assert part.queries is not None
            rows = part.queries.to(logs.device)
            row_side = self.row_side(side, part, example, head)
            row_q = torch.zeros_like(row_side.q)
            grads = Gradients(row_q, *sums[-2:])
            backward_parts(
                row_side,
                [part],
                at,
                dropout,
                self.space,
                logs[rows],
                upstream[rows],
                delta[rows],
                grads,
            )
            sums[-3].index_add_(0, rows, row_q)
