"""The blocks that a window over a grid touches: a band for each row of the grid that it sees."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor

from sparse_patterns.spec.grids import GridWindow

BANDS_AT_ONCE = 1 << 20
"""Rows of blocks times bands that are listed at once, which bounds the memory."""


def grid_blocks(
    grid: GridWindow, q_len: int, kv_len: int, q_offset: int, block: int
) -> tuple[Tensor, Tensor]:
    """Return the blocks that a window over a grid may touch, as (row, column), sorted, each once.

    A query sees a stretch of keys along the last dimension, at each offset that the window has in
    the others: a band of pairs. Those of one row of blocks are taken together.

    Args:
        grid: A bound window.
        q_len: Number of queries.
        kv_len: Number of keys.
        q_offset: Position of query row 0.
        block: Queries, and keys, of a block.
    """
    columns = -(-kv_len // block)
    first = torch.arange(0, q_len, block, device="cpu") + q_offset
    last = (first + block - 1).clamp(max=q_len - 1 + q_offset)
    row = torch.arange(first.numel(), device="cpu")
    keep = (last >= grid.prefix) & (first < grid.stop)
    row, first = row[keep], first[keep].clamp(min=grid.prefix)
    last = last[keep].clamp(max=grid.stop - 1)
    offset, side = _bands(grid, block)
    none = torch.zeros(0, dtype=torch.int64, device="cpu")
    found = [none]
    at_once = max(1, BANDS_AT_ONCE // offset.numel())
    for some in torch.arange(row.numel(), device="cpu").split(at_once):
        low = (first[some][:, None] + offset - side).clamp(min=grid.prefix) // block
        high = last[some][:, None] + offset + side
        high = high.clamp(max=min(kv_len, grid.stop) - 1, min=-1)
        high = torch.div(high, block, rounding_mode="floor")
        widest = int((high - low).max()) + 1 if low.numel() else 0
        for step in range(widest):
            column = low + step
            place = row[some][:, None] * columns + column
            found.append(place[column <= high].unique())
    every = torch.cat(found).unique()
    return every // columns, every % columns


def _bands(grid: GridWindow, block: int) -> tuple[Tensor, int]:
    """Return the offsets of the bands in tokens, and how far a band goes to either side."""
    radius, dilation, strides = list(grid.radius), list(grid.dilation), list(grid.strides)
    side = 0
    # Keys or bands within a block of each other touch the same blocks: they are one wide band.
    while radius and strides[-1] * dilation[-1] <= block:
        side += radius.pop() * dilation.pop() * strides.pop()
    steps = (
        [step * by * stride for step in range(-reach, reach + 1)]
        for reach, by, stride in zip(radius, dilation, strides, strict=True)
    )
    return torch.tensor([sum(one) for one in itertools.product(*steps)], device="cpu"), side
