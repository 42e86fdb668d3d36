"""Terms that are a window over a grid: tiles of whole blocks of the grid, in an order of their own.

See `layout` for how the grid is cut. The mask of a tile is a product of one mask for each
dimension, and tiles that lie alike share it; only tiles at the ends of the queries or keys, or with
other literals of the conjunct, are evaluated pair by pair.
"""

from __future__ import annotations

import itertools
import math
from collections import defaultdict

import torch
from torch import Tensor

from sparse_patterns.lowering.normal_form import Conjunct, without
from sparse_patterns.lowering.tiles.grids.layout import Block, Cut, Span, cut_grid
from sparse_patterns.lowering.tiles.masks import evaluate_tiles, may_overlap
from sparse_patterns.lowering.tiles.runs import PlanPart
from sparse_patterns.lowering.tiles.tiles import MAX_KEYS, Tiles, select_tiles

NO_MASK = 0
"""The kind of tiles that are seen whole, or evaluated."""


def grid_part(conjunct: Conjunct, earlier: list[Conjunct], q: Tensor, kv_len: int) -> PlanPart:
    """Lower a conjunct with a window over a grid.

    Args:
        conjunct: The conjunct.
        earlier: Conjuncts whose pairs are taken out.
        q: int64 query positions, ascending by 1.
        kv_len: Number of keys.
    """
    grid = conjunct.grid
    assert grid is not None
    strips = _Strips()
    for cut in cut_grid(grid, int(q[0]), int(q[-1]), kv_len):
        strips.add(cut)
    if not strips.rows:
        return PlanPart("grid", ())
    tiles, order, listed, partial = strips.finish(int(q[0]), int(q[-1]), kv_len)
    more = conjunct.left < grid.reach or conjunct.right < grid.reach or conjunct.dilation > 1
    evaluate = partial | bool(more or conjunct.blocks or conjunct.rest)
    at, last = tiles.q_start, tiles.q_start + tiles.rows - 1
    key, last_key = tiles.k_start, tiles.k_start + tiles.keys - 1
    for other in earlier:
        ends = (order[at], order[last], listed[key], listed[last_key])
        evaluate |= may_overlap(other, *ends, kv_len)
    # What is evaluated here or at the call needs no mask of its own.
    tiles.kind = torch.where(evaluate, NO_MASK, tiles.kind)
    dynamic = without(conjunct, earlier) if conjunct.dynamic else None
    if dynamic is None and bool(evaluate.any()):
        pattern = without(conjunct, earlier)
        tiles = evaluate_tiles(tiles, evaluate, pattern, order, listed, kv_len)
    queries, tiles.q_start = _in_place(order - int(q[0]), tiles.q_start)
    keys, tiles.k_start = _in_place(listed, tiles.k_start)
    by_strip = select_tiles(tiles, tiles.k_start.argsort(stable=True))
    runs = min(by_strip.to_runs(), tiles.to_runs(), key=len)
    documents = conjunct.documents and not conjunct.dynamic
    return PlanPart("grid", runs, keys, queries, documents=documents, dynamic=dynamic)


def _in_place(listed: Tensor, start: Tensor) -> tuple[Tensor | None, Tensor]:
    """Return no list where it is a stretch of neighbours, and the starts of tiles without it."""
    first = int(listed[0])
    if bool((listed == torch.arange(first, first + listed.numel(), device="cpu")).all()):
        return None, start + first
    return listed, start


