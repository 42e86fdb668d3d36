"""The block-sparse kernel: any layout of blocks through `xformers.sparse.BlockSparseTensor`.

The library gives two products over the visible blocks: scores of pairs of blocks (`masked_matmul`)
and weights times values (`bmm`). The masks inside the blocks and the softmax are our own: the
library has none of the first, and its softmax subtracts one maximum for the whole tensor, so that
rows far below it vanish. Here every row has its own.

The heads of a group share a layout, so they are taken as examples of one head. That also avoids a
flaw of the library with several heads where queries and keys have different lengths.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from sparse_patterns.kernels.base import Call, Kernel, Request, Tolerance, accumulation_dtype
from sparse_patterns.kernels.dropout import Dropout
from sparse_patterns.kernels.global_rows import GlobalRows
from sparse_patterns.kernels.scores.blocks import BlockTerms
from sparse_patterns.kernels.scores.terms import Distances, bias_gradient
from sparse_patterns.lowering.blocks.table import FULL, Blocks
from sparse_patterns.lowering.plan import Plan

MINIMUM = "0.0.35"
"""The oldest release of xformers that this file was written against."""

LARGE, SMALL, SMALL_UP_TO = 64, 16, 512
"""Size of a block, and that for short sequences; the library takes no less than 16."""

ELEMENTS_AT_ONCE = {"cpu": 1 << 24, "cuda": 1 << 29}
"""Elements of the largest tensors held at once; with more, heads are taken some at a time."""

RATES = {"cpu": (500e-6, 1.5e9), "cuda": (400e-6, 3e11)}
"""Declared rates, for choosing a kernel: time of a pass, and elements moved in a second.

