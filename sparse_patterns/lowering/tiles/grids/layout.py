"""How a grid of tokens is cut into tiles: blocks of places, in strips along one dimension.

A tile is a block of the grid as queries, and the block grown by the radius as keys. The keys of the
blocks that follow each other along one dimension, the *long* one, overlap: a strip lists them once,
and its tiles are stretches of the list. Places a dilation apart are grids of their own.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from sparse_patterns.lowering.tiles.tiles import RUN_PAIRS
from sparse_patterns.spec.grids import GridWindow

LISTED_PAIRS = 16
"""Pairs that are computed in the time that one more listed key costs, most of it its gradient."""

WIDE_TILES, ROW_PAIRS = 0.75, 24.0
"""Cost of a pair in tiles of `n` rows, as measured: the first number, and the second by `n`."""

MOST_ROWS = 64
"""Rows of a tile: in larger ones the scores leave the processor's caches sooner."""

MOST_BLOCKS = 1 << 15
"""Blocks along one dimension."""


@dataclass(frozen=True)
class Block:
    """A block along one dimension, in steps of the dilation.

    Attributes:
        start: First query place.
        count: Query places.
        k_start: First key place.
        k_count: Key places.
    """

    start: int
    count: int
    k_start: int
    k_count: int

    @property
    def form(self) -> tuple[int, int, int]:
        """What blocks with equal masks have in common."""
        return self.count, self.k_count, self.start - self.k_start


@dataclass(frozen=True)
class Span:
    """The places along one dimension that have queries, and the keys that these may see.

    Attributes:
        start: First query place.
        stop: The one after the last.
        k_start: First key place.
        k_stop: The one after the last.
        radius: Steps to either side.
        step: Distance in tokens between places.
    """

    start: int
    stop: int
    k_start: int
    k_stop: int
    radius: int
    step: int

    def blocks(self, size: int) -> list[Block]:
        """Cut the queries into blocks of a size, but for those that see no key."""
        found = []
        for start in range(self.start, self.stop, size):
            stop = min(start + size, self.stop)
            k_start = max(self.k_start, start - self.radius)
            k_stop = min(self.k_stop, stop + self.radius)
            if k_start < k_stop:
                found.append(Block(start, stop - start, k_start, k_stop - k_start))
        return found

    @property
    def sizes(self) -> list[int]:
        """Sizes of blocks to choose from: powers of two and the whole, where that is small."""
        whole = self.stop - self.start
        if whole <= MOST_ROWS:
            return [*(1 << n for n in range(6) if 1 << n < whole), whole]
        return [1 << n for n in range(7) if whole <= MOST_BLOCKS << n] or [MOST_ROWS]


@dataclass(frozen=True)
class Lattice:
    """The places of a grid that may see each other; equal ones are taken together.

    Attributes:
        offsets: int64 `(n,)`, the token of place 0 of each.
        spans: One for each dimension, the long one first.
    """

    offsets: Tensor
    spans: tuple[Span, ...]


@dataclass(frozen=True)
class Cut:
    """Equal lattices, cut into blocks: `blocks[axis]` are those along one dimension."""

    lattice: Lattice
    blocks: tuple[tuple[Block, ...], ...]


def cut_grid(grid: GridWindow, first: int, last: int, kv_len: int) -> list[Cut]:
    """Return the blocks of a grid, cut so that the tiles made of them cost least.

    Args:
        grid: A bound window.
        first: Position of the first query.
        last: Position of the last query.
        kv_len: Number of keys.
    """
    plane = grid.strides[0]
    first, last = max(first, grid.prefix), min(last, grid.stop - 1)
    keys = min(kv_len, grid.stop) - grid.prefix
    if first > last or keys <= 0:
        return []
    # Along the first dimension, tokens of a strip ascend: those that are missing from a row or
    # plane are then at the ends.
    whole = not any(at % plane for at in (first - grid.prefix, last + 1 - grid.prefix, keys))
    options = []
    for long in range(len(grid.shape)) if whole else (0,):
        found = [
            (one, *_choose(one.spans, one.offsets.numel()))
            for one in _lattices(grid, first - grid.prefix, last - grid.prefix, keys, long)
        ]
        cuts = [
            Cut(one, tuple(tuple(s.blocks(n)) for s, n in zip(one.spans, sizes, strict=True)))
            for one, _, sizes in found
        ]
        options.append((sum(cost for _, cost, _ in found), cuts))
    return min(options, key=lambda option: option[0])[1]


