"""The block-sparse kernel: any layout of blocks through `xformers.sparse.BlockSparseTensor`.

The library gives two products over the visible blocks: scores of pairs of blocks (`masked_matmul`)
and weights times values (`bmm`). The masks inside the blocks and the softmax are our own: the
library has none of the first, and its softmax subtracts one maximum for the whole tensor, so that
rows far below it vanish. Here every row has its own.

The heads of a group share a layout, so they are taken as examples of one head. That also avoids a
flaw of the library with several heads where queries and keys have different lengths.

Half types are multiplied as half types with sums in float32 (see `products`): the library would
round every product to a half type, and add up in one. Nor is it asked on a GPU, where it looks up
the layout at every product and waits for the answer; there it need not be installed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor

from sparse_patterns.kernels.base import Call, Kernel, Request, Tolerance
from sparse_patterns.kernels.block_sparse.library import missing
from sparse_patterns.kernels.block_sparse.passes import (
    ELEMENTS_AT_ONCE,
    block_size,
    passes,
    uses_library,
)
from sparse_patterns.kernels.dropout import Dropout
from sparse_patterns.kernels.global_rows import GlobalRows
from sparse_patterns.kernels.guard_device import LOWEST
from sparse_patterns.kernels.rates.read import rates
from sparse_patterns.kernels.rates.work import Work, seconds
from sparse_patterns.kernels.scores.terms import Distances, bias_gradient
from sparse_patterns.lowering.plan import Plan


class XformersBlocksKernel(Kernel):
    """Block-sparse products of xformers, with masks and softmax of our own."""

    name = "xformers_blocks"
    replaces_hidden = True
    tolerances: ClassVar[Mapping[torch.dtype, Tolerance]] = {
        torch.float64: Tolerance(1e-14, 2e-14),
        torch.float32: Tolerance(2e-6, 5e-6),
        torch.bfloat16: Tolerance(1.6e-2, 1e-2),
        torch.float16: Tolerance(2e-3, 1e-3),
    }

    def why_not(self, request: Request) -> list[str]:
        """Return the reasons why the request cannot be served, none if it can."""
        reasons = super().why_not(request)
        if uses_library(request.dtype, request.device):
            reasons += missing()
        if request.device not in ELEMENTS_AT_ONCE:
            allowed = ", ".join(ELEMENTS_AT_ONCE)
            reasons.append(f"device {request.device!r} is not one of {allowed}")
        return reasons

    def work(self, request: Request, plan: Plan) -> Work:
        """Count by kind, on the CPU: calls, passes, pairs, and elements of gathered blocks.

        Pairs with dropout are "draw", those that are capped "cap". All count once more as
        "back ..." for the backward pass.
        """
        # Which blocks there are is known after their tables are made, which takes longer than
        # many a call. The pairs of the tiles are known already, and nearly as many.
        pairs = request.batch * plan.computed
        work: dict[str, float] = {
            "call": 1,
            "pass": len(plan.groups),
            "pair": pairs,
            "gather": pairs * request.head_dim / block_size(request),
        }
        if request.dropout_p:
            work["draw"] = pairs
        if request.softcap:
            work["cap"] = pairs
        if request.needs_grad:
            work |= {f"back {kind}": amount for kind, amount in work.items()}
        return work

    def seconds(self, request: Request, plan: Plan) -> float:
        """Estimate the time from the elements that the passes move."""
        if request.device == "cpu":
            return seconds(self.name, self.work(request, plan))
        elements, passes = 0.0, 0
        for group in plan.groups:
            size = block_size(request)
            if group.forms.takes_example_tensors:
                count = group.forms.pairs_at_most // size**2
                passes += request.batch
            else:
                count = group.blocks(size).row.numel()
                passes += 1
            moved = size * (5 * size + 4 * request.head_dim)
            elements += request.batch * len(group.heads) * count * moved
        # A backward pass moves what takes about twice the time of a forward pass.
        own, times = rates(self.name), 3 if request.needs_grad else 1
        return times * (passes * own.call_seconds + elements / own.element_rate)

    def forward(self, call: Call, plan: Plan) -> tuple[Tensor, Tensor]:
        """Return output and log-sum-exp; see `Kernel.forward`."""
        distances = Distances.of_call(call)
        rows = GlobalRows(call, plan, distances)
        out = torch.zeros_like(call.q)
        lse = torch.full(call.q.shape[:3], -torch.inf, dtype=rows.dtype, device=call.q.device)
        for some in passes(call, plan):
            q, k, v = some.inputs()
            scores = some.multiply(q, k).mul_(call.scale)
            some.terms(distances).change(scores)
            some.hide(scores)
            weights, logs = some.softmax(scores)
            Dropout(call, some.number).apply(weights)
            total = some.apply(weights, v)
            some.put(out, total)
            some.put(lse, logs)
        rows.overwrite(out, lse)
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
        distances = Distances.of_call(call, backward=True)
        rows = GlobalRows(call, plan, distances)
        inputs = (call.q, call.k, call.v, *(call.global_qkv or ()))
        results = tuple(torch.zeros(x.shape, dtype=rows.dtype, device=x.device) for x in inputs)
        delta = grad_out.new_zeros(0)
        if call.q.dtype.itemsize > 2:
            delta = (grad_out.to(rows.dtype) * out).sum(-1)
            if grad_lse is not None:
                delta = delta - grad_lse
        shut = rows.shut(lse)
        for some in passes(call, plan):
            q, k, v = some.inputs()
            weights = some.multiply(q, k).mul_(call.scale)
            terms = some.terms(distances)
            slope = terms.change(weights)
            some.hide(weights)
            logs = some.take(shut, torch.inf)
            weights.sub_(some.by_row(logs)).exp_()
            upstream = some.vectors(grad_out)
            grad = some.multiply(upstream, v)
            factors = Dropout(call, some.number).draw(torch.empty_like(weights))
            dropped = weights
            if factors is not None:
                dropped = weights * factors
                grad *= factors
            if some.half:
                # The output is rounded: the sum of `grad * out` over a row is found without it.
                own = some.row_sums(grad * weights)
                # That of an undefined row would reach the pairs that it does not see.
                own.masked_fill_(logs == LOWEST, 0)
                if grad_lse is not None:
                    own -= some.take(grad_lse, 0)
            else:
                own = some.take(delta, 0)
            grad.sub_(some.by_row(own)).mul_(weights)
            terms.differentiate(grad, slope)
            some.put(results[0], some.apply(grad, k) * call.scale)
            some.add_to_keys(results[1], some.apply(grad, q, turned=True) * call.scale)
            some.add_to_keys(results[2], some.apply(dropped, upstream, turned=True))
        rows.add_gradients(out, lse, grad_out, grad_lse, results)
        grads = tuple(result.to(x.dtype) for result, x in zip(results, inputs, strict=True))
        return (*grads, *bias_gradient(distances))
