"""Which keys the rows of each process can see: pure arithmetic on a pattern and on lengths.

A sequence is cut into stretches, one for each process ("rank") of a group. What the rows of a
stretch can see is bounded in three ways:

- `near`: one interval around the stretch, from windows and blocks. These keys travel as a whole and
  are computed together with the stretch's own.
- `columns`: single keys outside of it that every row may see, as summaries; and global tokens,
  which are few and are given to all ranks.
- `far`: an interval that nothing but the order of tokens bounds. Its keys come one stretch at a
  time, so that they are never held all at once.

The rows of global tokens are no part of this: every rank computes them on its own keys.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

import torch
from torch import Tensor

from sparse_patterns.distributed.relocation import alignment
from sparse_patterns.lowering.normal_form import (
    UNLIMITED,
    Conjunct,
    has_batch_rows,
    row_tokens,
    to_conjuncts,
)
from sparse_patterns.spec.atoms import BatchGlobal, Global
from sparse_patterns.spec.base import Pattern
from sparse_patterns.spec.binding import bind

CACHE_SIZE = 64
"""Layouts kept; the one not used for longest goes first."""

Interval = tuple[int, int]
"""First position, and the position after the last."""

EMPTY: Interval = (0, 0)


def overlap(a: Interval, b: Interval) -> Interval:
    """Return the positions in both intervals."""
    start, stop = max(a[0], b[0]), min(a[1], b[1])
    return (start, stop) if start < stop else EMPTY


def outside(a: Interval, b: Interval) -> Interval:
    """Return the positions of `a` that are not in `b`, which does not lie inside of `a`."""
    common = overlap(a, b)
    if common == EMPTY:
        return a
    if common == a:
        return EMPTY
    assert common[0] == a[0] or common[1] == a[1], "the rest is no interval"
    return (common[1], a[1]) if common[0] == a[0] else (a[0], common[0])


@dataclass(frozen=True, eq=False)
class Reach:
    """What the rows of one stretch can see.

    Attributes:
        near: The keys computed together, the stretch's own among them.
        far: Keys of unbounded reach, besides `near`.
        marked: Where keys marked by `global_mask` are visible.
        columns: int64, sorted: single keys outside of `near` and `far`.
        tokens: int64, sorted: global tokens known from the pattern, likewise.
    """

    near: Interval
    far: Interval
    marked: Interval
    columns: Tensor
    tokens: Tensor

    def far_in(self, stretch: Interval) -> Interval:
        """Return the far keys of another rank's stretch."""
        found = overlap(self.far, stretch)
        return found if found == EMPTY else outside(found, self.near)

    def columns_in(self, stretch: Interval) -> Tensor:
        """Return the columns of another rank's stretch."""
        return _between(self.columns, stretch)


@dataclass(frozen=True, eq=False)
class Group:
    """Heads with one pattern.

    Attributes:
        heads: Indices of the query heads.
        pattern: Their bound pattern.
        row_tokens: Fixed tokens whose rows are computed on all ranks.
        batch_rows: Whether the rows of marked tokens are computed likewise.
    """

    heads: tuple[int, ...]
    pattern: Pattern
    row_tokens: tuple[int, ...]
    batch_rows: bool

    @cached_property
    def conjuncts(self) -> list[Conjunct]:
        """The normal form of the pattern."""
        return to_conjuncts(self.pattern)


def groups_of(
    pattern: Pattern, heads: int, layer: int, layers: int, length: int
) -> tuple[Group, ...]:
    """Return the groups of heads of a layer, for a sequence of a length."""
    members: dict[Pattern, list[int]] = {}
    for head, one in enumerate(bind(pattern, heads=heads, layer=layer, layers=layers)):
        members.setdefault(one, []).append(head)
    return tuple(
        Group(tuple(own), one, row_tokens(one, length), has_batch_rows(one))
        for one, own in members.items()
    )


def is_near(conjunct: Conjunct) -> bool:
    """Return whether the distance from a query to the keys that it sees is bounded."""
    return bool(conjunct.blocks) or max(conjunct.left, conjunct.right) < UNLIMITED


@lru_cache(maxsize=CACHE_SIZE)
def has_parts(pattern: Pattern, heads: int, layer: int, layers: int) -> bool:
    """Return whether results of several sets of keys are merged; known before the lengths are."""
    groups = groups_of(pattern, heads, layer, layers, 1)
    near = all(is_near(one) for group in groups for one in group.conjuncts)
    return not near or has_rows(pattern, heads, layer, layers)


def has_rows(pattern: Pattern, heads: int, layer: int, layers: int) -> bool:
    """Return whether the pattern names rows of global tokens."""
    bound = bind(pattern, heads=heads, layer=layer, layers=layers)
    return any(
        isinstance(atom, Global | BatchGlobal) and atom.rows for one in bound for atom in one.walk()
    )


