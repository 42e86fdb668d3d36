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

from sparse_patterns.spec.base import Pattern


@dataclass(frozen=True, eq=False)
class TileRun:
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
        mask: bool `(1 or tiles, 1 or rows, keys)`, True where visible; None where everything is.
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

    def split(self, tiles: int) -> Iterator[TileRun]:
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
        tile, row = torch.arange(self.tiles, device="cpu"), torch.arange(self.rows, device="cpu")
        return self.q_start + tile[:, None] * self.q_tile + row * self.q_step

    def key_indices(self) -> Tensor:
        """Return the keys, int64 `(tiles, keys)`."""
        tile, column = torch.arange(self.tiles, device="cpu"), torch.arange(self.keys, device="cpu")
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
class PlanPart:
    """Runs over one selection of queries and keys; the parts of a group are disjoint.

    Attributes:
        name: What the part is, for people: "window", "columns", "blocks", "rows", ...
        runs: The runs.
        keys: int64 `(n,)`, the list of keys that runs index, possibly repeated; None: all of them,
            in order.
        queries: int64 `(n,)`, the list of distinct query rows that runs index; None: all of them,
            in order.
        whole_rows: Whether the part computes rows as a whole, as those of global tokens: what the
            other parts find there is dropped.
        step: Distance in tokens between adjacent keys of a tile: the dilation of the order
            used.
        documents: Whether pairs of different documents are to be taken out at the call.
        dynamic: Pattern to be evaluated on each tile at the call, where it depends on the example.
    """

    name: str
    runs: tuple[TileRun, ...]
    keys: Tensor | None = None
    queries: Tensor | None = None
    step: int = 1
    documents: bool = False
    dynamic: Pattern | None = None
    whole_rows: bool = False

    @property
    def order(self) -> Tensor | None:
        """The list of query rows of a part that adds to what other parts find there."""
        return None if self.whole_rows else self.queries

    @property
    def pairs(self) -> int:
        """Pairs computed, visible or not."""
        return sum(run.pairs for run in self.runs)
