"""Visible pairs and receptive field of one head, read off its normal form without any tiles.

What the normal form gives as intervals, steps and lists is counted exactly, in time that grows with
the number of queries. For anything else (`Rule`, tables of blocks, a part of a grid, conjuncts
that overlap in more than one way) there is no answer here, and the tiles are counted instead.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from sparse_patterns.lowering.normal_form import Conjunct, row_tokens
from sparse_patterns.lowering.residues import residues
from sparse_patterns.spec.algebra import alternatives
from sparse_patterns.spec.atoms import BlockTable, Global
from sparse_patterns.spec.base import Pattern
from sparse_patterns.spec.binding import BoundRandomBlocks

FAR = 1 << 50
"""A key beyond any sequence."""


class Numbers(NamedTuple):
    """The numbers of one head.

    Attributes:
        visible: Visible pairs.
        receptive_field: How far back and how far forward some query sees, in tokens.
    """

    visible: int
    receptive_field: tuple[int, int]


def count_pairs(
    pattern: Pattern, conjuncts: Sequence[Conjunct], q_len: int, kv_len: int, q_offset: int
) -> Numbers | None:
    """Return the numbers of a bound pattern, None where they take more than its normal form.

    Tensors of the batch are not known: documents count as one, global tokens of an example as none.

    Args:
        pattern: The bound pattern.
        conjuncts: Its normal form.
        q_len: Number of queries.
        kv_len: Number of keys.
        q_offset: Position of query row 0.
    """
    if not q_len or not kv_len:
        return Numbers(0, (0, 0))
    known = [one for one in conjuncts if not one.batch]
    grids = [one for one in known if one.grid is not None]
    intervals = [one for one in known if one.dilation == 1 and not one.columns and one.grid is None]
    others = [one for one in known if (one.dilation > 1 or one.columns) and one.grid is None]
    if any(one.rest or one.layout is not None for one in known) or len(others) > 1:
        return None
    if grids and (intervals or not _whole_grid(grids, others, kv_len)):
        return None
    if any(one.dilation > 1 and one.columns for one in others):
        return None
    q = torch.arange(q_len, device="cpu") + q_offset
    first, last, count = torch.full_like(q, FAR), torch.full_like(q, -1), torch.zeros_like(q)
    segments = _disjoint([_bounds(one, q, kv_len) for one in intervals])
    for low, high in segments:
        count += (high - low + 1).clamp(min=0)
    for one in others:
        keys = _Keys(one, q, kv_len)
        low, high = _bounds(one, q, kv_len)
        count += keys.between(low, high)
        for start, stop in segments:
            count -= keys.between(torch.maximum(low, start), torch.minimum(high, stop))
        some = keys.between(low, high) > 0
        first = torch.where(some, keys.from_on(low), first)
        last = torch.where(some, keys.up_to(high), last)
    for low, high in segments:
        some = low <= high
        first = torch.where(some, torch.minimum(first, low), first)
        last = torch.where(some, torch.maximum(last, high), last)
    for one in grids:
        assert one.grid is not None
        low, high, number = one.grid.extent(q)
        count += number
        some = number > 0
        first = torch.where(some, torch.minimum(first, low), first)
        last = torch.where(some, torch.maximum(last, high), last)
    tokens = [token - q_offset for token in row_tokens(pattern, kv_len)]
    rows = torch.tensor(
        [row for row in tokens if 0 <= row < q_len], dtype=torch.int64, device="cpu"
    )
    if rows.numel():
        alone = [one for one in alternatives(pattern) if isinstance(one, Global) and one.rows]
        whole = {token - q_offset for one in alone for token in one.positions(kv_len)}
        if not whole.issuperset(rows.tolist()):
            return None
        first[rows], last[rows], count[rows] = 0, kv_len - 1, kv_len
    seen = count > 0
    back = torch.where(seen, q - first, 0).amax().clamp(min=0)
    forward = torch.where(seen, last - q, 0).amax().clamp(min=0)
    return Numbers(int(count.sum()), (int(back), int(forward)))


def _whole_grid(grids: list[Conjunct], others: list[Conjunct], kv_len: int) -> bool:
    """Return whether there is one grid, held by the keys, alone and apart from other columns."""
    one, grid = grids[0], grids[0].grid
    assert grid is not None
    more = one.blocks or one.documents or one.dilation > 1 or one.left < grid.reach
    if len(grids) > 1 or more or one.right < grid.reach or kv_len < grid.stop:
        return False
    listed = [other.key_list(kv_len) for other in others]
    return all(
        keys is not None and not bool(((keys >= grid.prefix) & (keys < grid.stop)).any())
        for keys in listed
    )


def pairs_at_most(conjuncts: Sequence[Conjunct], q_len: int, kv_len: int, q_offset: int) -> int:
    """Return an upper bound on the visible pairs of one head, in time linear at most.

    Pairs that several conjuncts name are counted in each; rows of global tokens are left out.

    Args:
        conjuncts: The normal form of a bound pattern.
        q_len: Number of queries.
        kv_len: Number of keys.
        q_offset: Position of query row 0.
    """
    if not q_len or not kv_len:
        return 0
    q = torch.arange(q_len, device="cpu") + q_offset
    total = 0
    for one in conjuncts:
        if one.batch:
            continue
        known = _pairs_by_arithmetic(one, q_len, kv_len, q_offset)
        if known is not None:
            total += known
            continue
        low, high = _bounds(one, q, kv_len)
        pairs = int(_Keys(one, q, kv_len).between(low, high).sum())
        if isinstance(one.layout, BoundRandomBlocks):
            pairs = min(pairs, q_len * one.layout.per_row * one.layout.block)
        elif isinstance(one.layout, BlockTable):
            cells = sum(row.count("1") for row in one.layout.table)
            pairs = min(pairs, cells * one.layout.block**2)
        elif one.grid is not None:
            on_grid = int(((q >= one.grid.prefix) & (q < one.grid.stop)).sum())
            pairs = min(pairs, on_grid * math.prod(2 * radius + 1 for radius in one.grid.radius))
        total += pairs
    return min(total, q_len * kv_len)


def _pairs_by_arithmetic(one: Conjunct, q_len: int, kv_len: int, q_offset: int) -> int | None:
    """Return the pairs in a conjunct's bounds, None where they depend on more than distances."""
    outside = one.documents and (q_offset < 0 or q_offset + q_len > kv_len)
    if one.blocks or one.layout or one.grid or outside:
        return None
    if not one.columns:
        return sum(some.pairs for some in residues(one, q_len, kv_len, q_offset))
    keys = None if one.limited else one.key_list(kv_len)
    return None if keys is None else q_len * keys.numel()