class Layout:
    """A sequence over the ranks of a group, for one layer of a pattern.

    Attributes:
        pattern: The pattern, not bound.
        starts: Where each stretch starts, and at the end the length of the sequence.
        groups: Heads with one pattern.
        served: Calls with a named kernel that were found to be possible on all ranks.
    """

    def __init__(
        self, pattern: Pattern, heads: int, layer: int, layers: int, lengths: Sequence[int]
    ) -> None:
        self.pattern = pattern
        self.starts = [0]
        for one in lengths:
            self.starts.append(self.starts[-1] + one)
        self.groups = groups_of(pattern, heads, layer, layers, self.length)
        self.served: set[object] = set()
        self._align = alignment(pattern)
        self._reaches: dict[int, Reach] = {}
        self._fixed: dict[int, Tensor] = {}

    @property
    def length(self) -> int:
        """Tokens of the whole sequence."""
        return self.starts[-1]

    @property
    def ranks(self) -> int:
        """Number of processes."""
        return len(self.starts) - 1

    def stretch(self, rank: int) -> Interval:
        """Return the positions of a rank."""
        return self.starts[rank], self.starts[rank + 1]

    def rank_of(self, position: int) -> int:
        """Return the rank that holds a position."""
        return bisect_left(self.starts, position + 1) - 1

    @cached_property
    def row_tokens(self) -> tuple[int, ...]:
        """Fixed tokens that are rows of their own for some head, sorted."""
        return tuple(sorted({token for group in self.groups for token in group.row_tokens}))

    @cached_property
    def batch_rows(self) -> bool:
        """Whether marked tokens are rows of their own for some head."""
        return any(group.batch_rows for group in self.groups)

    @cached_property
    def is_far(self) -> bool:
        """Whether some rank sees far keys, which travel one stretch at a time."""
        return any(self.reach(rank).far != EMPTY for rank in range(self.ranks))

    @cached_property
    def shared(self) -> Tensor:
        """Global tokens that rows of other ranks see: int64, sorted. All ranks are given them."""
        return torch.unique(torch.cat([self.reach(rank).tokens for rank in range(self.ranks)]))

    @cached_property
    def marked(self) -> Interval:
        """Where keys marked by `global_mask` are visible to rows of some rank."""
        found = EMPTY
        for rank in range(self.ranks):
            found = _hull(found, self.reach(rank).marked)
        return found

    def reach(self, rank: int) -> Reach:
        """Return what the rows of a rank can see."""
        if rank not in self._reaches:
            self._reaches[rank] = self._reach(rank)
        return self._reaches[rank]

    def columns_of(self, receiver: int, owner: int) -> Tensor:
        """Return the single keys of an owner that a receiver needs, but no shared ones."""
        found = self.reach(receiver).columns_in(self.stretch(owner))
        if not found.numel() or not self.shared.numel():
            return found
        return found[~torch.isin(found, self.shared)]

    def _reach(self, rank: int) -> Reach:
        start, stop = self.stretch(rank)
        nothing = torch.empty(0, dtype=torch.int64, device="cpu")
        if start == stop:
            return Reach(EMPTY, EMPTY, EMPTY, nothing, nothing)
        near, far, marked = (start, stop), EMPTY, EMPTY
        columns, tokens = [nothing], [nothing]
        for number, conjunct in enumerate(one for group in self.groups for one in group.conjuncts):
            seen = self._bounds[number][rank]
            if seen[0] >= seen[1]:
                continue
            if is_near(conjunct):
                near = _hull(near, seen)
            elif conjunct.columns:
                few = any(isinstance(atom, Global) for atom in conjunct.columns)
                (tokens if few else columns).append(_between(self._keys(number, conjunct), seen))
            elif conjunct.batch:
                marked = _hull(marked, seen)
            else:
                far = _hull(far, seen)
        near = (near[0] // self._align * self._align, near[1])
        return Reach(near, far, marked, *(_joined(one, near, far) for one in (columns, tokens)))

    @cached_property
    def _bounds(self) -> list[list[Interval]]:
        """The keys between the first and the last that a rank may see, of each conjunct and rank.

        Both ends of what a query sees move with the query, so that the first and the last row of a
        stretch bound what all of its rows see.
        """
        starts = torch.tensor(self.starts, device="cpu")
        found = []
        for conjunct in (one for group in self.groups for one in group.conjuncts):
            low, _ = conjunct.bounds(starts[:-1], self.length)
            _, high = conjunct.bounds(starts[1:] - 1, self.length)
            found.append(list(zip(low.tolist(), (high + 1).tolist(), strict=True)))
        return found

    def _keys(self, number: int, conjunct: Conjunct) -> Tensor:
        """Return the keys that a conjunct names, sorted."""
        if number not in self._fixed:
            keys = conjunct.key_list(self.length)
            assert keys is not None
            self._fixed[number] = keys
        return self._fixed[number]


def _hull(a: Interval, b: Interval) -> Interval:
    """Return the interval of both and what is between them."""
    if a == EMPTY or b == EMPTY:
        return b if a == EMPTY else a
    return min(a[0], b[0]), max(a[1], b[1])


def _joined(columns: list[Tensor], *known: Interval) -> Tensor:
    """Return sorted keys in one list, without those in known intervals."""
    found = torch.unique(torch.cat(columns)) if len(columns) > 2 else columns[-1]
    for start, stop in known if found.numel() else ():
        found = torch.cat([_between(found, (0, start)), _between(found, (stop, UNLIMITED))])
    return found


def _between(keys: Tensor, interval: Interval) -> Tensor:
    """Return the sorted keys that lie in an interval."""
    start, stop = torch.searchsorted(keys, torch.tensor(interval, device="cpu")).tolist()
    return keys[start:stop]


@lru_cache(maxsize=CACHE_SIZE)
def layout_of(
    pattern: Pattern, heads: int, layer: int, layers: int, lengths: tuple[int, ...]
) -> Layout:
    """Return the layout of a shape: the same object for equal arguments."""
    return Layout(pattern, heads, layer, layers, lengths)
