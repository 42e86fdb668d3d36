"""Rows that a part lists, read and written as strided views where the list is regular.

The list of a window over a grid is made of boxes: equal stretches of neighbours at equal distances,
and those again. A box is copied by one strided view, several times faster than row by row; its
gradients are added by views, too, as many as its rows overlap.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from sparse_patterns.lowering.tiles.runs import PlanPart

FEW_ROWS = 64
"""Gathered gradients of up to this many rows are added row by row."""

ROWS_OF_BOX = 256
"""With fewer rows in a box, on average, a list is read row by row."""


@dataclass(frozen=True)
class Box:
    """A stretch of a list that is a lattice of rows.

    Attributes:
        at: Place of the first row in the list.
        start: The first row.
        sizes: Rows along each dimension, the fastest last.
        steps: Distance in rows along each dimension.
    """

    at: int
    start: int
    sizes: tuple[int, ...]
    steps: tuple[int, ...]

    @property
    def count(self) -> int:
        """The number of rows."""
        return math.prod(self.sizes)

    def listed(self, x: Tensor) -> Tensor:
        """View its part of `(heads, listed rows, ...)` as `(heads, *sizes, ...)`."""
        return x[:, self.at : self.at + self.count].unflatten(1, self.sizes)

    def rows(self, x: Tensor) -> Tensor:
        """View its rows of `(heads, rows, ...)` as `(heads, *sizes, ...)`."""
        step = x.stride(1)
        size = (x.shape[0], *self.sizes, *x.shape[2:])
        stride = (x.stride(0), *(step * by for by in self.steps), *x.stride()[2:])
        return x.as_strided(size, stride, x.storage_offset() + self.start * step)

    def between(self, first: int, stop: int) -> Iterator[Box]:
        """Yield boxes of what lies between two places of the list."""
        if first <= self.at and self.at + self.count <= stop:
            yield self
        elif first < self.at + self.count and self.at < stop:
            inner = self.count // self.sizes[0]
            low = max(0, first - self.at) // inner
            high = -(-min(self.count, stop - self.at) // inner)
            if len(self.sizes) == 1:
                yield self._slice(low, high)
                return
            whole_low = -(-max(0, first - self.at) // inner)
            whole_high = min(self.count, stop - self.at) // inner
            if low < whole_low:
                yield from self._inner(low).between(first, stop)
            if whole_low < whole_high:
                yield self._slice(whole_low, whole_high)
            if max(whole_low, whole_high) < high and (low >= whole_low or high - 1 > low):
                yield from self._inner(high - 1).between(first, stop)

    def of_tiles(self, first: int, stop: int) -> Box:
        """Return some along the first dimension, which stays."""
        inner = self.count // self.sizes[0]
        start = self.start + first * self.steps[0]
        return Box(self.at + first * inner, start, (stop - first, *self.sizes[1:]), self.steps)

    def _slice(self, low: int, high: int) -> Box:
        at = self.at + low * (self.count // self.sizes[0])
        start = self.start + low * self.steps[0]
        if high - low == 1 and len(self.sizes) > 1:
            return Box(at, start, self.sizes[1:], self.steps[1:])
        return Box(at, start, (high - low, *self.sizes[1:]), self.steps)

    def _inner(self, index: int) -> Box:
        return self._slice(index, index + 1)

    def apart(self) -> Iterator[Box]:
        """Yield boxes of the same rows in none of which a row comes twice."""
        reach = 0
        for size, step in zip(self.sizes[::-1], self.steps[::-1], strict=True):
            if step <= reach:
                break
            reach += (size - 1) * step
        else:
            yield self
            return
        for index in range(self.sizes[0]):
            yield from self._inner(index).apart()


@dataclass(frozen=True, eq=False)
class Listed:
    """Some rows in an order of their own.

    Attributes:
        index: int64 `(n,)`, the rows.
        boxes: What the list is made of; None where it is not regular.
    """

    index: Tensor
    boxes: tuple[Box, ...] | None

    @classmethod
    def of(cls, index: Tensor) -> Listed:
        """Return a list with its boxes."""
        return cls(index, _find(index))

    def stretch(self, first: int, stop: int) -> Listed:
        """Return the list from one place up to another."""
        if (first, stop) == (0, self.index.numel()):
            return self
        boxes = None
        if self.boxes is not None:
            cut = (part for box in self.boxes for part in box.between(first, stop))
            boxes = tuple(replace(box, at=box.at - first) for box in cut)
        return Listed(self.index[first:stop], boxes)

    def tiles(self, start: int, tiles: int, rows: int, step: int) -> Box | None:
        """Return where equal tiles of neighbours in the list are, the tiles as first dimension.

        Args:
            start: Place of the first row in the list.
            tiles: Number of tiles.
            rows: Rows of a tile.
            step: Distance between tiles in the list.

        Returns:
            The rows of all tiles; None where these are not alike, or follow each other backwards.
        """
        boxes = None if self.boxes is None else self.stretch(start, start + rows).boxes
        if boxes is None or len(boxes) != 1:
            return None
        places = start + torch.arange(tiles, device="cpu")[:, None] * step
        index = self.index[places + torch.arange(rows, device="cpu")]
        by = int(index[1, 0] - index[0, 0]) if tiles > 1 else 0
        if by < 0 or bool((index.diff(dim=0) != by).any()):
            return None
        (box,) = boxes
        return Box(start, box.start, (tiles, *box.sizes), (by, *box.steps))

    def gather(self, x: Tensor, out: Tensor | None = None) -> Tensor:
        """Return the rows of `x`, `(heads, rows, ...)`, in `out` or a new tensor."""
        if out is None:
            out = x.new_empty(x.shape[0], self.index.numel(), *x.shape[2:])
        if self.boxes is None:
            return torch.index_select(x, 1, self.index.to(x.device), out=out)
        for box in self.boxes:
            box.listed(out).copy_(box.rows(x))
        return out

    def put(self, total: Tensor, found: Tensor) -> None:
        """Write `found`, `(heads, n, ...)`, to the rows of `total`; none is listed twice."""
        if self.boxes is None:
            total.index_copy_(1, self.index.to(total.device), found)
            return
        for box in self.boxes:
            box.rows(total).copy_(box.listed(found))

    def add(self, total: Tensor, found: Tensor) -> None:
        """Add `found`, `(heads, n, D)`, to the rows of `total`, some of them possibly repeated."""
        if self.boxes is not None:
            for box in self.boxes:
                for one in box.apart():
                    one.rows(total).add_(one.listed(found))
            return
        index = self.index.to(total.device)
        if index.numel() <= FEW_ROWS:
            total.index_add_(1, index, found)
            return
        # The backward of an embedding look-up: adds rows in parallel, unlike index_add_ on a CPU.
        add = torch.ops.aten.embedding_dense_backward
        for own, some in zip(total, found, strict=True):
            own.add_(add(some, index, total.shape[1], -1, False))


_made: WeakKeyDictionary[PlanPart, tuple[Listed | None, Listed | None]] = WeakKeyDictionary()


def lists_of(part: PlanPart) -> tuple[Listed | None, Listed | None]:
    """Return what the runs of a part index as queries and as keys; None where that is all rows."""
    if part not in _made:
        lists = (part.order, part.keys)
        _made[part] = tuple(None if x is None else Listed.of(x) for x in lists)  # type: ignore[assignment]
    return _made[part]


def gathered(x: Tensor, listed: Listed | None, out: Tensor | None = None) -> Tensor:
    """Return the rows of a list, `x` itself where there is none."""
    return x if listed is None else listed.gather(x, out)


def _find(listed: Tensor) -> tuple[Box, ...] | None:
    count = listed.numel()
    if count < ROWS_OF_BOX:
        return None
    breaks = (listed.diff() != 1).nonzero().flatten() + 1
    if (breaks.numel() + 1) * 8 > count:
        return None
    first = torch.nn.functional.pad(breaks, (1, 0)).tolist()
    starts, stops = listed[first].tolist(), [*first[1:], count]
    boxes = [
        Box(at, start, (stop - at,), (1,))
        for at, start, stop in zip(first, starts, stops, strict=True)
    ]
    joined = _join(boxes)
    while len(joined) < len(boxes):
        boxes, joined = joined, _join(joined)
    return tuple(boxes) if len(boxes) * ROWS_OF_BOX <= count else None


def _join(boxes: list[Box]) -> list[Box]:
    """Join equal boxes that follow each other at equal distances."""
    found: list[Box] = []
    first = 0
    while first < len(boxes):
        one, stop = boxes[first], first + 1
        while stop < len(boxes) and _alike(one, boxes[stop]):
            step = boxes[first + 1].start - one.start
            if step <= 0 or boxes[stop].start - boxes[stop - 1].start != step:
                break
            stop += 1
        if stop - first > 1:
            step = boxes[first + 1].start - one.start
            one = Box(one.at, one.start, (stop - first, *one.sizes), (step, *one.steps))
        found.append(one)
        first = stop
    return found


def _alike(one: Box, other: Box) -> bool:
    return one.sizes == other.sizes and one.steps == other.steps
