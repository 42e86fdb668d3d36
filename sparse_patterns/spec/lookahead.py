"""What later queries can still see: conservative rules, atom by atom.

A rolling cache asks three things of a bound pattern: does a query see keys after itself, does the
answer depend on anything but the two positions, and which keys can be dropped. The rules may err on
one side only: a key that is said to be out of reach is never visible to any later query.
"""

from __future__ import annotations

import math
from functools import singledispatch

import torch
from torch import Tensor

from sparse_patterns.spec import atoms
from sparse_patterns.spec.base import (
    Complement,
    Full,
    Intersection,
    Pattern,
    Union,
    complement,
    intersection,
    union,
)
from sparse_patterns.spec.grids import GridWindow


def negation_normal_form(pattern: Pattern, inverted: bool = False) -> Pattern:
    """Return the same pattern with complements of atoms only (by De Morgan's laws).

    Args:
        pattern: A bound pattern (see `binding.bind`).
        inverted: Whether to return the complement instead.
    """
    if isinstance(pattern, Complement):
        return negation_normal_form(pattern.part, not inverted)
    if isinstance(pattern, Union | Intersection):
        join = intersection if isinstance(pattern, Union) == inverted else union
        return join(*(negation_normal_form(part, inverted) for part in pattern.parts))
    return complement(pattern) if inverted else pattern


@singledispatch
def furthest_ahead(pattern: Pattern) -> float:
    """Return a bound on how far after a query its keys lie: `key - query` is never larger.

    Args:
        pattern: A bound pattern in negation normal form.

    Returns:
        Tokens; 0 or less for a causal pattern, infinity where nothing is known.
    """
    return math.inf


@furthest_ahead.register
def _(pattern: atoms.Window) -> float:
    return pattern.right * pattern.dilation


@furthest_ahead.register
def _(pattern: GridWindow) -> float:
    return pattern.reach


@furthest_ahead.register
def _(pattern: atoms.Causal) -> float:
    return 0


@furthest_ahead.register
def _(pattern: atoms.Global) -> float:
    return math.inf if pattern.rows else max(pattern.tokens, default=-math.inf)


@furthest_ahead.register
def _(pattern: atoms.LocalBlock) -> float:
    return pattern.size - 1


@furthest_ahead.register
def _(pattern: atoms.BlockTable) -> float:
    last = ((row, bits.rfind("1")) for row, bits in enumerate(pattern.table))
    steps = (column - row + 1 for row, column in last if column >= 0)
    return max((step * pattern.block - 1 for step in steps), default=-math.inf)


@furthest_ahead.register
def _(pattern: Union) -> float:
    return max(furthest_ahead(part) for part in pattern.parts)


@furthest_ahead.register
def _(pattern: Intersection) -> float:
    return min(furthest_ahead(part) for part in pattern.parts)


@furthest_ahead.register
def _(pattern: Complement) -> float:
    return -math.inf if pattern.part == Full() else math.inf


def look_ahead(pattern: Pattern) -> Pattern | None:
    """Return the part of a pattern that may see later keys; None if it is causal.

    Args:
        pattern: A bound pattern in negation normal form.
    """
    if furthest_ahead(pattern) <= 0:
        return None
    if isinstance(pattern, Union):
        return next(part for part in map(look_ahead, pattern.parts) if part is not None)
    return pattern


def call_time_parts(pattern: Pattern) -> list[tuple[Pattern, str]]:
    """Return the atoms whose pairs depend on more than the two positions, and on what."""
    found: list[tuple[Pattern, str]] = []
    for atom in pattern.walk():
        if isinstance(atom, atoms.Global) and any(token < 0 for token in atom.tokens):
            found.append((atom, "the final length: negative tokens count from the end"))
        elif isinstance(atom, atoms.RandomBlocks):
            found.append((atom, "the final length: the draw is among all key blocks"))
        elif isinstance(atom, atoms.BatchGlobal):
            found.append((atom, "a global_mask given at call time"))
        elif isinstance(atom, atoms.SameDocument):
            found.append((atom, "segment_ids given at call time"))
    return found


@singledispatch
def still_visible(pattern: Pattern, k: Tensor, now: int) -> Tensor:
    """Return False for the keys that no query at position `now` or later sees.

    Args:
        pattern: A bound pattern in negation normal form, without `call_time_parts`.
        k: int64 key positions, of any shape.
        now: Position of the next query.

    Returns:
        bool, shaped like `k`. True may be wrong, False never is.
    """
    return torch.ones_like(k, dtype=torch.bool)


@still_visible.register
def _(pattern: atoms.Window, k: Tensor, now: int) -> Tensor:
    return k >= now - pattern.left * pattern.dilation


@still_visible.register
def _(pattern: GridWindow, k: Tensor, now: int) -> Tensor:
    on_grid = (k >= pattern.prefix) & (k < pattern.stop)
    return on_grid & (k >= now - pattern.reach) & (now < pattern.stop)


@still_visible.register
def _(pattern: atoms.Global, k: Tensor, now: int) -> Tensor:
    if pattern.rows and any(token >= now for token in pattern.tokens):
        return torch.ones_like(k, dtype=torch.bool)
    return torch.isin(k, k.new_tensor(pattern.tokens))


@still_visible.register
def _(pattern: atoms.LocalBlock, k: Tensor, now: int) -> Tensor:
    return k // pattern.size >= now // pattern.size


@still_visible.register
def _(pattern: atoms.Summary, k: Tensor, now: int) -> Tensor:
    return k % pattern.size >= pattern.size - pattern.columns


@still_visible.register
def _(pattern: atoms.BlockTable, k: Tensor, now: int) -> Tensor:
    later = pattern.table[now // pattern.block :]
    columns = [column for column, bits in enumerate(zip(*later, strict=True)) if "1" in bits]
    return torch.isin(k // pattern.block, k.new_tensor(columns))


@still_visible.register
def _(pattern: Union, k: Tensor, now: int) -> Tensor:
    seen = still_visible(pattern.parts[0], k, now)
    for part in pattern.parts[1:]:
        seen = seen | still_visible(part, k, now)
    return seen


@still_visible.register
def _(pattern: Intersection, k: Tensor, now: int) -> Tensor:
    seen = still_visible(pattern.parts[0], k, now)
    for part in pattern.parts[1:]:
        seen = seen & still_visible(part, k, now)
    return seen


@still_visible.register
def _(pattern: Complement, k: Tensor, now: int) -> Tensor:
    atom = pattern.part
    if isinstance(atom, atoms.Causal):
        return k > now
    if isinstance(atom, atoms.Global | atoms.Summary):
        # Both name whole columns, so that their complement leaves these columns out for every query
        # (rows of global tokens only leave out more).
        columns = atoms.Global(atom.tokens, rows=False) if isinstance(atom, atoms.Global) else atom
        return ~still_visible(columns, k, now)
    nothing = atom == Full() or atom == atoms.Strided(1)
    return torch.full_like(k, not nothing, dtype=torch.bool)