def _lattices(grid: GridWindow, first: int, last: int, keys: int, long: int) -> Iterator[Lattice]:
    """Yield the lattices of a grid: those of equal sizes together.

    Args:
        grid: A bound window.
        first: First query, counted from the start of the grid.
        last: Last query.
        keys: Keys on the grid.
        long: The long dimension.
    """
    plane = grid.strides[0]
    # Only the first dimension is cut: the rows or planes that have queries, or keys.
    limits = [
        (first // plane, last // plane, (keys - 1) // plane),
        *((0, side - 1, side - 1) for side in grid.shape[1:]),
    ]
    options = []
    for axis, (low, high, k_high) in enumerate(limits):
        by, stride, radius = grid.dilation[axis], grid.strides[axis], grid.radius[axis]
        alike: dict[Span, list[int]] = {}
        for residue in range(min(by, grid.shape[axis])):
            start, stop = max(0, -((residue - low) // by)), (high - residue) // by + 1
            k_start, k_stop = max(0, start - radius), (k_high - residue) // by + 1
            k_stop = min(k_stop, stop + radius)
            if start < stop and k_start < k_stop:
                span = Span(start, stop, k_start, k_stop, radius, by * stride)
                alike.setdefault(span, []).append(residue * stride)
        options.append(list(alike.items()))
    order = [long, *(axis for axis in range(len(limits)) if axis != long)]
    for chosen in itertools.product(*options):
        offsets = torch.tensor([grid.prefix], device="cpu")
        for _, starts in chosen:
            offsets = (offsets[:, None] + torch.tensor(starts, device="cpu")).flatten()
        yield Lattice(offsets, tuple(chosen[axis][0] for axis in order))


def _choose(spans: tuple[Span, ...], count: int) -> tuple[float, tuple[int, ...]]:
    """Return what the cheapest sizes of blocks cost, in pairs, and these sizes.

    Small tiles are slow, large ones compute pairs that nobody sees, and every strip lists its keys.

    Args:
        spans: One for each dimension, the long one first.
        count: Number of lattices.
    """
    cuts = [[(size, *_figures(span, size)) for size in span.sizes] for span in spans]
    best: tuple[float, tuple[int, ...]] | None = None
    for chosen in itertools.product(*cuts):
        sizes, numbers, forms, pairs, keys = zip(*chosen, strict=True)
        rows = math.prod(sizes)
        if rows > MOST_ROWS:
            continue
        computed = count * math.prod(pairs) * (WIDE_TILES + ROW_PAIRS / rows)
        strips = math.prod(numbers[1:])
        listed = count * (spans[0].k_stop - spans[0].k_start) * math.prod(keys[1:])
        runs = min(strips * forms[0], math.prod(forms[1:]) * numbers[0])
        cost = computed + LISTED_PAIRS * listed * (strips > 1) + RUN_PAIRS * runs
        if best is None or cost < best[0]:
            best = cost, sizes
    assert best is not None
    return best


def _figures(span: Span, size: int) -> tuple[int, int, int, int]:
    """Return the numbers of blocks, forms, pairs and keys of a cut along one dimension."""
    start = torch.arange(span.start, span.stop, size, device="cpu")
    stop = (start + size).clamp(max=span.stop)
    k_start = (start - span.radius).clamp(min=span.k_start)
    keys = ((stop + span.radius).clamp(max=span.k_stop) - k_start).clamp(min=0)
    forms = torch.stack([stop - start, keys, start - k_start])
    return (
        start.numel(),
        torch.unique(forms, dim=1).shape[1],
        int(((stop - start) * keys).sum()),
        int(keys.sum()),
    )
