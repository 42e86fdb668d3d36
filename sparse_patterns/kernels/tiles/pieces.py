"""Pieces of runs: what the tiled kernel computes at once, as views of the matrices of a head."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor

from sparse_patterns.kernels.tiles.selection import Selection
from sparse_patterns.lowering.tiles.runs import PlanPart, TileRun

SCORES_AT_ONCE = 1 << 19
"""Scores computed at once: they should stay in the processor's second-level cache."""


@dataclass
class Piece:
    """Some tiles of a run, or some rows of one tile: the unit of the inner loops.

    Shapes: C tiles, T rows, L keys, D head size.
    """

    run: TileRun
    tile: int
    tiles: int
    row: int
    rows: int

    @property
    def shared_keys(self) -> bool:
        """Whether all tiles see the same keys and their rows follow on each other."""
        run = self.run
        return run.k_tile == 0 and (self.tiles == 1 or run.q_tile == run.rows * run.q_step)

    def queries(self, x: Tensor) -> Tensor:
        """View rows of `x` `(n, D)` or `(n,)` as `(C, T, D)` or `(C, T)`; shared keys make C 1."""
        run = self.run
        start = run.q_start + self.tile * run.q_tile + self.row * run.q_step
        if self.shared_keys:
            return _strided(x, start, 1, self.tiles * self.rows, 0, run.q_step)
        return _strided(x, start, self.tiles, self.rows, run.q_tile, run.q_step)

    def keys(self, x: Tensor) -> Tensor:
        """View the keys of `x` `(n, D)` as `(C, L, D)`; C = 1 for shared keys."""
        run = self.run
        start = run.k_start + self.tile * run.k_tile
        tiles = 1 if self.shared_keys else self.tiles
        return _strided(x, start, tiles, run.keys, run.k_tile, run.k_step)

    def hide(self, x: Tensor, at: Selection, part: PlanPart, additive: bool) -> None:
        """Hide what is not visible, in place.

        Args:
            x: `(C, T, L)`: scores, or their exponentials.
            at: What the masks of the example are.
            part: The part of the run.
            additive: Add -inf, for scores. Otherwise multiply by 0, for exponentials that are all
                finite: the exponential of -inf takes ten times as long as that of a number.
        """
        view = x.view(self.tiles, self.rows, -1)
        rows = slice(self.row, self.row + self.rows)
        for start, stop, factors in self.run.slabs:
            some = factors if factors.shape[0] == 1 else factors[self.tile : self.tile + self.tiles]
            some = some if some.shape[1] == 1 else some[:, rows]
            _apply(view[:, :, start:stop], some, additive)
        for factors in at.factors(view.shape, part, self.run, self.tile, self.row):
            _apply(view, factors, additive)

    def fold(self, total: Tensor, parts: Tensor) -> None:
        """Add what each tile contributes to its keys, `(C, L, D)`, to `total` `(n, D)`."""
        run = self.run
        start = run.k_start + self.tile * run.k_tile
        if parts.shape[0] == 1 or run.k_tile % run.k_step:
            self.keys(total).add_(parts)
            return
        width = max(1, run.k_tile // run.k_step)
        for column in range(0, run.keys, width):
            some = parts[:, column : column + width]
            at = start + column * run.k_step
            _strided(total, at, self.tiles, some.shape[1], run.k_tile, run.k_step).add_(some)


def _apply(x: Tensor, factors: Tensor, additive: bool) -> None:
    factors = factors.to(x.device)
    if additive:
        x.add_(factors.log())
    else:
        x.mul_(factors)


def _strided(x: Tensor, start: int, tiles: int, rows: int, tile_step: int, row_step: int) -> Tensor:
    step = x.stride(0)
    size = (tiles, rows, *x.shape[1:])
    stride = (tile_step * step, row_step * step, *x.stride()[1:])
    return x.as_strided(size, stride, x.storage_offset() + start * step)


def cut(run: TileRun) -> Iterator[Piece]:
    """Yield pieces of about `SCORES_AT_ONCE` scores."""
    tile = run.rows * run.keys
    if tile > SCORES_AT_ONCE:
        rows = max(1, SCORES_AT_ONCE // run.keys)
        for index in range(run.tiles):
            for row in range(0, run.rows, rows):
                yield Piece(run, index, 1, row, min(rows, run.rows - row))
        return
    count = max(1, SCORES_AT_ONCE // max(1, tile))
    if run.k_tile == 0 and run.q_tile != run.rows * run.q_step:
        count = 1
    for index in range(0, run.tiles, count):
        yield Piece(run, index, min(count, run.tiles - index), 0, run.rows)
