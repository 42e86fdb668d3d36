"""The block table of a head: which blocks of pairs are full, partial with which mask, or empty.

The candidates come from the conjuncts of the pattern, block by block and not pair by pair. Blocks
that are alike (see `signatures`) share one *kind*, and the mask of a kind is evaluated once, by the
definition itself, so that a window over 128k tokens costs a handful of masks. Which blocks are full
or empty is read off the evaluated masks.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from sparse_patterns.lowering.blocks.grids import grid_blocks
from sparse_patterns.lowering.blocks.kinds import Places, kinds_of
from sparse_patterns.lowering.normal_form import Conjunct, to_conjuncts
from sparse_patterns.lowering.tiles.masks import EVALUATED_AT_ONCE
from sparse_patterns.spec.atoms import BatchGlobal, BlockTable, Global
from sparse_patterns.spec.base import Complement, Pattern
from sparse_patterns.spec.binding import BoundRandomBlocks
from sparse_patterns.spec.block_layouts import table_pairs
from sparse_patterns.spec.oracle import ExampleContext, visible

FULL = 0
"""The kind of a block whose every pair is visible."""

FAR = 1 << 50


@dataclass(frozen=True, eq=False)
class Blocks:
    """The blocks of one head that see something.

    A block that sticks out past the last key is never full; rows past the last query do not count.

    Attributes:
        block: Queries, and keys, of a block.
        rows: Number of query blocks.
        columns: Number of key blocks.
        row: int64 `(blocks,)`, query block of each; sorted, then by key block.
        column: int64 `(blocks,)`, key block of each.
        kind: int64 `(blocks,)`, index into `masks`; `FULL` where every pair is visible.
        masks: bool `(kinds, block, block)`, the visible pairs of each kind, false outside the
            sequence; the one of `FULL` is all true.
    """

    block: int
    rows: int
    columns: int
    row: Tensor
    column: Tensor
    kind: Tensor
    masks: Tensor

    @property
    def full(self) -> Tensor:
        """Which blocks are full, bool `(blocks,)`."""
        return self.kind == FULL

    def to_dense(self, q_len: int, kv_len: int) -> Tensor:
        """Return every visible pair, bool `(q_len, kv_len)`: for tests and small sizes."""
        size = self.block
        out = torch.zeros(self.rows, self.columns, size, size, dtype=torch.bool, device="cpu")
        out[self.row, self.column] = self.masks[self.kind]
        return out.transpose(1, 2).reshape(self.rows * size, self.columns * size)[:q_len, :kv_len]


@torch.no_grad()
def blocks(
    pattern: Pattern,
    q_len: int,
    kv_len: int,
    q_offset: int,
    block: int,
    context: ExampleContext | None = None,
    key_mask: Tensor | None = None,
) -> Blocks:
    """Return the block table of one head.

    The rows of global tokens are left out, since kernels compute them separately: elsewhere a
    row-global atom stands for its columns. The entries of these rows are to be dropped.

    Args:
        pattern: A bound pattern.
        q_len: Number of queries.
        kv_len: Number of keys.
        q_offset: Position of query row 0.
        block: Queries, and keys, of a block.
        context: The tensors of one example, on the CPU; needed by patterns with `SameDocument`.
        key_mask: bool `(kv_len,)` on the CPU, false for padded keys, or None.
    """
    context = context or ExampleContext(kv_len)
    pattern = columns_only(pattern)
    rows, columns = -(-q_len // block), -(-kv_len // block)
    row, column = _candidates(pattern, q_len, q_offset, block, context)
    places = Places(row, column, block, q_len, q_offset, context, key_mask)
    kind, example = kinds_of(pattern, places)
    masks, full = _evaluate(pattern, places, example)
    seen = masks.flatten(1).any(1)
    # Kind 0 is that of full blocks; empty kinds go.
    number = torch.where(full, FULL, (seen & ~full).cumsum(0))
    keep = seen[kind]
    everything = torch.ones(1, block, block, dtype=torch.bool, device="cpu")
    return Blocks(
        block,
        rows,
        columns,
        row[keep],
        column[keep],
        number[kind][keep],
        torch.cat([everything, masks[seen & ~full]]),
    )


def columns_only(pattern: Pattern, positive: bool = True) -> Pattern:
    """Return the pattern with row-global atoms as their columns, where they are not complements."""
    if isinstance(pattern, Complement):
        return Complement(columns_only(pattern.part, not positive))
    if positive and isinstance(pattern, Global) and pattern.rows:
        return Global(pattern.tokens, rows=False)
    if positive and isinstance(pattern, BatchGlobal) and pattern.rows:
        return BatchGlobal(rows=False)
    children = pattern.children()
    if not children:
        return pattern
    return pattern.with_children([columns_only(child, positive) for child in children])


def _candidates(
    pattern: Pattern, q_len: int, q_offset: int, block: int, context: ExampleContext
) -> tuple[Tensor, Tensor]:
    """Return the blocks that some conjunct may see, sorted by row and column, each once."""
    kv_len = context.kv_len
    columns = -(-kv_len // block)
    none = torch.zeros(0, dtype=torch.int64, device="cpu")
    if not q_len or not kv_len:
        return none, none
    q_first = torch.arange(0, q_len, block, device="cpu") + q_offset
    q_last = (q_first + block - 1).clamp(max=q_len - 1 + q_offset)
    found = [none]
    for conjunct in to_conjuncts(pattern):
        low, _ = conjunct.bounds(q_first, kv_len)
        _, high = conjunct.bounds(q_last, kv_len)
        if conjunct.documents and context.segment_ids is not None:
            first, last = _document_bounds(q_first, q_len + q_offset, block, context.segment_ids)
            low, high = torch.maximum(low, first), torch.minimum(high, last)
        low, high = low // block, torch.where(low <= high, high // block, -1)
        if conjunct.grid is not None:
            row, column = grid_blocks(conjunct.grid, q_len, kv_len, q_offset, block)
        elif conjunct.layout is not None:
            row, column = _layout_blocks(conjunct.layout, q_len, kv_len, q_offset, block)
        else:
            row, column = _span_blocks(conjunct, low, high, block, context)
        inside = (column >= low[row]) & (column <= high[row])
        found.append((row * columns + column)[inside])
    every = torch.cat(found).unique()
    return every // columns, every % columns


def _span_blocks(
    conjunct: Conjunct, low: Tensor, high: Tensor, block: int, context: ExampleContext
) -> tuple[Tensor, Tensor]:
    """Return the key blocks between two bounds, of those that the conjunct's columns leave."""
    listed = conjunct.key_list(context.kv_len)
    if conjunct.batch:
        marks = context.global_mask
        listed = low.new_zeros(0) if marks is None else marks.nonzero().flatten()
    if listed is None:
        listed = torch.arange(-(-context.kv_len // block), device="cpu")
    else:
        listed = (listed // block).unique()
    first = torch.searchsorted(listed, low)
    count = (torch.searchsorted(listed, high, right=True) - first).clamp(min=0)
    row = torch.repeat_interleave(torch.arange(low.numel(), device="cpu"), count)
    number = torch.arange(row.numel(), device="cpu") - (count.cumsum(0) - count)[row]
    return row, listed[first[row] + number]


def _layout_blocks(
    layout: Pattern, q_len: int, kv_len: int, q_offset: int, block: int
) -> tuple[Tensor, Tensor]:
    """Return the blocks that a table of blocks of another size touches."""
    assert isinstance(layout, BoundRandomBlocks | BlockTable)
    size = layout.block
    own_rows = torch.arange(q_offset // size, (q_offset + q_len - 1) // size + 1, device="cpu")
    index, own_column = table_pairs(layout, own_rows, -(-kv_len // size))
    q_first = (own_rows[index] * size - q_offset).clamp(min=0)
    q_last = (own_rows[index] * size + size - 1 - q_offset).clamp(max=q_len - 1)
    k_first = own_column * size
    k_last = (k_first + size - 1).clamp(max=kv_len - 1)
    row, first = q_first // block, k_first // block
    high, wide = q_last // block - row + 1, k_last // block - first + 1
    source = torch.repeat_interleave(torch.arange(row.numel(), device="cpu"), high * wide)
    number = (
        torch.arange(source.numel(), device="cpu") - ((high * wide).cumsum(0) - high * wide)[source]
    )
    return row[source] + number // wide[source], first[source] + number % wide[source]


def _document_bounds(
    q_first: Tensor, stop: int, block: int, segments: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the first and the last key of the documents that each query block touches."""
    length = segments.numel()
    _, document = torch.unique(segments, return_inverse=True)
    count = int(document.max()) + 1
    token = torch.arange(length, device="cpu")
    first = torch.full((count,), FAR, device="cpu").scatter_reduce_(0, document, token, "amin")
    last = torch.full((count,), -1, device="cpu").scatter_reduce_(0, document, token, "amax")
    q = q_first[:, None] + torch.arange(block, device="cpu")
    inside = (q >= 0) & (q < min(length, stop))
    at = document[q.clamp(0, length - 1)]
    return (
        first[at].masked_fill(~inside, FAR).amin(1),
        last[at].masked_fill(~inside, -1).amax(1),
    )


def _evaluate(pattern: Pattern, places: Places, example: Tensor) -> tuple[Tensor, Tensor]:
    """Return the mask of each kind from one example of it, and whether it is full."""
    block, kv_len = places.block, places.context.kv_len
    offset = torch.arange(block, device="cpu")
    q = places.q_first[example][:, None] + offset
    k = places.k_first[example][:, None] + offset
    inside_q = q < places.q_len + places.q_offset
    inside_k = k < kv_len
    # Positions past the end are never shown to a pattern: a user's rule may look things up by them.
    q = q.clamp(max=places.q_len + places.q_offset - 1)
    k = k.clamp(max=max(0, kv_len - 1))
    if places.key_mask is not None and kv_len:
        inside_k &= places.key_mask[k]
    masks = torch.empty(example.numel(), block, block, dtype=torch.bool, device="cpu")
    at_once = max(1, EVALUATED_AT_ONCE // block**2)
    for start in range(0, example.numel(), at_once):
        some = slice(start, start + at_once)
        masks[some] = visible(pattern, q[some, :, None], k[some, None, :], places.context)
    masks &= inside_k[:, None, :]
    full = (masks | ~inside_q[:, :, None]).flatten(1).all(1)
    masks &= inside_q[:, :, None]
    return masks, full