Nearly all its time goes into moving scores and gathered blocks, not into products.
"""


class XformersBlocksKernel(Kernel):
    """Block-sparse products of xformers, with masks and softmax of our own."""

    name = "xformers_blocks"
    tolerances: ClassVar[Mapping[torch.dtype, Tolerance]] = {
        torch.float64: Tolerance(1e-14, 2e-14),
        torch.float32: Tolerance(2e-6, 5e-6),
        torch.bfloat16: Tolerance(1.6e-2, 1e-2),
        torch.float16: Tolerance(2e-3, 1e-3),
    }

    def why_not(self, request: Request) -> list[str]:
        """Return the reasons why the request cannot be served, none if it can."""
        reasons = [*super().why_not(request), *missing()]
        if request.device not in RATES:
            reasons.append(f"device {request.device!r} is not one of {', '.join(RATES)}")
        return reasons

    def seconds(self, request: Request, plan: Plan) -> float:
        """Estimate the time from the elements that the passes move."""
        pass_seconds, rate = RATES[request.device]
        if request.device == "cpu":
            # Which blocks there are is known after their tables are made, which takes longer than
            # many a call. The pairs of the tiles are known already, and nearly as many.
            size = block_size(request)
            moved = plan.computed * (5 + 4 * request.head_dim / size)
            return request.batch * (pass_seconds * len(plan.groups) + moved / rate)
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
        return passes * pass_seconds + elements / rate

    def forward(self, call: Call, plan: Plan) -> tuple[Tensor, Tensor]:
        """Return output and log-sum-exp; see `Kernel.forward`."""
        distances = Distances.of_call(call)
        rows = GlobalRows(call, plan, distances)
        out = torch.zeros_like(call.q)
        lse = torch.full(call.q.shape[:3], -torch.inf, dtype=rows.dtype, device=call.q.device)
        for some in _passes(call, plan):
            q, k, v = some.inputs()
            scores = some.multiply(q, k)
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
        delta = (grad_out.to(rows.dtype) * out).sum(-1)
        if grad_lse is not None:
            delta = delta - grad_lse
        shut = rows.shut(lse)
        for some in _passes(call, plan):
            q, k, v = some.inputs()
            weights = some.multiply(q, k)
            terms = some.terms(distances)
            slope = terms.change(weights)
            some.hide(weights)
            weights.sub_(some.by_row(some.take(shut, torch.inf))).exp_()
            upstream = some.take(grad_out, 0)
            grad = some.multiply(upstream, v)
            factors = Dropout(call, some.number).draw(torch.empty_like(weights))
            dropped = weights
            if factors is not None:
                dropped = weights * factors
                grad *= factors
            grad.sub_(some.by_row(some.take(delta, 0))).mul_(weights)
            terms.differentiate(grad, slope)
            some.put(results[0], some.apply(grad, k) * call.scale)
            # The queries are scaled already.
            some.add_to_keys(results[1], some.apply(grad, q, turned=True))
            some.add_to_keys(results[2], some.apply(dropped, upstream, turned=True))
        rows.add_gradients(out, lse, grad_out, grad_lse, results)
        grads = tuple(result.to(x.dtype) for result, x in zip(results, inputs, strict=True))
        return (*grads, *bias_gradient(distances))


def missing() -> list[str]:
    """Return what is missing of xformers, and how to get it, without importing it."""
    spec = find_spec("xformers")
    if spec is None:
        return [f"xformers is not installed: pip install 'xformers>={MINIMUM}'"]
    for folder in spec.submodule_search_locations or ():
        if Path(folder, "sparse", "blocksparse_tensor.py").exists():
            return []
    try:
        version = metadata.version("xformers")
    except metadata.PackageNotFoundError:
        version = "of an unknown version"
    return [
        f"xformers {version} has no xformers.sparse.BlockSparseTensor: "
        f"pip install 'xformers=={MINIMUM}'"
    ]


@cache
def library() -> tuple[Any, Any]:
    """Import xformers quietly; return `masked_matmul` and `BlockSparseTensor`.

    Where its CUDA extensions do not load it logs a warning, though nothing here needs them.
    """
    logger = logging.getLogger("xformers")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        from xformers.ops import masked_matmul
        from xformers.sparse import BlockSparseTensor
    finally:
        logger.setLevel(level)
    return masked_matmul, BlockSparseTensor


def block_size(request: Request) -> int:
    """Return the size of a block for a shape."""
    return SMALL if max(request.q_len, request.kv_len) <= SMALL_UP_TO else LARGE


def _passes(call: Call, plan: Plan) -> Iterator[_Pass]:
    """Yield the passes of a call: examples and heads that share a layout, some at a time."""
    request = call.request
    size = block_size(request)
    number = 0
    for group in plan.groups:
        if group.forms.takes_example_tensors:
            tables = [
                ([example], call.examples.blocks(group, example, size))
                for example in range(request.batch)
            ]
        else:
            tables = [(list(range(request.batch)), group.blocks(size))]
        for examples, table in tables:
            if not table.row.numel() or not examples:
                continue
            layout = _Layout(table, call.q.device)
            moved = table.row.numel() * table.block * (table.block + 2 * request.head_dim)
            limit = ELEMENTS_AT_ONCE[request.device]
            at_once = max(1, limit // (moved * len(examples)))
            for first in range(0, len(group.heads), at_once):
                yield _Pass(call, layout, examples, group.heads[first : first + at_once], number)
                number += 1


class _Layout:
    """A block table as the library takes it, and turned over for the gradients of the keys."""

    def __init__(self, table: Blocks, device: torch.device) -> None:
        self.table = table
        self.row, self.column = table.row.to(device), table.column.to(device)
        self.layout = torch.zeros(1, table.rows, table.columns, dtype=torch.bool, device=device)
        self.layout[0, self.row, self.column] = True
        self.turned = self.layout.transpose(1, 2).contiguous()
        self.order = (self.column * table.rows + self.row).argsort()
        partial = (table.kind != FULL).nonzero().flatten()
        self.partial = partial.to(device)
        self.hidden = ~table.masks[table.kind[partial]].to(device)


@dataclass
class _Pass:
    """Examples and heads that share a layout, as one batch of one head."""

    call: Call
    layout: _Layout
    examples: list[int]
    heads: tuple[int, ...]
    number: int

    def __post_init__(self) -> None:
        request, device = self.call.request, self.call.q.device
        share = request.heads // max(1, request.kv_heads)
        examples = torch.tensor(self.examples, device=device)[:, None]
        heads = torch.tensor(self.heads, device=device)
        self.at = (examples, heads)
        self.kv_at = (examples, heads // share)
        self.dtype = accumulation_dtype(self.call.q.dtype)

    def terms(self, distances: Distances | None) -> BlockTerms:
        """Return what changes the scores of these heads."""
        row, column = self.layout.row, self.layout.column
        pairs = [(example, head) for example in self.examples for head in self.heads]
        size = self.layout.table.block
        return BlockTerms(self.call.scores, distances, pairs, row, column, size)

    def take(self, x: Tensor, fill: float) -> Tensor:
        """Return the rows of these heads, `(batch, block rows, ...)`, filled up to whole blocks."""
        return self._whole(x[self.at], self.layout.table.rows, fill)

    def inputs(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return scaled queries, keys and values, filled up to whole blocks."""
        columns = self.layout.table.columns
        k, v = (self._whole(x[self.kv_at], columns, 0) for x in (self.call.k, self.call.v))
        return self.take(self.call.q, 0) * self.call.scale, k, v

    def _whole(self, x: Tensor, count: int, fill: float) -> Tensor:
        x = x.flatten(0, 1).to(self.dtype)
        missing = count * self.layout.table.block - x.shape[1]
        # Of what fits already, nothing is copied so far; xformers takes contiguous tensors only.
        return functional.pad(x, (0, 0) * (x.ndim - 2) + (0, missing), value=fill).contiguous()

    def multiply(self, a: Tensor, b: Tensor) -> Tensor:
        """Return `a @ b.T` in the visible blocks, `(batch, blocks, block, block)`."""
        masked_matmul, sparse = library()
        size = self.layout.table.block
        shape = sparse(a.new_empty(1, 0, size, size), self.layout.layout)
        values = masked_matmul(a[:, None], b[:, None].transpose(-2, -1), shape).values()
        assert isinstance(values, Tensor)
        return values

    def apply(self, values: Tensor, x: Tensor, turned: bool = False) -> Tensor:
        """Return the block-sparse matrix times `x`; with `turned`, its transpose times `x`."""
        _, sparse = library()
        layout = self.layout.layout
        if turned:
            layout = self.layout.turned
            values = values[:, self.layout.order].transpose(-2, -1)
        product = torch.bmm(sparse(values, layout), x[:, None])
        return product[:, 0]

    def hide(self, scores: Tensor) -> None:
        """Set the scores of invisible pairs and of padded keys to minus infinity."""
        layout = self.layout
        if layout.partial.numel():
            scores[:, layout.partial] = scores[:, layout.partial].masked_fill_(
                layout.hidden, -torch.inf
            )
        real = self.call.examples.key_mask
        if real is not None:
            table = layout.table
            padded = ~real[self.examples].repeat_interleave(len(self.heads), 0)
            padded = functional.pad(padded, (0, table.columns * table.block - padded.shape[1]))
            padded = padded.view(-1, table.columns, table.block)[:, layout.column]
            scores.masked_fill_(padded[:, :, None, :], -torch.inf)

    def by_row(self, x: Tensor) -> Tensor:
        """Spread a number of each row over the blocks, `(batch, blocks, block, 1)`."""
        table = self.layout.table
        return x.view(x.shape[0], table.rows, table.block)[:, self.layout.row, :, None]

    def softmax(self, scores: Tensor) -> tuple[Tensor, Tensor]:
        """Turn scores to weights in place; return them and the log-sum-exp `(batch, rows)`.

        Every row is shifted by its own maximum, so that none underflows for another's sake.
        """
        table, row = self.layout.table, self.layout.row
        shape = (scores.shape[0], table.rows, table.block)
        top = scores.new_full(shape, -torch.inf)
        index = row[None, :, None].expand(scores.shape[:3])
        top.scatter_reduce_(1, index, scores.amax(-1), "amax")
        shift = top.masked_fill(top == -torch.inf, 0)
        weights = scores.sub_(self.by_row(shift.flatten(1))).exp_()
        total = scores.new_zeros(shape).index_add_(1, row, weights.sum(-1))
        logs = (shift + total.log()).flatten(1)
        weights.div_(self.by_row(total.masked_fill(total == 0, 1).flatten(1)))
        return weights, logs

    def put(self, out: Tensor, x: Tensor) -> None:
        """Write rows of these heads."""
        x = x[:, : out.shape[2]].unflatten(0, (len(self.examples), len(self.heads)))
        out[self.at] = x.to(out.dtype)

    def add_to_keys(self, total: Tensor, x: Tensor) -> None:
        """Add gradients of keys or values to those of their key heads."""
        x = x[:, : total.shape[2]].unflatten(0, (len(self.examples), len(self.heads)))
        total.index_put_(self.kv_at, x.to(total.dtype), accumulate=True)
