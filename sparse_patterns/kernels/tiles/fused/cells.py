"""Cells: tiles whose listed keys are gathered together, few enough for a cache.

The tiles of a window over a grid see stretches of a list of keys, those of one strip of the grid
none of another's. So the keys are gathered some strips at a time, into buffers that stay in the
processor's cache, in all heads at once.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from weakref import WeakKeyDictionary

from sparse_patterns.kernels.tiles.fused.strips import Strip, Strips
from sparse_patterns.kernels.tiles.listed import Listed, lists_of
from sparse_patterns.lowering.tiles.runs import PlanPart


@dataclass(frozen=True, eq=False)
class Cell:
    """Some tiles of a part, and the keys that they index.

    Attributes:
        strips: The tiles, which index the lists of the part.
        queries: The list of queries, where these are to be gathered.
        keys: The stretch of the list of keys; None where the part has none.
        k_first: Its place in that list, 0 where there is none.
    """

    strips: tuple[Strip, ...]
    queries: Listed | None
    keys: Listed | None
    k_first: int


BEHIND_ALL = 1 << 62
"""A place behind every key."""

_made: WeakKeyDictionary[Strips, dict[int, tuple[Cell, ...]]] = WeakKeyDictionary()


def cells_of(part: PlanPart, strips: Strips, most: int) -> tuple[Cell, ...]:
    """Return the cells of a part, all of it in one where it cannot be taken apart.

    Args:
        part: The part.
        strips: Its strips.
        most: Listed keys of a cell, about.
    """
    of_strips = _made.setdefault(strips, {})
    if most not in of_strips:
        queries, keys = lists_of(part)
        placed = strips.strips if queries is None else _placed(strips.strips, queries)
        if placed is not None:
            queries = None
        whole = Cell(placed or strips.strips, queries, keys, 0)
        apart = keys is not None and queries is None and strips.strips
        of_strips[most] = tuple(_cut(whole, most)) if apart else (whole,)
    return of_strips[most]


def _placed(strips: tuple[Strip, ...], queries: Listed) -> tuple[Strip, ...] | None:
    """Return the strips with the places of their rows, None where these have to be gathered."""
    found = []
    for whole in strips:
        for strip in _alike(whole, queries):
            run = strip.run
            place = queries.tiles(run.q_start, run.tiles, run.rows, run.q_tile)
            if place is None or run.q_step != 1:
                return None
            found.append(replace(strip, place=place))
    return tuple(found)


def _alike(strip: Strip, queries: Listed) -> Iterator[Strip]:
    """Yield the strip as ones whose tiles start at equal distances, each after the one before."""
    run = strip.run
    starts = [int(queries.index[run.q_start + tile * run.q_tile]) for tile in range(run.tiles)]
    first = 0
    while first < run.tiles:
        stop = min(first + 2, run.tiles)
        step = starts[stop - 1] - starts[first]
        if step <= 0:
            stop = first + 1  # views cannot go backwards
        while step > 0 and stop < run.tiles and starts[stop] - starts[stop - 1] == step:
            stop += 1
        yield strip.tiles(first, stop)
        first = stop


def _cut(whole: Cell, most: int) -> Iterator[Cell]:
    """Yield cells; none of their tiles sees keys of another's."""
    ends = sorted(
        (strip.run.k_start + tile * strip.run.k_tile, _width(strip))
        for strip in whole.strips
        for tile in range(strip.run.tiles)
    )
    first, last = ends[0][0], ends[0][0]
    for start, width in [*ends, (BEHIND_ALL, 0)]:
        # A tile that begins behind all others: the keys before it may be a cell.
        if start >= last and (start == BEHIND_ALL or start + width - first > most):
            cell = _between(whole, first, last)
            if cell.strips:
                yield cell
            first = start
        last = max(last, start + width)


def _width(strip: Strip) -> int:
    return (strip.run.keys - 1) * strip.run.k_step + 1


def _between(whole: Cell, first: int, stop: int) -> Cell:
    """Return the tiles whose keys lie in a stretch of the list."""
    strips = []
    for strip in whole.strips:
        run = strip.run
        tiles = [
            tile for tile in range(run.tiles) if first <= run.k_start + tile * run.k_tile < stop
        ]
        if tiles:
            strips.append(strip.tiles(tiles[0], tiles[-1] + 1))
    assert whole.keys is not None
    return Cell(tuple(strips), None, whole.keys.stretch(first, stop), first)
