"""Block tables of many heads and examples as padded lists, the form that FlexAttention reads.

FlexAttention wants, for each row of blocks, how many key blocks it sees and which; once for blocks
that are full and once for those that need a mask; and both again for each column of blocks, for the
gradients of the keys. `BlockMask.from_kv_blocks` makes the second pair out of a dense table; here
all are made by sorting, in time that grows with the visible blocks.

The exact mask of a partial block comes from either of two tables, whichever is cheaper:

- *intervals*: up to two intervals of keys for each query. A comparison, two numbers a row.
- *bits*: the blocks' kinds (see `lowering.blocks`), found through a page of 32 key blocks:
  `bits[pages[page_of[entry, row, column // 32], column % 32]]`. A regular pattern has few kinds,
  and the first table has one number for 32 blocks, so that both stay small.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import lru_cache

import torch
from torch import Tensor

from sparse_patterns.lowering.blocks.table import Blocks
from sparse_patterns.lowering.normal_form import to_conjuncts
from sparse_patterns.spec.atoms import BatchGlobal, SameDocument
from sparse_patterns.spec.base import Pattern, uses
from sparse_patterns.spec.binding import bind

SIZE = 128
"""Queries, and keys, of a block: FlexAttention's own size, and its fast path."""

PAGE = 32
"""Key blocks that share an entry of the first table."""

INTERVALS = 2
"""Intervals of keys that a query may have."""

EMPTY = 1
"""The kind that sees nothing, for blocks that are in no list."""


@dataclass(frozen=True, eq=False)
class BlockLists:
    """The lists of some entries, and the masks of their partial blocks.

    An *entry* is one block table: of a group of heads and, where examples differ, of an example.
    Numbers of a list past its count are not to be read.

    Attributes:
        kv_count: int32 `(examples, heads, rows)`, partial blocks of each row.
        kv_index: int32 `(examples, heads, rows, n)`, their columns.
        full_kv_count: As `kv_count`, of full blocks.
        full_kv_index: As `kv_index`, of full blocks.
        q_count: int32 `(examples, heads, columns)`, partial blocks of each column.
        q_index: int32 `(examples, heads, columns, n)`, their rows.
        full_q_count: As `q_count`, of full blocks.
        full_q_index: As `q_index`, of full blocks.
        entry: int32 `(batch, heads)`, the entry of each example and head.
        interval: int32 `(entries, 2, INTERVALS, rows * SIZE)`, first and last key of each interval.
        page_of: int32 `(entries, rows, pages of a row)`.
        pages: int32 `(pages, PAGE)`, kinds.
        bits: bool `(kinds, SIZE, SIZE)`.
        real: bool `(batch or 1, columns * SIZE)`, false for padded keys.
    """

    kv_count: Tensor
    kv_index: Tensor
    full_kv_count: Tensor
    full_kv_index: Tensor
    q_count: Tensor
    q_index: Tensor
    full_q_count: Tensor
    full_q_index: Tensor
    entry: Tensor
    interval: Tensor
    page_of: Tensor
    pages: Tensor
    bits: Tensor
    real: Tensor

    def tensors(self) -> tuple[Tensor, ...]:
        """Return all tensors, in order."""
        return tuple(getattr(self, field.name) for field in fields(self))

    def to(self, device: torch.device) -> BlockLists:
        """Return the lists on a device."""
        return BlockLists(*(tensor.to(device) for tensor in self.tensors()))

    @property
    def bytes(self) -> int:
        """Memory of all tensors."""
        return sum(tensor.numel() * tensor.element_size() for tensor in self.tensors())


@dataclass(frozen=True)
class Variant:
    """What is fixed when a model is compiled, the same for all of its layers.

    Attributes:
        bits: Whether some head of some layer needs the table of bits.
        uniform: Whether the heads of each layer see the same.
    """

    bits: bool
    uniform: bool


@lru_cache(maxsize=64)
def variant_of(pattern: Pattern, heads: int, layers: int, kv_len: int) -> Variant:
    """Return the variant of a whole model, so that no layer needs a compilation of its own."""
    bits, uniform = False, True
    for layer in range(layers):
        bound = dict.fromkeys(bind(pattern, heads=heads, layer=layer, layers=layers))
        uniform &= len(bound) == 1
        bits |= any(
            intervals(one, torch.zeros(1, dtype=torch.int64, device="cpu"), kv_len) is None
            for one in bound
        )
    return Variant(bits, uniform)


def intervals(pattern: Pattern, q: Tensor, kv_len: int) -> tuple[Tensor, Tensor] | None:
    """Return the keys that each query sees as intervals, where there are few enough.

    Args:
        pattern: A bound pattern; rows of global tokens are left out.
        q: int64 `(queries,)`, positions.
        kv_len: Number of keys.

    Returns:
        First and last keys, int64 `(INTERVALS, queries)`, the first above the last for an interval
        that is empty; None for a pattern of another form.
    """
    if uses(pattern, BatchGlobal, SameDocument):
        return None
    conjuncts = to_conjuncts(pattern)
    if len(conjuncts) > INTERVALS:
        return None
    first, last = (
        torch.ones(INTERVALS, q.numel(), device="cpu").long(),
        torch.zeros(INTERVALS, q.numel(), device="cpu").long(),
    )
    for number, conjunct in enumerate(conjuncts):
        if conjunct.rest or conjunct.layout is not None or conjunct.dilation > 1:
            return None
        if conjunct.grid is not None:
            return None
        low, high = conjunct.bounds(q, kv_len)
        listed = conjunct.key_list(kv_len)
        if listed is not None:
            if not listed.numel():
                continue
            if int(listed[-1] - listed[0]) + 1 != listed.numel():
                return None
            low, high = low.clamp(min=int(listed[0])), high.clamp(max=int(listed[-1]))
        first[number], last[number] = low, high
    return first, last