class _Strips:
    """The tiles and the lists of a grid in the making."""

    def __init__(self) -> None:
        self.rows: list[Tensor] = []
        self.keys: list[Tensor] = []
        self.columns: list[list[Tensor]] = [[], [], [], [], []]
        self.masks: list[Tensor | None] = [None]
        self.kinds: dict[object, int] = {}
        self.q_count = self.k_count = 0

    def add(self, cut: Cut) -> None:
        """Add the strips of equal lattices, those that are alike in one go."""
        spans, (along, *across) = cut.lattice.spans, cut.blocks
        alike = [_by_form(blocks) for blocks in across]
        for chosen in itertools.product(*(forms.values() for forms in alike)):
            q_starts, k_starts = cut.lattice.offsets, cut.lattice.offsets
            for span, blocks in zip(spans[1:], chosen, strict=True):
                q_starts = _sums(q_starts, [one.start * span.step for one in blocks])
                k_starts = _sums(k_starts, [one.k_start * span.step for one in blocks])
            examples = [blocks[0] for blocks in chosen]
            self._add_strips(spans, along, examples, q_starts, k_starts)

    def _add_strips(
        self,
        spans: tuple[Span, ...],
        along: tuple[Block, ...],
        across: list[Block],
        q_starts: Tensor,
        k_starts: Tensor,
    ) -> None:
        """Add strips that start at some tokens, each cut into equal blocks along the long span."""
        long = spans[0]
        rows = [range(long.start, long.stop), *(range(one.count) for one in across)]
        keys = [range(long.k_start, long.k_stop), *(range(one.k_count) for one in across)]
        steps = [span.step for span in spans]
        self.rows.append(_tokens(q_starts, rows, steps))
        self.keys.append(_tokens(k_starts, keys, steps))
        q_width = math.prod(one.count for one in across)
        k_width = math.prod(one.k_count for one in across)
        q_length, k_length = q_width * len(rows[0]), k_width * len(keys[0])
        strip = torch.arange(q_starts.numel(), device="cpu")
        for block in along:
            count, k_count = block.count * q_width, block.k_count * k_width
            q_first = self.q_count + strip * q_length + (block.start - long.start) * q_width
            k_first = self.k_count + strip * k_length + (block.k_start - long.k_start) * k_width
            for first in range(0, k_count, MAX_KEYS):
                some = min(MAX_KEYS, k_count - first)
                kind = self._kind(spans, (block, *across), first, some)
                each = [torch.full_like(strip, number) for number in (count, some, kind)]
                values = (q_first, each[0], k_first + first, *each[1:])
                for column, value in zip(self.columns, values, strict=True):
                    column.append(value)
        self.q_count += strip.numel() * q_length
        self.k_count += strip.numel() * k_length

    def _kind(
        self, spans: tuple[Span, ...], blocks: tuple[Block, ...], first: int, count: int
    ) -> int:
        """Return the kind of tiles that lie alike, with their mask made once."""
        sides = tuple((*one.form, span.radius) for span, one in zip(spans, blocks, strict=True))
        name = (sides, first)
        if name not in self.kinds:
            mask = torch.ones(1, 1, dtype=torch.bool, device="cpu")
            for rows, keys, shift, radius in sides:
                row = torch.arange(rows, device="cpu")[:, None] + shift
                near = (row - torch.arange(keys, device="cpu")).abs() <= radius
                mask = (mask[:, None, :, None] & near[None, :, None, :]).flatten(2).flatten(0, 1)
            mask = mask[:, first : first + count]
            self.kinds[name] = NO_MASK if bool(mask.all()) else len(self.masks)
            if not mask.all():
                self.masks.append(mask[None])
        return self.kinds[name]

    def finish(self, first: int, last: int, kv_len: int) -> tuple[Tiles, Tensor, Tensor, Tensor]:
        """Return the tiles, the tokens of rows and keys, and which tiles lack some of theirs.

        Args:
            first: Position of the first query.
            last: Position of the last query.
            kv_len: Number of keys.
        """
        order, listed = torch.cat(self.rows), torch.cat(self.keys)
        q_start, rows, k_start, keys, kind = (torch.cat(column) for column in self.columns)
        # Missing tokens are at the ends of a strip: of a tile, a stretch is left.
        asked = (order >= first) & (order <= last)
        before = torch.nn.functional.pad(asked.cumsum(0), (1, 0))
        given = torch.nn.functional.pad((listed < kv_len).cumsum(0), (1, 0))
        left, k_left = (
            before[q_start + rows] - before[q_start],
            given[k_start + keys] - given[k_start],
        )
        partial = (left < rows) | (k_left < keys)
        tiles = Tiles(before[q_start], left, k_start, k_left, kind, self.masks, 1)
        keep = (left > 0) & (k_left > 0)
        return select_tiles(tiles, keep), order[asked], listed.clamp(max=kv_len - 1), partial[keep]


def _by_form(blocks: tuple[Block, ...]) -> dict[tuple[int, int, int], list[Block]]:
    found = defaultdict(list)
    for one in blocks:
        found[one.form].append(one)
    return found


def _sums(starts: Tensor, more: list[int]) -> Tensor:
    return (starts[:, None] + torch.tensor(more, device="cpu")).flatten()


def _tokens(starts: Tensor, places: list[range], steps: list[int]) -> Tensor:
    """Return the tokens of all strips, one strip after the other, the long dimension slowest."""
    inner = torch.zeros(1, dtype=torch.int64, device="cpu")
    for some, step in zip(places, steps, strict=True):
        inner = _sums(inner, [place * step for place in some])
    return (starts[:, None] + inner).flatten()