class _Keys:
    """The keys that a conjunct's step or list leaves, to be counted between bounds by query."""

    def __init__(self, conjunct: Conjunct, q: Tensor, kv_len: int) -> None:
        self.listed = conjunct.key_list(kv_len)
        self.step = conjunct.dilation
        self.q = q

    def between(self, low: Tensor, high: Tensor) -> Tensor:
        """Return how many keys lie in `low .. high` of each query."""
        if self.listed is None:
            return ((self.up_to(high) - self.from_on(low)) // self.step + 1).clamp(min=0)
        stop = torch.searchsorted(self.listed, high, right=True)
        return (stop - torch.searchsorted(self.listed, low)).clamp(min=0)

    def from_on(self, low: Tensor) -> Tensor:
        """Return the first key from `low` on; any number where there is none."""
        if self.listed is None:
            return low + (self.q - low) % self.step
        index = torch.searchsorted(self.listed, low)
        return self.listed[index.clamp(max=self.listed.numel() - 1)] if self.listed.numel() else low

    def up_to(self, high: Tensor) -> Tensor:
        """Return the last key up to `high`; any number where there is none."""
        if self.listed is None:
            return high - (high - self.q) % self.step
        index = torch.searchsorted(self.listed, high, right=True) - 1
        return self.listed[index.clamp(min=0)] if self.listed.numel() else high


def _bounds(conjunct: Conjunct, q: Tensor, kv_len: int) -> tuple[Tensor, Tensor]:
    """Return the first and last key that each query may see; a position outside has no document."""
    low, high = conjunct.bounds(q, kv_len)
    if conjunct.documents:
        high = torch.where((q < 0) | (q >= kv_len), -1, high)
    return low, high


def _disjoint(intervals: list[tuple[Tensor, Tensor]]) -> list[tuple[Tensor, Tensor]]:
    """Cut intervals so that those of one query have no key in common; empty ones stay empty."""
    if len(intervals) < 2:
        return intervals
    low = torch.stack([low for low, _ in intervals])
    high = torch.stack([high for _, high in intervals])
    low, order = torch.where(low > high, FAR, low).sort(0)
    high = high.gather(0, order)
    segments = []
    covered = torch.full_like(low[0], -1)
    for start, stop in zip(low, high, strict=True):
        segments.append((torch.maximum(start, covered + 1), torch.where(start == FAR, -1, stop)))
        covered = torch.maximum(covered, segments[-1][1])
    return segments
