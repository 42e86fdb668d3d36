"""Tiles of a plan in the making: how large they may be, and how they are grouped to runs."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass

import torch
from torch import Tensor

from sparse_patterns.lowering.tiles.runs import TileRun

MAX_KEYS = 4096
"""Keys of a tile; a longer interval is cut."""

MAX_ROWS = 128
"""Rows of a tile."""

RUN_PAIRS = 1 << 14
"""Pairs that are computed in the time that one more run costs."""


@dataclass
class Tiles:
    """Tiles before they are grouped to runs; one row a tile.

    Attributes:
        q_start: int64 `(tiles,)`, first query row.
        rows: int64 `(tiles,)`, number of rows.
        k_start: int64 `(tiles,)`, first key.
        keys: int64 `(tiles,)`, number of keys.
        kind: int64 `(tiles,)`; tiles of one kind have equal masks, or masks to be stacked.
        masks: By kind: bool `(1, rows, keys)` shared, `(tiles of the kind, rows, keys)` stacked in
            order, or None.
        step: Distance between rows of a tile, and between its keys.
    """

    q_start: Tensor
    rows: Tensor
    k_start: Tensor
    keys: Tensor
    kind: Tensor
    masks: list[Tensor | None]
    step: int

    def to_runs(self) -> tuple[TileRun, ...]:
        """Group the tiles to as few runs as a greedy scan finds, in one of two orders."""
        whole = self._one_run()
        if whole is not None:
            return (whole,)
        by_row = self._scan(torch.arange(self.q_start.numel(), device="cpu"))
        if self.step == 1 or len(by_row) <= 2:
            return by_row
        by_start = self._scan(self.q_start.argsort(stable=True))
        return min(by_row, by_start, key=len)

    def _one_run(self) -> TileRun | None:
        """Return all tiles as one run, None where they are not: the scan costs far more."""
        count = self.q_start.numel()
        if count < 2:
            return None
        starts = torch.stack([self.q_start, self.k_start])
        shapes = torch.stack([self.rows, self.keys, self.kind])
        gaps = starts.diff()
        if bool((gaps != gaps[:, :1]).any()) or bool((shapes != shapes[:, :1]).any()):
            return None
        (q, k), (q_tile, k_tile) = starts[:, 0].tolist(), gaps[:, 0].tolist()
        rows, keys, kind = shapes[:, 0].tolist()
        if q_tile <= 0 or k_tile < 0 or count > self._longest(k_tile):
            return None
        mask = self.masks[kind]
        if mask is not None and mask.shape[0] > 1:
            mask = mask[:count]
        return TileRun(count, rows, keys, q, self.step, q_tile, k, self.step, k_tile, mask)

    def _scan(self, order: Tensor) -> tuple[TileRun, ...]:
        shape_id = unique_rows(self.kind, self.rows, self.keys)[1]
        order = order[shape_id[order].argsort(stable=True)]
        shape, q_start, k_start = (x[order] for x in (shape_id, self.q_start, self.k_start))
        q_step, k_step = q_start.diff(), k_start.diff()
        # Tiles after which the shape changes or, from the second of a run on, a distance.
        other = shape[1:] != shape[:-1]
        turn = other[1:] | (q_step[1:] != q_step[:-1]) | (k_step[1:] != k_step[:-1])
        turns = [*(turn.nonzero().flatten() + 1).tolist(), order.numel() - 1]
        columns = (q_start, k_start, self.rows[order], self.keys[order], self.kind[order])
        table, others = torch.stack(columns, 1).tolist(), other.tolist()
        rank = self._rank_in_kind()[order]
        runs = []
        first = 0
        while first < len(table):
            q, k, rows, keys, kind = table[first]
            stop = first + 1
            q_tile = k_tile = 0
            if stop < len(table) and not others[first]:
                q_tile, k_tile = table[stop][0] - q, table[stop][1] - k
                if q_tile > 0 and k_tile >= 0:
                    end = turns[bisect_left(turns, stop)]
                    stop = max(stop, min(end + 1, first + self._longest(k_tile)))
            count = stop - first
            mask = self.masks[kind]
            if mask is not None and mask.shape[0] > 1:
                mask = mask[rank[first:stop]]
            if count == 1:
                q_tile = k_tile = 0
            runs.append(
                TileRun(count, rows, keys, q, self.step, q_tile, k, self.step, k_tile, mask)
            )
            first = stop
        return tuple(runs)

    def _longest(self, k_tile: int) -> int:
        """Return how many tiles may go into one run."""
        return longest_run(k_tile, self.step, self.q_start.numel())

    def _rank_in_kind(self) -> Tensor:
        """Return each tile's number among those of its kind."""
        order = self.kind.argsort(stable=True)
        sorted_kind = self.kind[order]
        count = torch.bincount(sorted_kind)
        first = (count.cumsum(0) - count)[sorted_kind]
        rank = torch.empty_like(order)
        rank[order] = torch.arange(order.numel(), device="cpu") - first
        return rank


def longest_run(k_tile: int, step: int, tiles: int) -> int:
    """Return how many of some tiles may go into one run.

    Gradients of keys are added by strided views, one multiple of the step at a time; tiles that
    interleave must not come back to a key of an earlier one.

    Args:
        k_tile: Distance between the tiles, in keys.
        step: Distance between keys of a tile.
        tiles: Number of tiles.
    """
    return tiles if k_tile % step == 0 else max(1, step // max(1, k_tile))


def unique_rows(*columns: Tensor) -> tuple[list[Tensor], Tensor]:
    """Return the distinct rows of columns, in ascending order, and which of them each row is.

    Args:
        columns: int64 `(n,)` each, not negative; the product of their ranges is below `2**63`.

    Returns:
        int64 `(distinct,)` for each column, and int64 `(n,)`.
    """
    key = columns[0]
    sizes = [int(column.max()) + 1 if column.numel() else 1 for column in columns]
    for column, size in zip(columns[1:], sizes[1:], strict=True):
        key = key * size + column
    key, number = torch.unique(key, return_inverse=True)
    found = []
    for size in reversed(sizes[1:]):
        found.append(key % size)
        key = key // size
    return [key, *reversed(found)], number


def select_tiles(tiles: Tiles, which: Tensor) -> Tiles:
    """Return some of the tiles, with the masks of all."""
    return Tiles(
        tiles.q_start[which],
        tiles.rows[which],
        tiles.k_start[which],
        tiles.keys[which],
        tiles.kind[which],
        tiles.masks,
        tiles.step,
    )


def concatenate_tiles(groups: list[Tiles]) -> Tiles:
    """Return the tiles of all groups, one after the other; their steps are equal."""
    kinds: list[Tensor] = []
    masks: list[Tensor | None] = []
    for group in groups:
        kinds.append(group.kind + len(masks))
        masks.extend(group.masks)
    return Tiles(
        torch.cat([group.q_start for group in groups]),
        torch.cat([group.rows for group in groups]),
        torch.cat([group.k_start for group in groups]),
        torch.cat([group.keys for group in groups]),
        torch.cat(kinds),
        masks,
        groups[0].step,
    )
