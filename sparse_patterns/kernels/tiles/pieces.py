"""Pieces of runs: what the tiled kernel computes at once, as views of the matrices of some heads.

A piece is a batch of equal products: one tile in some heads at once or, where there are few heads
or tiles are small, some tiles of one head.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from sparse_patterns.kernels.tiles.selection import Selection
from sparse_patterns.lowering.tiles.cutting import cut_rows
from sparse_patterns.lowering.tiles.runs import PlanPart, TileRun

SCORES_AT_ONCE = 1 << 17
"""Scores of heads computed at once: few enough for a cache, enough to pay for the calls."""

TILES_AT_ONCE = 1 << 19
"""Scores of tiles of one head computed at once."""

FEW_SCORES = 1 << 15
"""A tile with fewer in all heads does not pay for the calls that it takes."""

HEIGHT = 64
"""Rows that a tile is cut to where its rows see different keys."""

_trimmed: WeakKeyDictionary[PlanPart, tuple[TileRun, ...]] = WeakKeyDictionary()


@dataclass
class Piece:
    """Some tiles of a run, or some rows of one tile, in some heads: the unit of the inner loops.

    Shapes: C tiles or heads, T rows, L keys, D head size.

    Attributes:
        run: The run.
        tile: The first tile.
        tiles: Number of tiles; 1 where there are several heads.
        row: The first row of each tile.
        rows: Number of rows.
        heads: The heads, all those of the matrices or one.
    """

    run: TileRun
    tile: int
    tiles: int
    row: int
    rows: int
    heads: slice

    @property
    def shared_keys(self) -> bool:
        """Whether all tiles see the same keys and their rows follow on each other."""
        run = self.run
        return run.k_tile == 0 and (self.tiles == 1 or run.q_tile == run.rows * run.q_step)

    def queries(self, x: Tensor) -> Tensor:
        """View rows of `x` `(heads, n, ...)` as `(C, T, ...)`; tiles of shared keys are one."""
        run = self.run
        start = run.q_start + self.tile * run.q_tile + self.row * run.q_step
        x = self._of_heads(x)
        if self.tiles > 1 and self.shared_keys:
            return _strided(x, start, 1, self.tiles * self.rows, 0, run.q_step)
        return _strided(x, start, self.tiles, self.rows, run.q_tile, run.q_step)

    def keys(self, x: Tensor) -> Tensor:
        """View the keys of `x` `(heads, n, D)` as `(C, L, D)`; tiles of shared keys are one."""
        run = self.run
        start = run.k_start + self.tile * run.k_tile
        tiles = 1 if self.tiles == 1 or self.shared_keys else self.tiles
        return _strided(self._of_heads(x), start, tiles, run.keys, run.k_tile, run.k_step)

    def _of_heads(self, x: Tensor) -> Tensor:
        heads = self.heads
        return x if heads.start == 0 and heads.stop == x.shape[0] else x[heads]

    def hide(self, x: Tensor, at: Selection, part: PlanPart, additive: bool) -> None:
        """Hide what is not visible, in place.

        Args:
            x: `(C, T, L)`: scores, or their exponentials.
            at: What the masks of the example are.
            part: The part of the run.
            additive: Add -inf, for scores. Otherwise multiply by 0, for exponentials that are all
                finite: the exponential of -inf takes ten times as long as that of a number.
        """
        view = x if self.tiles == 1 else x.view(-1, self.tiles, self.rows, x.shape[-1])
        rows = slice(self.row, self.row + self.rows)
        for start, stop, factors in self.run.slabs:
            some = factors if factors.shape[0] == 1 else factors[self.tile : self.tile + self.tiles]
            some = some if some.shape[1] in (1, self.rows) else some[:, rows]
            _apply(view[..., start:stop], some, additive)
        if at.key_mask is None and not part.documents and part.dynamic is None:
            return
        shape = torch.Size((self.tiles, self.rows, x.shape[-1]))
        for factors in at.factors(shape, part, self.run, self.tile, self.row):
            _apply(view, factors, additive)

    @property
    def apart(self) -> bool:
        """Whether no two of its matrices of keys share a row."""
        run = self.run
        return self.tiles == 1 or self.shared_keys or run.k_tile >= run.keys * run.k_step

    def fold(self, total: Tensor, parts: Tensor) -> None:
        """Add what each tile of a head contributes to its keys, `(C, L, D)`, to `(heads, n, D)`."""
        run = self.run
        start = run.k_start + self.tile * run.k_tile
        if run.k_tile % run.k_step:
            self.keys(total).add_(parts)
            return
        total = total[self.heads]
        width = max(1, run.k_tile // run.k_step)
        for column in range(0, run.keys, width):
            some = parts[:, column : column + width]
            at = start + column * run.k_step
            _strided(total, at, self.tiles, some.shape[1], run.k_tile, run.k_step).add_(some)


def _apply(x: Tensor, factors: Tensor, additive: bool) -> None:
    if factors.device != x.device:
        factors = factors.to(x.device)
    if additive:
        x.add_(factors.log())
    else:
        x.mul_(factors)


def _strided(x: Tensor, start: int, tiles: int, rows: int, tile_step: int, row_step: int) -> Tensor:
    """View rows of `(heads, n, ...)` as `(tiles or heads, rows, ...)`, one of both being 1."""
    heads, _, *width = x.shape
    batch, step, *unit = x.stride()
    if heads == 1:
        batch = tile_step * step
    size, stride = (heads * tiles, rows, *width), (batch, row_step * step, *unit)
    return x.as_strided(size, stride, x.storage_offset() + start * step)


def trimmed(part: PlanPart) -> tuple[TileRun, ...]:
    """Return the runs of a part, tall tiles with edges cut to lower ones of fewer keys."""
    if part not in _trimmed:
        _trimmed[part] = tuple(cut for run in part.runs if run.keys for cut in _lower(run))
    return _trimmed[part]


def _lower(run: TileRun) -> Iterator[TileRun]:
    edged = run.mask is not None and run.mask.shape[1] > 1
    alike = run.tiles == 1 or run.k_tile == run.q_tile
    return cut_rows(run, HEIGHT if edged and alike else run.rows)


def cut(run: TileRun, heads: int) -> Iterator[Piece]:
    """Yield pieces of about as many scores as should be computed at once.

    Args:
        run: The run.
        heads: Heads of the matrices.
    """
    for pieces in rows_of_pieces(run, heads):
        yield from pieces


def rows_of_pieces(run: TileRun, heads: int) -> Iterator[list[Piece]]:
    """Yield the same pieces in lists of equal ones that follow each other tile by tile."""
    tile = run.rows * run.keys
    shared = run.k_tile == 0 and run.q_tile == run.rows * run.q_step
    if heads > 1 and (run.tiles == 1 or shared or heads * tile >= FEW_SCORES):
        every, at_once, some = heads, SCORES_AT_ONCE, [slice(heads)]
    else:
        every, at_once, some = 1, TILES_AT_ONCE, [slice(head, head + 1) for head in range(heads)]
    rows = max(1, at_once // (every * run.keys)) if every * tile > TILES_AT_ONCE else run.rows
    count = max(1, at_once // max(1, every * tile)) if every == 1 or shared else 1
    if run.k_tile == 0 and not shared:
        count = 1
    whole = run.tiles - run.tiles % count
    for head in some:
        for row in range(0, run.rows, rows):
            height = min(rows, run.rows - row)
            if whole:
                yield [Piece(run, at, count, row, height, head) for at in range(0, whole, count)]
            if whole < run.tiles:
                yield [Piece(run, whole, run.tiles - whole, row, height, head)]


def queries_of(pieces: list[Piece], x: Tensor) -> Sequence[Tensor]:
    """Return `queries` of each piece of a list, at once."""
    first = pieces[0]
    return _each(pieces, first.queries(x), first.tiles * first.run.q_tile * x.stride(1))


def keys_of(pieces: list[Piece], x: Tensor) -> Sequence[Tensor]:
    """Return `keys` of each piece of a list, at once."""
    first = pieces[0]
    return _each(pieces, first.keys(x), first.tiles * first.run.k_tile * x.stride(1))


def _each(pieces: list[Piece], first: Tensor, step: int) -> Sequence[Tensor]:
    if len(pieces) == 1:
        return (first,)
    size, stride = (len(pieces), *first.shape), (step, *first.stride())
    return first.as_strided(size, stride, first.storage_offset()).unbind(0)
