"""Runs: equal tiles at equal distances, the unit that kernels execute.

A *tile* is some rows of queries against some keys. A *run* is a number of tiles of one shape whose
first query and first key advance by constant steps, so that a kernel can view all of them in place
as one batch:

    query of tile t, row i:   q_start + t * q_tile + i * q_step   (an index of a query row)
    key of tile t, column c:  k_start + t * k_tile + c * k_step   (an index of a key or a key list)
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from sparse_patterns.patterns import Pattern


@dataclass(frozen=True, eq=False)
class Run:
    """Equal tiles at equal distances.

    Attributes:
        tiles: Number of tiles.
        rows: Query rows of a tile.
        keys: Keys of a tile.
        q_start: First query row of the first tile.
        q_step: Distance between rows of a tile.
        q_tile: Distance between tiles, in query rows.
        k_start: First key of the first tile.
        k_step: Distance between keys of a tile.
        k_tile: Distance between tiles, in keys.
        mask: bool `(1 or tiles, rows, keys)`, True where visible; None where everything is.
    """

    tiles: int
    rows: int
    keys: int
    q_start: int
    q_step: int
    q_tile: int
    k_start: int
    k_step: int
    k_tile: int
    mask: Tensor | None = None

    @property
    def pairs(self) -> int:
        """Pairs computed, visible or not."""
        return self.tiles * self.rows * self.keys

    def split(self, tiles: int) -> Iterator[Run]:
        """Yield the run as shorter ones of at most so many tiles, in order."""
        for first in range(0, self.tiles, tiles):
            count = min(tiles, self.tiles - first)
            mask = self.mask
            if mask is not None and mask.shape[0] > 1:
                mask = mask[first : first + count]
            q = self.q_start + first * self.q_tile
            k = self.k_start + first * self.k_tile
            yield replace(self, tiles=count, q_start=q, k_start=k, mask=mask)

    def query_rows(self) -> Tensor:
        """Return the query rows, int64 `(tiles, rows)`."""
        tile, row = torch.arange(self.tiles), torch.arange(self.rows)
        return self.q_start + tile[:, None] * self.q_tile + row * self.q_step

    def key_indices(self) -> Tensor:
        """Return the keys, int64 `(tiles, keys)`."""
        tile, column = torch.arange(self.tiles), torch.arange(self.keys)
        return self.k_start + tile[:, None] * self.k_tile + column * self.k_step

    @cached_property
    def slabs(self) -> tuple[tuple[int, int, Tensor], ...]:
        """The masked columns as float32 factors of 1 and 0: `(first, stop, factors)`.

        Columns between the first and the last that every row of every tile sees need none.
        """
        if self.mask is None:
            return ()
        clear = self.mask.all(1).all(0)
        if not clear.any():
            return ((0, self.keys, self.mask.float()),)
        first = int(clear.to(torch.uint8).argmax())
        last = self.keys - int(clear.flip(0).to(torch.uint8).argmax())
        if not clear[first:last].all():
            return ((0, self.keys, self.mask.float()),)
        edges = ((0, first), (last, self.keys))
        return tuple(
            (start, stop, self.mask[:, :, start:stop].float())
            for start, stop in edges
            if stop > start
        )


@dataclass(frozen=True, eq=False)
class Part:
    """Runs over one selection of queries and keys; the parts of a group are disjoint.

    Attributes:
        name: What the part is, for people: "window", "columns", "blocks", "rows", ...
        runs: The runs.
        keys: int64 `(n,)`, the list of keys that runs index, possibly repeated; None: all of them,
            in order.
        queries: int64 `(n,)`, the list of query rows that runs index; None: all of them, in order.
        step: Distance in tokens between neighbouring keys of a tile: the dilation of the order
            used.
        documents: Whether pairs of different documents are to be taken out at the call.
        dynamic: Pattern to be evaluated on each tile at the call, where it depends on the example.
    """

    name: str
    runs: tuple[Run, ...]
    keys: Tensor | None = None
    queries: Tensor | None = None
    step: int = 1
    documents: bool = False
    dynamic: Pattern | None = None

    @property
    def pairs(self) -> int:
        """Pairs computed, visible or not."""
        return sum(run.pairs for run in self.runs)


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

    def to_runs(self) -> tuple[Run, ...]:
        """Group the tiles to as few runs as a greedy scan finds, in one of two orders."""
        by_row = self._scan(torch.arange(self.q_start.numel()))
        if self.step == 1 or len(by_row) <= 2:
            return by_row
        by_start = self._scan(self.q_start.argsort(stable=True))
        return min(by_row, by_start, key=len)

    def _scan(self, order: Tensor) -> tuple[Run, ...]:
        shape = torch.stack([self.kind, self.rows, self.keys], 1)
        _, shape_id = torch.unique(shape, dim=0, return_inverse=True)
        order = order[shape_id[order].argsort(stable=True)]
        columns = (shape_id, self.q_start, self.k_start, self.rows, self.keys, self.kind)
        table = torch.stack(columns, 1)[order].tolist()
        rank = self._rank_in_kind()[order].tolist()
        runs = []
        first = 0
        while first < len(table):
            shape_now, q, k, rows, keys, kind = table[first]
            stop = first + 1
            q_tile = k_tile = 0
            if stop < len(table) and table[stop][0] == shape_now:
                q_tile, k_tile = table[stop][1] - q, table[stop][2] - k
                limit = self._longest(k_tile)
                if q_tile > 0 and k_tile >= 0:
                    while (
                        stop < min(len(table), first + limit)
                        and table[stop][0] == shape_now
                        and table[stop][1] - table[stop - 1][1] == q_tile
                        and table[stop][2] - table[stop - 1][2] == k_tile
                    ):
                        stop += 1
            count = stop - first
            mask = self.masks[kind]
            if mask is not None and mask.shape[0] > 1:
                mask = mask[torch.tensor(rank[first:stop])]
            if count == 1:
                q_tile = k_tile = 0
            runs.append(Run(count, rows, keys, q, self.step, q_tile, k, self.step, k_tile, mask))
            first = stop
        return tuple(runs)

    def _longest(self, k_tile: int) -> int:
        """Return how many tiles may go into one run.

        Gradients of keys are added by strided views, one multiple of the step at a time; tiles that
        interleave must not come back to a key of an earlier one.
        """
        if k_tile % self.step == 0:
            return self.q_start.numel()
        return max(1, self.step // max(1, k_tile))

    def _rank_in_kind(self) -> Tensor:
        """Return each tile's number among those of its kind."""
        order = self.kind.argsort(stable=True)
        sorted_kind = self.kind[order]
        first = torch.searchsorted(sorted_kind, sorted_kind)
        rank = torch.empty_like(order)
        rank[order] = torch.arange(order.numel()) - first
        return rank
