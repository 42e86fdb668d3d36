"""Windows, dilated or not: tiles by arithmetic, in time that does not grow with the length.

Tiles that see alike are computed once, as a run: their keys from the distances alone, and one mask,
which no length changes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace

from torch import Tensor

from sparse_patterns.lowering.normal_form import Conjunct, without
from sparse_patterns.lowering.residues import Residues, residues
from sparse_patterns.lowering.tiles.joining import join_runs
from sparse_patterns.lowering.tiles.known_masks import band_mask, depends_on_distance, distance_mask
from sparse_patterns.lowering.tiles.masks import STACK_FROM
from sparse_patterns.lowering.tiles.queries import tile_rows, window_ends
from sparse_patterns.lowering.tiles.runs import PlanPart, TileRun
from sparse_patterns.lowering.tiles.tiles import MAX_KEYS
from sparse_patterns.spec.base import Pattern

NAME = "window"


def window_part(
    conjunct: Conjunct, earlier: list[Conjunct], q_len: int, kv_len: int, q_offset: int
) -> PlanPart | None:
    """Lower a conjunct of distances; None where it takes more than distances.

    Args:
        conjunct: The conjunct.
        earlier: Conjuncts whose pairs are taken out.
        q_len: Number of queries, at least 1.
        kv_len: Number of keys, at least 1.
        q_offset: Position of query row 0.
    """
    if conjunct.blocks or conjunct.columns:
        return None
    pattern = None
    if not conjunct.dynamic and (conjunct.rest or earlier):
        pattern = without(conjunct, earlier)
        if not depends_on_distance(pattern):
            return None
    groups = list(residues(conjunct, q_len, kv_len, q_offset))
    seeing = sum(group.count * len(group.seeing(0, group.queries)) for group in groups)
    if not seeing:
        return PlanPart(NAME, ())
    height = tile_rows(sum(group.pairs for group in groups) / seeing, slides=True)
    ends = window_ends(conjunct, q_len, kv_len, q_offset, height)
    longest = max(group.queries for group in groups)
    if ends is None and longest <= 2 * height:
        height = longest
    tiles = _Tiles(pattern, conjunct.dilation)
    found = [
        run
        for group in groups
        for start, rows, count in _cut(group.queries, height, ends or (0, 0))
        for run in tiles.of(group, start, rows, count)
    ]
    if pattern is not None and tiles.most_masks > STACK_FROM:
        return None
    dynamic = without(conjunct, earlier) if conjunct.dynamic else None
    documents = conjunct.documents and not conjunct.dynamic
    runs = join_runs(found)
    return PlanPart(NAME, runs, step=conjunct.dilation, documents=documents, dynamic=dynamic)


def _cut(queries: int, height: int, ends: tuple[int, int]) -> Iterator[tuple[int, int, int]]:
    """Yield the first query, the rows of a tile, and how many tiles of them follow on each other.

    Args:
        queries: Queries to cut.
        height: Rows of a tile.
        ends: Queries at the start and at the end that are tiles of their own.
    """
    first, last = ends
    count, left = divmod(queries - first - last, height)
    stop = first + count * height
    for cut in ((0, first, 1), (first, height, count), (stop, left, 1), (stop + left, last, 1)):
        if cut[1] and cut[2]:
            yield cut


class _Tiles:
    """Runs of tiles of a conjunct in the making, with one mask for all that are alike.

    Args:
        pattern: What is visible, by distance; None for all keys of the window.
        step: The dilation.
    """

    def __init__(self, pattern: Pattern | None, step: int) -> None:
        self.pattern, self.step = pattern, step
        self._masks: dict[tuple[int, int, int, int], tuple[bool, Tensor | None]] = {}

    @property
    def most_masks(self) -> int:
        """How many different masks the tiles of one shape have, at most."""
        made = [shape for shape, (_, mask) in self._masks.items() if mask is not None]
        return max(Counter(shape[:2] for shape in made).values(), default=0)

    def of(self, group: Residues, start: int, rows: int, count: int) -> Iterator[TileRun]:
        """Yield the runs of `count` tiles of `rows` queries from `start` on, in all residues."""
        tile = 0
        while tile < count:
            first = start + tile * rows
            some, slides = _alike(group, first, rows, count - tile)
            if self.pattern is not None and not slides:
                some = 1  # the pairs that others took out are elsewhere in each
            tile += some
            seeing = group.seeing(first, first + rows)
            if seeing:
                low, high = group.span(seeing)
                for key in range(low, high + 1, MAX_KEYS):
                    keys = min(MAX_KEYS, high + 1 - key)
                    yield from self._runs(group, first, rows, key, keys, some, slides)

    def _runs(
        self, group: Residues, first: int, rows: int, key: int, keys: int, count: int, slides: bool
    ) -> Iterator[TileRun]:
        """Yield `count` tiles in all residues as the fewest runs that they can be."""
        own = group.origin + first - key
        sees, mask = self._mask(rows, keys, own - group.left, own + group.right, -own)
        if not sees:
            return
        step = self.step
        along = (rows * step, rows * step if slides else 0)
        run = TileRun(
            tiles=count if count >= group.count else group.count,
            rows=rows,
            keys=keys,
            q_start=group.first_query + first * step,
            q_step=step,
            q_tile=along[0] if count >= group.count else 1,
            k_start=group.first_key + key * step,
            k_step=step,
            k_tile=along[1] if count >= group.count else 1,
            mask=mask,
        )
        others, apart = (group.count, (1, 1)) if count >= group.count else (count, along)
        if run.tiles == 1:
            run = replace(run, q_tile=0, k_tile=0)
        yield run
        for number in range(1, others):
            yield replace(
                run,
                q_start=run.q_start + number * apart[0],
                k_start=run.k_start + number * apart[1],
            )

    def _mask(
        self, rows: int, keys: int, low: int, high: int, distance: int
    ) -> tuple[bool, Tensor | None]:
        """Return whether a tile sees anything, and its mask, None where it sees everything.

        Args:
            rows: Queries of the tile.
            keys: Keys of the tile.
            low: First key in the window of the first row, counted from the first of the tile.
            high: Last key in the window of the first row.
            distance: Steps from the first row to the first key.
        """
        shape = (rows, keys, max(low, 1 - rows), min(high, keys - 1))
        if self.pattern is not None:
            shape = (rows, keys, distance, 0)
        if shape not in self._masks:
            if self.pattern is None:
                self._masks[shape] = (True, band_mask(*shape))
            else:
                made = distance_mask(self.pattern, rows, keys, distance * self.step, self.step)
                self._masks[shape] = made
        return self._masks[shape]


def _alike(group: Residues, first: int, rows: int, count: int) -> tuple[int, bool]:
    """Return how many tiles see as the first does, and whether their keys move on with the rows.

    Args:
        group: The residues.
        first: First query of the first tile.
        rows: Queries of a tile.
        count: Tiles that follow on each other.
    """
    own, last = group.origin + first, group.origin + first + rows - 1
    if own >= group.left and last + group.right < group.keys:
        return min(count, (group.keys - 1 - group.right - last) // rows + 1), True
    if own + group.right >= group.keys - 1 and last <= group.left:
        return min(count, (group.left - last) // rows + 1), False
    return 1, False