def block_lists(
    tables: Sequence[Sequence[Blocks]],
    interval: Sequence[tuple[Tensor, Tensor] | None],
    group_of_head: Tensor,
    shape: tuple[int, int],
    kv_len: int,
    key_mask: Tensor | None,
) -> BlockLists:
    """Join block tables to lists.

    Args:
        tables: One table for each group of heads, for each example or once for all of them.
        interval: The intervals of each group, or None where its masks are bits.
        group_of_head: int64 `(heads,)`, or `(1,)` where all heads are of one group.
        shape: Numbers of examples and of heads.
        kv_len: Number of keys.
        key_mask: bool `(batch, kv_len)` on the CPU, or None; with one, there must be tables for
            each example.
    """
    groups, examples = len(interval), len(tables)
    rows, columns = tables[0][0].rows, tables[0][0].columns
    real = torch.zeros(
        1 if key_mask is None else shape[0], columns * SIZE, dtype=torch.bool, device="cpu"
    )
    real[:, :kv_len] = True if key_mask is None else key_mask
    masks = [
        torch.ones(1, SIZE, SIZE, device="cpu").bool(),
        torch.zeros(1, SIZE, SIZE, device="cpu").bool(),
    ]
    offset = torch.full((groups * examples,), 2, device="cpu")
    kept: dict[int, int] = {}
    found = []
    for example, of_example in enumerate(tables):
        for group, table in enumerate(of_example):
            entry = example * groups + group
            if interval[group] is None:
                if id(table) not in kept:
                    kept[id(table)] = sum(mask.shape[0] for mask in masks)
                    masks.append(table.masks[1:])
                offset[entry] = kept[id(table)]
            kind = table.kind + torch.where(table.full, 0, int(offset[entry]) - 1)
            partial = ~table.full
            row, column = table.row, table.column
            if key_mask is not None:
                real_keys = real[example].view(columns, SIZE)
                some, all_real = real_keys.any(1)[column], real_keys.all(1)[column]
                row, column, kind, partial = (
                    x[some] for x in (row, column, kind, partial | ~all_real)
                )
            found.append(
                torch.stack([torch.full_like(row, entry), row, column, kind, partial.long()])
            )
    entry, row, column, kind, is_partial = torch.cat(found, 1)
    partial = is_partial.bool()
    lists: list[Tensor] = []
    for count, index in (
        *(
            _ordered(entry[x], row[x], column[x], examples * groups, rows)
            for x in (partial, ~partial)
        ),
        *(
            _ordered(entry[x], column[x], row[x], examples * groups, columns)
            for x in (partial, ~partial)
        ),
    ):
        lists += [
            x.unflatten(0, (examples, groups))[:, group_of_head].contiguous()
            for x in (count, index)
        ]
    own = torch.arange(examples, device="cpu")[:, None] * groups + group_of_head
    with_bits = torch.tensor([one is None for one in interval], device="cpu").repeat(examples)
    # Full blocks too: not every way to run FlexAttention leaves their mask out.
    listed = with_bits[entry]
    page_of, pages = _pages(
        entry[listed], row[listed], column[listed], kind[listed], examples * groups, rows, columns
    )
    lists += [
        own.expand(shape).int().contiguous(),
        _interval_table(interval, examples, rows),
        page_of,
        pages,
        torch.cat(masks),
        real,
    ]
    return BlockLists(*lists)


def _ordered(
    entry: Tensor, line: Tensor, across: Tensor, entries: int, lines: int
) -> tuple[Tensor, Tensor]:
    """Return the count and the list of blocks of each line; both int32."""
    place = entry * lines + line
    order = (place * (int(across.max()) + 1 if across.numel() else 1) + across).argsort()
    place, across = place[order], across[order]
    count = torch.bincount(place, minlength=entries * lines)
    # A list of length one is compiled again, all longer ones once: hence at least two.
    widest = max(2, int(count.max()) if count.numel() else 0)
    index = torch.zeros(entries * lines, widest, dtype=torch.int32, device="cpu")
    rank = torch.arange(place.numel(), device="cpu") - (count.cumsum(0) - count)[place]
    index[place, rank] = across.int()
    return count.int().view(entries, lines), index.view(entries, lines, widest)


def _pages(
    entry: Tensor, row: Tensor, column: Tensor, kind: Tensor, entries: int, rows: int, columns: int
) -> tuple[Tensor, Tensor]:
    """Return the two tables that lead from a block to its kind."""
    wide = -(-columns // PAGE)
    place = (entry * rows + row) * wide + column // PAGE
    places, page = torch.unique(place, return_inverse=True)
    # Page 0 is that of blocks in no list; there are two pages and entries at least, as above.
    page_of = torch.zeros(max(2, entries) * rows * wide, dtype=torch.int32, device="cpu")
    page_of[places] = torch.arange(1, places.numel() + 1, dtype=torch.int32, device="cpu")
    pages = torch.full((max(2, places.numel() + 1), PAGE), EMPTY, dtype=torch.int32, device="cpu")
    pages[page + 1, column % PAGE] = kind.int()
    return page_of.view(max(2, entries), rows, wide), pages


def _interval_table(
    interval: Sequence[tuple[Tensor, Tensor] | None], examples: int, rows: int
) -> Tensor:
    """Return the intervals of each entry, empty where there are none and past the last query."""
    table = torch.zeros(max(2, examples * len(interval)), 2, INTERVALS, rows * SIZE, device="cpu")
    table = table.int()
    table[:, 0] = 1
    for number, ends in enumerate(interval):
        for side, end in enumerate(ends or ()):
            table[number : examples * len(interval) : len(interval), side, :, : end.shape[1]] = end
    return table
