"""Partials: what one call of a fused operator computes, as plain data.

A *family* is equal rectangles at equal distances in every example, which a strided view makes one
batch: the whole sequence for a window, one rectangle a residue for a dilated one. A *packed*
partial is rectangles of any sizes, one after the other, for operators that take lengths. The rows
of a partial are distinct, so that partials can be merged one at a time.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor

from sparse_patterns.lowering.fused.bands import (
    Band,
    Rectangle,
    cut_band,
    keeps_window,
    shared_band,
)
from sparse_patterns.lowering.fused.listed import ListedKeys
from sparse_patterns.lowering.fused.stripes import Stripe
from sparse_patterns.lowering.normal_form import UNLIMITED

MAX_SEGMENTS = 65535
"""Rectangles of one call, which CUDA counts in 16 bits."""


@dataclass(frozen=True)
class Placed:
    """A rectangle of every `step`-th query row and key.

    Attributes:
        first_row: The first query row.
        first_key: The first key.
        step: Distance between rows and between keys, in tokens.
        shape: The rectangle.
    """

    first_row: int
    first_key: int
    step: int
    shape: Rectangle

    @property
    def last_row(self) -> int:
        """The last query row."""
        return self.first_row + (self.shape.rows - 1) * self.step


@dataclass(frozen=True)
class Family:
    """Rectangles in every example: row `i` of rectangle `t` is `first_row + t * q_tile + i * step`.

    Attributes:
        count: Rectangles of one example.
        rows: Query rows of a rectangle.
        keys: Keys of a rectangle.
        first_row: First query row of the first rectangle.
        q_tile: Distance between rectangles, in query rows.
        first_key: First key of the first rectangle.
        k_tile: Distance between rectangles, in keys.
        step: Distance between adjacent rows, and between keys.
        band: The window.
    """

    count: int
    rows: int
    keys: int
    first_row: int
    q_tile: int
    first_key: int
    k_tile: int
    step: int
    band: Band


@dataclass(frozen=True, eq=False)
class Packed:
    """Rectangles one after the other, over the tokens of all examples in one line.

    Attributes:
        rows: int64 `(n,)`, distinct query rows of the line; None for all of them in order.
        keys: int64 `(m,)`, keys of the line; None for all of them in order.
        row_counts: Rows of each rectangle.
        key_counts: Keys of each, 0 where its rows see nothing.
        band: The window.
    """

    rows: Tensor | None
    keys: Tensor | None
    row_counts: tuple[int, ...]
    key_counts: tuple[int, ...]
    band: Band
    _on: dict[torch.device, tuple[Tensor | None, Tensor | None]] = field(default_factory=dict)

    def on(self, device: torch.device) -> tuple[Tensor | None, Tensor | None]:
        """Return rows and keys on a device, copied there once."""
        if device not in self._on:
            rows = None if self.rows is None else self.rows.to(device)
            self._on[device] = rows, None if self.keys is None else self.keys.to(device)
        return self._on[device]


Partial = Family | Packed


def place_stripe(
    stripe: Stripe, rows: tuple[int, int], keys: tuple[int, int], q_offset: int
) -> Iterator[Placed]:
    """Yield the rectangles of a stripe within some rows and keys, of different rows each.

    Args:
        stripe: The distances; blocks and documents are not looked at.
        rows: First query row and the one after the last.
        keys: First key and the one after the last.
        q_offset: Position of query row 0.
    """
    step = stripe.step
    low, high = -(-stripe.low // step), stripe.high // step
    for row in range(rows[0], min(rows[0] + step, rows[1])):
        key = keys[0] + (row + q_offset - keys[0]) % step
        tall, wide = -(-(rows[1] - row) // step), -(-(keys[1] - key) // step)
        for shape in cut_band(tall, max(0, wide), (row + q_offset - key) // step, low, high):
            first_row, first_key = row + shape.first_row * step, key + shape.first_key * step
            yield Placed(first_row, first_key, step, shape)


def to_families(placed: Iterable[Placed]) -> list[Family]:
    """Join rectangles of one shape at equal distances."""
    shapes: dict[tuple[int, ...], list[Placed]] = {}
    for one in placed:
        shape = one.shape
        sides = (shape.left, shape.right)
        shapes.setdefault((shape.rows, shape.keys, *sides, one.step), []).append(one)
    families = []
    for same in shapes.values():
        first = 0
        while first < len(same):
            stop = first + 1
            while stop < len(same) and _continues(same, first, stop):
                stop += 1
            families.append(_family(same[first:stop]))
            first = stop
    return families


def _family(same: list[Placed]) -> Family:
    one, shape = same[0], same[0].shape
    q_tile = same[1].first_row - one.first_row if len(same) > 1 else 0
    k_tile = same[1].first_key - one.first_key if len(same) > 1 else 0
    return Family(
        len(same),
        shape.rows,
        shape.keys,
        one.first_row,
        q_tile,
        one.first_key,
        k_tile,
        one.step,
        shape.band,
    )


def _continues(same: list[Placed], first: int, stop: int) -> bool:
    """Return whether a rectangle lies as far from the one before as those before it do."""
    shape, step = same[first].shape, same[first].step
    for name, size in (("first_row", shape.rows), ("first_key", shape.keys)):
        start = getattr(same[first], name)
        tile = getattr(same[first + 1], name) - start
        if getattr(same[stop], name) - getattr(same[stop - 1], name) != tile:
            return False
        # No row and no key twice, so that gradients can be added through one strided view.
        disjoint = tile > (size - 1) * step or (stop - first) * tile < step
        if tile <= 0 or not (disjoint or size == 1):
            return False
    return True


def pack_rectangles(
    placed: Iterable[tuple[int, Placed]], q_len: int, kv_len: int, batch: int
) -> list[Packed]:
    """Pack rectangles of given examples into as few calls as share a window and no row.

    Args:
        placed: Examples and their rectangles.
        q_len: Number of queries of an example.
        kv_len: Number of keys of an example.
        batch: Number of examples.
    """
    sides: dict[tuple[int, int], list[_Layer]] = {}
    for example, one in placed:
        far = UNLIMITED // 2
        layers = sides.setdefault((min(one.shape.left, far), min(one.shape.right, far)), [])
        layer = next((layer for layer in layers if layer.takes(example, one)), None)
        if layer is None:
            layer = _Layer()
            layers.append(layer)
        layer.add(example, one)
    packed: list[Packed] = []
    for layers in sides.values():
        for layer in layers:
            whole = keeps_window([one.shape for _, one in layer.placed])
            for some in [layer.placed] if whole else [[one] for one in layer.placed]:
                packed.extend(_pack(some, q_len, kv_len, batch))
    return packed


class _Layer:
    """Rectangles that have no row in common."""

    def __init__(self) -> None:
        self.placed: list[tuple[int, Placed]] = []
        self._of: dict[int, list[Placed]] = {}
        self._last: dict[int, int] = {}

    def takes(self, example: int, one: Placed) -> bool:
        if one.first_row > self._last.get(example, -1):
            return True
        return all(
            one.last_row < other.first_row
            or other.last_row < one.first_row
            or (one.step == other.step and (one.first_row - other.first_row) % one.step)
            for other in self._of[example]
        )

    def add(self, example: int, one: Placed) -> None:
        self.placed.append((example, one))
        self._of.setdefault(example, []).append(one)
        self._last[example] = max(one.last_row, self._last.get(example, -1))


def _pack(
    placed: list[tuple[int, Placed]], q_len: int, kv_len: int, batch: int
) -> Iterator[Packed]:
    band = shared_band([one.shape for _, one in placed])
    for first in range(0, len(placed), MAX_SEGMENTS):
        some = placed[first : first + MAX_SEGMENTS]
        rows = [(e * q_len + one.first_row, one.step, one.shape.rows) for e, one in some]
        keys = [(e * kv_len + one.first_key, one.step, one.shape.keys) for e, one in some]
        yield Packed(
            _index(rows, batch * q_len),
            _index(keys, batch * kv_len),
            tuple(count for _, _, count in rows),
            tuple(count for _, _, count in keys),
            band,
        )


def _index(spans: list[tuple[int, int, int]], length: int) -> Tensor | None:
    """Return the tokens of spans (start, step, count), None where they are all in order."""
    stop = 0
    for start, step, count in spans:
        if start != stop or (step != 1 and count > 1):
            break
        stop += count
    else:
        if stop == length:
            return None
    ranges = [
        torch.arange(start, start + step * count, step, device="cpu")
        for start, step, count in spans
    ]
    return torch.cat(ranges)


def pack_lists(
    listed: list[tuple[int, ListedKeys]], q_len: int, kv_len: int, batch: int
) -> list[Packed]:
    """Pack segments of rows with lists of keys, of given examples, into as few calls as possible.

    Args:
        listed: Examples and their segments.
        q_len: Number of queries of an example.
        kv_len: Number of keys of an example.
        batch: Number of examples.
    """
    if not listed:
        return []
    rows = torch.cat([one.rows + example * q_len for example, one in listed])
    keys = torch.cat([one.keys + example * kv_len for example, one in listed])
    row_counts = [count for _, one in listed for count in one.row_counts]
    key_counts = [count for _, one in listed for count in one.key_counts]
    packed = []
    row = key = 0
    for first in range(0, len(row_counts), MAX_SEGMENTS):
        some_rows = tuple(row_counts[first : first + MAX_SEGMENTS])
        some_keys = tuple(key_counts[first : first + MAX_SEGMENTS])
        if any(some_keys):
            own_rows = _unless_all(rows[row : row + sum(some_rows)], batch * q_len)
            own_keys = _unless_all(keys[key : key + sum(some_keys)], batch * kv_len)
            packed.append(Packed(own_rows, own_keys, some_rows, some_keys, Band(None, None)))
        row, key = row + sum(some_rows), key + sum(some_keys)
    return packed


def _unless_all(index: Tensor, length: int) -> Tensor | None:
    """Return None for an index of everything in order, which needs no gathering."""
    whole = index.numel() == length and torch.equal(index, torch.arange(length, device="cpu"))
    return None if whole else index
