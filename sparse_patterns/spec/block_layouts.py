"""The draw behind `RandomBlocks`: distinct key blocks by a counter-based hash, with no state.

The same (seed, layer, head, block row) gives the same blocks in every process and on every device.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sparse_patterns.spec.atoms import BlockTable
from sparse_patterns.spec.base import Pattern
from sparse_patterns.spec.binding import BoundRandomBlocks


def _mix(x: Tensor) -> Tensor:
    """Scramble 64-bit integers (the finaliser of SplitMix64, Steele et al. 2014)."""
    for shift, factor in ((30, -0x40A7B892E31B1A47), (27, -0x6B2FB644ECCEEE15)):
        x = (x ^ _shift(x, shift)) * factor
    return x ^ _shift(x, 31)


def _wrap(x: int) -> int:
    """Return the signed 64-bit integer of the same low bits."""
    return (x + (1 << 63)) % (1 << 64) - (1 << 63)


def _shift(x: Tensor, bits: int) -> Tensor:
    """Shift right without copying the sign bit."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def draw(pattern: BoundRandomBlocks, rows: Tensor, columns: int) -> Tensor:
    """Draw the key blocks that block rows see.

    Args:
        pattern: The pattern of one layer and head.
        rows: int64 `(rows,)`, indices of block rows.
        columns: Number of key blocks.

    Returns:
        int64 `(rows, min(per_row, columns))`, distinct within a row, ascending.
    """
    count = min(pattern.per_row, columns)
    state = torch.zeros_like(rows)
    for word in (pattern.seed, pattern.layer, pattern.head):
        state = _mix(state + _wrap(word + 0x632BE59BD9B4E019))
    state = _mix(state + rows)
    chosen = torch.empty(rows.numel(), 0, dtype=torch.int64, device=rows.device)
    for step in range(count):
        # The pick is a rank among the blocks not chosen yet: step over each chosen one below it.
        high = _shift(_mix(state + _wrap((step + 1) * 0x1E3779B97F4A7C15)), 33)
        pick = (high * (columns - step)) >> 31
        for column in chosen.unbind(1):
            pick = pick + (column <= pick)
        chosen = torch.cat([chosen, pick[:, None]], 1).sort(1).values
    return chosen


def table_pairs(layout: Pattern, block_row: Tensor, columns: int) -> tuple[Tensor, Tensor]:
    """Return the (tile, key block) pairs of a table, sorted."""
    if isinstance(layout, BoundRandomBlocks):
        chosen = draw(layout, block_row, columns)
        tile = torch.arange(block_row.numel(), device="cpu")[:, None].expand_as(chosen)
        return tile.flatten(), chosen.flatten()
    assert isinstance(layout, BlockTable)
    bits = [[bit == "1" for bit in row[:columns]] for row in layout.table]
    table = torch.tensor(bits, dtype=torch.bool, device="cpu").reshape(
        len(bits), len(bits[0]) if bits else 0
    )
    inside = ((block_row >= 0) & (block_row < table.shape[0])).nonzero().flatten()
    found = table[block_row[inside]].nonzero()
    return inside[found[:, 0]], found[:, 1]
