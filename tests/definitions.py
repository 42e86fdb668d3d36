"""What every pattern means, pair by pair in plain Python, written from the design's table alone.

Shares no code with the package: numbers that vary, the choice of a head's pattern and the random
draw are worked out here once more, so that a mistake there does not hide.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

import torch

import sparse_patterns as sp


@dataclass(frozen=True)
class Model:
    """Where a pair is looked at: which head and layer of how many, and what one example brings."""

    head: int
    heads: int
    kv_len: int
    layer: int = 0
    layers: int = 1
    global_tokens: Sequence[int] = ()
    segments: Sequence[int] = ()


def number(value: Any, at: Model) -> int:
    """Return the number of one head and layer."""
    kind = type(value).__name__
    if kind == "Listed":
        value = value.items[at.layer]
    elif kind == "Spread":
        value = value.items[int(Fraction(at.layer, at.layers) * len(value.items))]
    elif kind == "Steps":
        value = [item for item, count in value.points for _ in range(count)][at.layer]
    elif kind in ("Linear", "Geometric"):
        depth = Fraction(at.layer, at.layers - 1) if at.layers > 1 else Fraction(0)
        if kind == "Linear":
            value = round(value.start + depth * (value.stop - value.start))
        else:
            value = round(value.start ** float(1 - depth) * value.stop ** float(depth))
    return value[at.head] if isinstance(value, tuple) else value


def sees(pattern: sp.Pattern, i: int, j: int, at: Model) -> bool:
    """Return whether query `i` sees key `j`."""
    match pattern:
        case sp.Union(parts):
            return any(sees(part, i, j, at) for part in parts)
        case sp.Intersection(parts):
            return all(sees(part, i, j, at) for part in parts)
        case sp.Complement(part):
            return not sees(part, i, j, at)
        case sp.PerHead(parts, rest):
            if rest:
                one = parts[at.head] if at.head < len(parts) else parts[-1]
            else:
                one = parts[at.head // (at.heads // len(parts))]
            return sees(one, i, j, at)
        case sp.PerLayer(parts):
            return sees(parts[at.layer % len(parts)], i, j, at)
        case sp.Window(left, right, dilation):
            steps, between = divmod(j - i, number(dilation, at))
            return between == 0 and -number(left, at) <= steps <= number(right, at)
        case sp.GridWindow(shape, radius, dilation, prefix):
            return on_grid(shape, radius, dilation, i - prefix, j - prefix, at)
        case sp.Causal():
            return j <= i
        case sp.Full():
            return True
        case sp.Global(tokens, rows):
            places = [t if t >= 0 else t + at.kv_len for t in tokens]
            return j in places or (rows and i in places and 0 <= i < at.kv_len)
        case sp.BatchGlobal(rows):
            return j in at.global_tokens or (rows and i in at.global_tokens)
        case sp.Strided(stride):
            return (i - j) % stride == 0
        case sp.LocalBlock(size):
            return i // size == j // size
        case sp.Summary(size, columns):
            return j % size >= size - columns
        case sp.RandomBlocks(block):
            blocks = -(-at.kv_len // block)
            return j // block in drawn(pattern, at.layer, at.head, i // block, blocks)
        case sp.BlockTable(table, block):
            rows_of = table[at.head] if table and isinstance(table[0], tuple) else table
            row, column = i // block, j // block
            inside = 0 <= row < len(rows_of) and column < len(rows_of[row])
            return inside and rows_of[row][column] == "1"
        case sp.SameDocument():
            return 0 <= i < at.kv_len and at.segments[i] == at.segments[j]
        case sp.Rule(fn):
            return bool(fn(torch.tensor(i), torch.tensor(j), at.head))
    raise AssertionError(f"no definition of {pattern!r}")


def on_grid(shape: Any, radius: Any, dilation: Any, i: int, j: int, at: Model) -> bool:
    """Return whether place `i` of a row-major grid sees place `j`, both counted from its start."""
    places = list(itertools.product(*(range(side) for side in shape)))
    if not (0 <= i < len(places) and 0 <= j < len(places)):
        return False

    def of(value: Any, axis: int) -> int:
        # A schedule gives an int or one per dimension; a tuple may have schedules inside.
        return number(value[axis] if isinstance(value, tuple) else value, replace(at, head=axis))

    for axis, (a, b) in enumerate(zip(places[i], places[j], strict=True)):
        steps, between = divmod(b - a, of(dilation, axis))
        if between or abs(steps) > of(radius, axis):
            return False
    return True


_WORD = 2**64


def _mix(x: int) -> int:
    """The finaliser of SplitMix64, on unsigned integers."""
    x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9 % _WORD
    x = (x ^ x >> 27) * 0x94D049BB133111EB % _WORD
    return x ^ x >> 31


def drawn(pattern: sp.RandomBlocks, layer: int, head: int, row: int, blocks: int) -> list[int]:
    """Return the random key blocks of one row of blocks, in the order of the draw."""
    state = 0
    for word in (pattern.seed, layer, head):
        state = _mix((state + word + 0x632BE59BD9B4E019) % _WORD)
    state = _mix((state + row) % _WORD)
    left = list(range(blocks))
    chosen = []
    for step in range(1, min(pattern.per_row, blocks) + 1):
        high = _mix((state + step * 0x1E3779B97F4A7C15) % _WORD) >> 33
        chosen.append(left.pop(high * len(left) >> 31))
    return chosen
