"""A pattern in the coordinates of a piece of the keys, so that any kernel can run the piece.

A kernel counts keys from 0. For keys `start .. stop - 1` of a sequence the pattern is written so
that its pair `(i - start, j - start)` is visible where `(i, j)` was. Distances stay what they are;
positions and tables are moved; blocks stay whole because pieces start at an edge of a block.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from sparse_patterns.spec.atoms import (
    BatchGlobal,
    BlockTable,
    Global,
    LocalBlock,
    RandomBlocks,
    Rule,
    SameDocument,
    Summary,
)
from sparse_patterns.spec.base import Complement, Full, Pattern, uses
from sparse_patterns.spec.binding import BoundRandomBlocks
from sparse_patterns.spec.block_layouts import draw
from sparse_patterns.spec.grids import GridWindow

CACHE_SIZE = 256
"""Relocated patterns kept; the one not used for longest goes first."""


@dataclass(frozen=True)
class MovedRule:
    """The function of a `Rule`, given positions that are counted from `start`."""

    fn: Callable[..., Any]
    start: int

    def __call__(self, q: Tensor, k: Tensor, head: int) -> Any:
        """Ask the rule about positions of the whole sequence."""
        return self.fn(q + self.start, k + self.start, head)


@dataclass(frozen=True)
class MovedGrid:
    """A window over a grid that begins inside of a row, given positions counted from `start`."""

    window: GridWindow
    start: int

    def __call__(self, q: Tensor, k: Tensor, head: int) -> Tensor:
        """Ask the window about positions of the whole sequence."""
        return self.window.sees(q + self.start, k + self.start)


def alignment(pattern: Pattern) -> int:
    """Return what the first position of a piece must be a multiple of."""
    sizes = [1]
    for atom in pattern.walk():
        if isinstance(atom, LocalBlock | Summary):
            sizes.append(atom.size)
        elif isinstance(atom, RandomBlocks | BlockTable):
            sizes.append(atom.block)
        elif isinstance(atom, GridWindow):
            sizes.append(atom.strides[0])
    return math.lcm(*sizes)


def keeps_rows_apart(pattern: Pattern) -> bool:
    """Return whether rows outside of the keys of a piece are served too, by distance alone."""
    if uses(pattern, SameDocument, BlockTable, RandomBlocks, GridWindow):
        return False
    inverted = (
        atom for part in pattern.walk() if isinstance(part, Complement) for atom in part.walk()
    )
    return not any(isinstance(atom, Global | BatchGlobal) and atom.rows for atom in inverted)


@lru_cache(maxsize=CACHE_SIZE)
def relocate(
    pattern: Pattern, start: int, stop: int, length: int, heads: int, layer: int, layers: int
) -> Pattern:
    """Return a pattern for the keys `start .. stop - 1`, without the rows of global tokens.

    Args:
        pattern: Any pattern.
        start: First key; a multiple of `alignment(pattern)`.
        stop: Position after the last key.
        length: Tokens of the whole sequence.
        heads: Number of query heads.
        layer: The layer, which random blocks and grids depend on.
        layers: Number of layers.
    """

    def atom_of(atom: Pattern, sign: bool) -> Pattern:
        if isinstance(atom, Global):
            tokens = [token - start for token in atom.positions(length) if start <= token < stop]
            return Global(tuple(tokens), rows=atom.rows and not sign)
        if isinstance(atom, BatchGlobal):
            return BatchGlobal(rows=atom.rows and not sign)
        if isinstance(atom, Rule):
            return Rule(MovedRule(atom.fn, start), atom.name) if start else atom
        if isinstance(atom, RandomBlocks):
            return _drawn(atom, start, stop, length, heads, layer)
        if isinstance(atom, BlockTable) and start:
            return _cut(atom, start)
        if isinstance(atom, GridWindow) and start:
            return _without_rows(atom, start, layer, layers)
        return atom

    def moved(part: Pattern, sign: bool) -> Pattern:
        children = part.children()
        if not children:
            return atom_of(part, sign)
        sign = sign != isinstance(part, Complement)
        return part.with_children([moved(child, sign) for child in children])

    return moved(pattern, True)


def _cut(atom: BlockTable, start: int) -> BlockTable:
    """Return the layout without the blocks before a position."""
    first = start // atom.block

    def rest(rows: tuple[str, ...]) -> list[str]:
        return [row[first:] for row in rows[first:]]

    table: Any = [rest(head) for head in atom.table] if atom.per_head else rest(atom.table)
    return BlockTable(table, atom.block)


def _without_rows(atom: GridWindow, start: int, layer: int, layers: int) -> Pattern:
    """Return the window over the rows of the grid from a position on.

    Where that lies inside of a row, the window becomes a rule, which is asked about every pair.
    """
    if start <= atom.prefix:
        return GridWindow(atom.shape, atom.radius, atom.dilation, atom.prefix - start)
    rows, inside = divmod(start - atom.prefix, atom.strides[0])
    if start >= atom.stop:
        return Complement(Full())
    if inside:
        return Rule(MovedGrid(atom.at_layer(layer, layers), start), "grid")
    return GridWindow((atom.shape[0] - rows, *atom.shape[1:]), atom.radius, atom.dilation)


def _drawn(
    atom: RandomBlocks, start: int, stop: int, length: int, heads: int, layer: int
) -> BlockTable:
    """Return the random blocks of a piece as a table of each head."""
    first, last = start // atom.block, -(-stop // atom.block)
    columns = -(-length // atom.block)
    rows = torch.arange(first, last, device="cpu")
    tables = []
    for head in range(heads):
        one = BoundRandomBlocks(atom.block, atom.per_row, atom.seed, layer, head)
        seen = torch.zeros(rows.numel(), columns, dtype=torch.bool, device="cpu")
        seen.scatter_(1, draw(one, rows, columns), True)
        tables.append(seen[:, first:last].tolist())
    return BlockTable(tables, atom.block)
