"""One call of the tiled kernel, some heads at a time: their matrices and their gradients."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import torch
from torch import Tensor

from sparse_patterns.kernels.base import Call, accumulation_dtype
from sparse_patterns.kernels.dropout import Dropout
from sparse_patterns.kernels.scores.terms import Distances
from sparse_patterns.kernels.threads import share_out, workers_for
from sparse_patterns.kernels.tiles.fused import forward as fused
from sparse_patterns.kernels.tiles.fused.bias import Bias
from sparse_patterns.kernels.tiles.head import Side, Workspace
from sparse_patterns.kernels.tiles.passes import Gradients, backward_parts, forward_parts
from sparse_patterns.kernels.tiles.selection import Selection, select
from sparse_patterns.kernels.tiles.stacks import (
    Stack,
    joined_heads,
    joins_examples,
    lanes_of,
    stacks_of,
)
from sparse_patterns.kernels.tiles.terms import HeadTerms
from sparse_patterns.lowering.plan import Plan
from sparse_patterns.lowering.tiles.runs import PlanPart

ROWWISE_AT_ONCE = 1 << 18
"""Elements of outputs and their gradients that are multiplied at once."""


class Heads:
    """One call, some heads at a time.

    Args:
        call: The call.
        plan: Its plan.
        tensors: `(batch, heads, ...)`, more than the inputs that are taken apart by heads.
        backward: Whether it is the backward pass.

    Attributes:
        views: The tensors, of one example with all heads where all examples see the same.
    """

    def __init__(
        self, call: Call, plan: Plan, tensors: tuple[Tensor, ...], backward: bool = False
    ) -> None:
        self.call, self.plan, self.backward = call, plan, backward
        self.distances = Distances.of_call(call, backward)
        self.dtype = accumulation_dtype(call.q.dtype)
        self.share = call.request.heads // max(1, call.request.kv_heads)
        inputs: tuple[Tensor, ...] = (call.q, call.k, call.v)
        self.joined = joins_examples(call, plan, *inputs, *tensors)
        if self.joined:
            inputs, tensors = (tuple(joined_heads(x) for x in group) for group in (inputs, tensors))
        self.inputs, self.views = inputs, tensors

    def workspace(self) -> Workspace:
        """Return buffers, for one thread."""
        return Workspace(self.dtype, self.call.q.device)

    def each_stack(
        self,
        compute: Callable[[Stack, Selection, Workspace], None],
        needed: Callable[[Selection], bool] = lambda at: True,
    ) -> None:
        """Compute every head of every example in one stack, on several threads where that pays.

        Args:
            compute: Computes a stack; it may be called on several threads at once.
            needed: Whether there is something to compute.
        """
        request = self.call.request
        products = request.batch * self.plan.computed * request.head_dim
        threads = workers_for(request.batch * request.heads, self.call.q.device, products)
        stacks = stacks_of(self.call, self.plan, self.joined, threads)
        # Stacks that add to the same gradients of keys follow each other.
        lanes = lanes_of(stacks) if self.backward else [[stack] for stack in stacks]
        found = ([(stack, self.selection(stack)) for stack in lane] for lane in lanes)
        tasks = [lane for lane in found if any(needed(at) for _, at in lane)]

        def compute_some(some: Iterator[list[tuple[Stack, Selection]]]) -> None:
            space = self.workspace()
            for lane in some:
                for stack, at in lane:
                    compute(stack, at, space)

        share_out(tasks, compute_some, min(threads, len(tasks)))

    def selection(self, stack: Stack) -> Selection:
        """Return what the heads of a stack compute."""
        return select(self.call, stack.group, stack.example)

    def dropout(self, stack: Stack) -> Dropout:
        """Return the dropout of the head of a stack, freshly seeded."""
        return Dropout(self.call, stack.example * self.call.request.heads + stack.heads.start)

    def side(self, stack: Stack) -> Side:
        """Return the matrices of a stack."""
        q, k, v = self.inputs
        matrices = (stack.queries(q), stack.keys(k), stack.keys(v))
        side = Side.of(*matrices, self.call.scale, self.dtype)
        return self.with_terms(side, stack, self.selection(stack).parts)

    def with_terms(self, side: Side, stack: Stack, parts: list[PlanPart]) -> Side:
        """Return the matrices with what changes the scores of some parts."""
        scores = self.call.scores
        if scores.plain:
            return side
        return HeadTerms.of(
            replace(side, terms=None),
            parts,
            scores.softcap,
            self.bias(stack),
            hidden=self.call.key_mask is not None,
            backward=self.backward,
        )

    def bias(self, stack: Stack) -> tuple[Tensor, int, Tensor | None] | None:
        """Return the bias of a stack, `(heads, distances)`; its origin; where its gradient goes."""
        distances = self.distances
        if distances is None:
            return None
        values, grad = distances.of(stack.example), distances.grad
        if self.joined:
            count = self.call.request.heads
            values = values[[head % count for head in range(stack.heads.start, stack.heads.stop)]]
            grad = None if grad is None else joined_heads(grad)
        else:
            values = values[stack.heads]
        own = None if grad is None else stack.queries(grad)
        return values, distances.origin - distances.q_offset, own

    def attend(
        self,
        stack: Stack,
        side: Side,
        at: Selection,
        dropout: Dropout,
        space: Workspace,
        target: Tensor,
        logs: Tensor,
    ) -> None:
        """Write output and log-sum-exp of a stack, all but the rows of parts of their own."""
        usable = target.dtype == self.dtype and target.stride(-1) == 1
        total, sums = forward_parts(side, at.parts, at, dropout, space, target if usable else None)
        logs.copy_(sums)
        if not usable:
            target.copy_(total)

    def rows_by_operator(
        self, stack: Stack, at: Selection, part: PlanPart, space: Workspace
    ) -> tuple[Tensor, Tensor]:
        """Return output and log-sum-exp of the rows of global tokens, by torch's operator.

        Both are in the accumulation type, `(heads, rows, D)` and `(heads, rows)`.
        """
        assert part.queries is not None
        own = self.call.global_qkv
        q, k, v = self.inputs if own is None else own
        rows = stack.queries(q).index_select(1, part.queries.to(q.device))
        bias = self.bias(stack)
        values = rows.new_empty(rows.shape, dtype=self.dtype)
        sums = rows.new_empty(rows.shape[:2], dtype=self.dtype)
        fused.attend(
            rows,
            stack.keys(k),
            stack.keys(v),
            replace(at, parts=[part]),
            self.call.scale,
            values,
            sums,
            space,
            None if bias is None else Bias(*bias[:2]),
        )
        return values, sums

    def row_side(self, stack: Stack, side: Side, part: PlanPart) -> Side:
        """Return the matrices that the rows of global tokens are computed from."""
        assert part.queries is not None
        rows = part.queries.to(side.q.device)
        if self.call.global_qkv is None:
            return self.with_terms(replace(side, q=side.q[:, rows]), stack, [part])
        q, k, v = self.call.global_qkv
        own = stack.queries(q).index_select(1, rows)
        side = Side.of(own, stack.keys(k), stack.keys(v), self.call.scale, self.dtype)
        return self.with_terms(side, stack, [part])

    def rowwise(self, a: Tensor, b: Tensor, space: Workspace) -> Tensor:
        """Return the sum over the last dimension of the products of `(heads, n, D)`."""
        total = a.new_empty(a.shape[:2])
        at_once = max(1, ROWWISE_AT_ONCE // max(1, a[0].numel()))
        for some, x, y in zip(
            total.split(at_once), a.split(at_once), b.split(at_once), strict=True
        ):
            torch.sum(torch.mul(x, y, out=space.get("products", *x.shape)), -1, out=some)
        return total

    def add_gradients(
        self,
        stack: Stack,
        at: Selection,
        logs: Tensor,
        upstream: Tensor,
        delta: Tensor,
        sums: list[Tensor],
        space: Workspace,
    ) -> None:
        """Add gradients of a stack to `sums`: of `q, k, v` and, if given, of `global_qkv`."""
        dropout = self.dropout(stack)
        side = self.side(stack)
        own = logs.index_fill(1, at.overwritten, torch.inf)
        grads = Gradients(*sums[:3])
        backward_parts(side, at.parts, at, dropout, space, own, upstream, delta, grads)
        for part in at.row_parts:
            assert part.queries is not None
            rows = part.queries.to(logs.device)
            row_side = self.row_side(stack, side, part)
            row_q = torch.zeros_like(row_side.q)
            some = (logs[:, rows], upstream[:, rows], delta[:, rows])
            grads = Gradients(row_q, *sums[-2:])
            backward_parts(row_side, [part], at, dropout, space, *some, grads)
            sums[-3].index_add_(1, rows, row_q)


class Sums:
    """Where gradients are added up: in the results where these can hold sums.

    Args:
        results: `(examples, heads or kv_heads, n, D)`, those of queries, keys and values in turn.
        dtype: The type of sums.
        share: Query heads that share one key head.
    """

    def __init__(self, results: tuple[Tensor, ...], dtype: torch.dtype, share: int) -> None:
        self.results, self.share = results, share
        self.whole: list[Tensor | None] = []
        for index, result in enumerate(results):
            # Rows of a head that do not follow on each other would be added to one at a time.
            direct = result.dtype == dtype and result.stride()[-2:] == (result.shape[-1], 1)
            if direct:
                self.whole.append(result.zero_())
            elif index % 3 and share > 1:
                # Several stacks add to the same key heads.
                self.whole.append(result.new_zeros(result.shape, dtype=dtype))
            else:
                self.whole.append(None)
        self.dtype = dtype

    def of(self, stack: Stack) -> list[Tensor]:
        """Return where to add the gradients of a stack, `(heads, n, D)` each."""
        own = []
        for index, (result, whole) in enumerate(zip(self.results, self.whole, strict=True)):
            choose = stack.keys if index % 3 else stack.queries
            if whole is None:
                own.append(result.new_zeros(choose(result).shape, dtype=self.dtype))
            else:
                own.append(choose(whole))
        return own

    def store(self, stack: Stack, own: list[Tensor]) -> None:
        """Write the gradients of a stack that were added up apart."""
        for index, (result, whole) in enumerate(zip(self.results, self.whole, strict=True)):
            if whole is None:
                choose = stack.keys if index % 3 else stack.queries
                choose(result).copy_(own[index])

    def finish(self) -> None:
        """Write what several stacks added to."""
        for result, whole in zip(self.results, self.whole, strict=True):
            if whole is not None and whole is not result:
                result.copy_(whole)
