"""The passes of a call: examples and heads that share a layout of blocks, as one batch."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, partial

import torch
from torch import Tensor
from torch.nn import functional

from sparse_patterns.kernels.adding import add_to
from sparse_patterns.kernels.base import Call, Request, accumulation_dtype
from sparse_patterns.kernels.block_sparse import products
from sparse_patterns.kernels.block_sparse.library import library
from sparse_patterns.kernels.scores.blocks import BlockTerms
from sparse_patterns.kernels.scores.terms import Distances
from sparse_patterns.lowering.blocks.table import FULL, Blocks
from sparse_patterns.lowering.plan import Plan

LARGE, SMALL, SMALL_UP_TO = 64, 16, 512
"""Size of a block, and that for short sequences; the library takes no less than 16."""

ELEMENTS_AT_ONCE = {"cpu": 1 << 24, "cuda": 1 << 29}
"""Elements of the largest tensors held at once; with more, heads are taken some at a time."""


def block_size(request: Request) -> int:
    """Return the size of a block for a shape."""
    return SMALL if max(request.q_len, request.kv_len) <= SMALL_UP_TO else LARGE


def uses_library(dtype: torch.dtype, device: str) -> bool:
    """Return whether the products are those of xformers.

    It rounds the products of half types, and on a GPU it waits for every layout.
    """
    return device == "cpu" and dtype.itemsize > 2


def passes(call: Call, plan: Plan) -> Iterator[_Pass]:
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
            # Made once for the layers and passes of a batch: indices are copied to the device.
            layout = call.examples.keep(
                ("layout of blocks", table), partial(_Layout, table, call.q.device)
            )
            moved = table.row.numel() * table.block * (table.block + 2 * request.head_dim)
            limit = ELEMENTS_AT_ONCE[request.device]
            at_once = max(1, limit // (moved * len(examples)))
            for first in range(0, len(group.heads), at_once):
                yield _Pass(call, layout, examples, group.heads[first : first + at_once], number)
                number += 1


class _Layout:
    """A block table on a device, and as the library takes it, which it does on the CPU."""

    def __init__(self, table: Blocks, device: torch.device) -> None:
        self.table = table
        self.row, self.column = table.row.to(device), table.column.to(device)
        partial = (table.kind != FULL).nonzero().flatten()
        self.partial = partial.to(device)
        self.masks, self.kind = (~table.masks).to(device), table.kind[partial].to(device)

    @property
    def hidden(self) -> Tensor:
        """What the partial blocks hide, bool `(partial blocks, block, block)`.

        Blocks that are alike share a mask, so that kept it would take most of the memory.
        """
        return self.masks[self.kind]

    @cached_property
    def layout(self) -> Tensor:
        """As the library takes it, bool `(1, rows, columns)` on the CPU."""
        table = self.table
        layout = torch.zeros(1, table.rows, table.columns, dtype=torch.bool, device="cpu")
        layout[0, table.row, table.column] = True
        return layout

    @cached_property
    def turned(self) -> Tensor:
        """The same with rows and columns changed."""
        return self.layout.transpose(1, 2).contiguous()

    @cached_property
    def order(self) -> Tensor:
        """The order of the blocks in `turned`, int64 `(blocks,)`."""
        return (self.table.column * self.table.rows + self.table.row).argsort()


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

        def make() -> tuple[Tensor, Tensor]:
            examples = torch.tensor(self.examples, device=device)[:, None]
            return examples, torch.tensor(self.heads, device=device)

        key = ("examples and heads", tuple(self.examples), self.heads)
        examples, heads = self.call.examples.keep(key, make)
        self.at = (examples, heads)
        self.kv_at = (examples, heads // share)
        self.dtype = accumulation_dtype(self.call.q.dtype)
        self.half = self.call.q.dtype.itemsize == 2
        self.factor_dtype = self.call.q.dtype if self.half else self.dtype
        self.by_library = uses_library(self.call.q.dtype, device.type)

    def terms(self, distances: Distances | None) -> BlockTerms:
        """Return what changes the scores of these heads."""
        row, column = self.layout.row, self.layout.column
        pairs = [(example, head) for example in self.examples for head in self.heads]
        size = self.layout.table.block
        return BlockTerms(self.call.scores, distances, pairs, row, column, size)

    def take(self, x: Tensor, fill: float) -> Tensor:
        """Return numbers of the rows of these heads, `(batch, rows)`, filled up to whole blocks."""
        return self._whole(x[self.at], self.layout.table.rows, fill, self.dtype)

    def vectors(self, x: Tensor) -> Tensor:
        """Return vectors of the rows of these heads, `(batch, rows, head_dim)`, likewise."""
        return self._whole(x[self.at], self.layout.table.rows, 0, self.factor_dtype)

    def inputs(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return queries, keys and values, filled up to whole blocks."""
        columns, dtype = self.layout.table.columns, self.factor_dtype
        k, v = (self._whole(x[self.kv_at], columns, 0, dtype) for x in (self.call.k, self.call.v))
        return self.vectors(self.call.q), k, v

    def _whole(self, x: Tensor, count: int, fill: float, dtype: torch.dtype) -> Tensor:
        x = x.flatten(0, 1).to(dtype)
        missing = count * self.layout.table.block - x.shape[1]
        # Of what fits already, nothing is copied so far; xformers takes contiguous tensors only.
        return functional.pad(x, (0, 0) * (x.ndim - 2) + (0, missing), value=fill).contiguous()

    def multiply(self, a: Tensor, b: Tensor) -> Tensor:
        """Return `a @ b.T` in the visible blocks, `(batch, blocks, block, block)`."""
        if not self.by_library:
            layout = self.layout
            return products.scores(a, b, layout.row, layout.column, layout.table.block)
        masked_matmul, sparse = library()
        size = self.layout.table.block
        shape = sparse(a.new_empty(1, 0, size, size), self.layout.layout)
        values = masked_matmul(a[:, None], b[:, None].transpose(-2, -1), shape).values()
        assert isinstance(values, Tensor)
        return values

    def apply(self, values: Tensor, x: Tensor, turned: bool = False) -> Tensor:
        """Return the block-sparse matrix times `x`; with `turned`, its transpose times `x`."""
        if not self.by_library:
            row, column, count = self.layout.row, self.layout.column, self.layout.table.rows
            if turned:
                row, column, count = column, row, self.layout.table.columns
                values = values.transpose(-2, -1)
            return products.apply(values, x, row, column, count)
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
            padded = ~real[self.at[0][:, 0]].repeat_interleave(len(self.heads), 0)
            padded = functional.pad(padded, (0, table.columns * table.block - padded.shape[1]))
            padded = padded.view(-1, table.columns, table.block)[:, layout.column]
            scores.masked_fill_(padded[:, :, None, :], -torch.inf)

    def row_sums(self, values: Tensor) -> Tensor:
        """Return the sums of values in blocks over each row, `(batch, rows)`."""
        table = self.layout.table
        total = values.new_zeros(values.shape[0], table.rows, table.block)
        add_to(total, [None, self.layout.row], values.sum(-1))
        return total.flatten(1)

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
        total = scores.new_zeros(shape)
        add_to(total, [None, row], weights.sum(-1))
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
        add_to(total, self.kv_at, x.to(total.dtype))
