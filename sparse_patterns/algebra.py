"""The algebra: union, intersection, complement, and one pattern per head or per layer.

`union`, `intersection` and `complement` stand behind `|`, `&` and `~` and simplify what is obvious.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from sparse_patterns.fields import boolean
from sparse_patterns.patterns import (
    BatchGlobal,
    Full,
    Global,
    Pattern,
    SameDocument,
    Window,
)
from sparse_patterns.schedules import Schedule, map_value


class _Parts(Pattern):
    """What the patterns made of several parts have in common."""

    parts: tuple[Pattern, ...]

    def _take(self, parts: Iterable[Any]) -> None:
        parts = tuple(parts)
        if not parts:
            raise ValueError(f"{type(self).__name__} needs at least one pattern")
        for part in parts:
            if not isinstance(part, Pattern):
                raise TypeError(f"{type(self).__name__} takes patterns, got {part!r}")
        object.__setattr__(self, "parts", parts)

    def children(self) -> tuple[Pattern, ...]:
        """Return the parts."""
        return self.parts


@dataclass(frozen=True, repr=False)
class Union(_Parts):
    """Pairs that any part names; a pair that two parts name counts once. Made by `a | b`."""

    parts: tuple[Pattern, ...]

    def __post_init__(self) -> None:
        """Refuse what is no pattern."""
        self._take(self.parts)

    def with_children(self, children: Sequence[Pattern]) -> Pattern:
        """Return the union of other parts."""
        return union(*children)

    def __repr__(self) -> str:
        return " | ".join(repr(part) for part in self.parts)


@dataclass(frozen=True, repr=False)
class Intersection(_Parts):
    """Pairs that every part names. Made by `a & b`."""

    parts: tuple[Pattern, ...]

    def __post_init__(self) -> None:
        """Refuse what is no pattern."""
        self._take(self.parts)

    def with_children(self, children: Sequence[Pattern]) -> Pattern:
        """Return the intersection of other parts."""
        return intersection(*children)

    def __repr__(self) -> str:
        return " & ".join(
            f"({part!r})" if isinstance(part, Union) else repr(part) for part in self.parts
        )


@dataclass(frozen=True, repr=False)
class Complement(Pattern):
    """Pairs that `part` does not name. Made by `~a`."""

    part: Pattern

    def __post_init__(self) -> None:
        """Refuse what is no pattern."""
        if not isinstance(self.part, Pattern):
            raise TypeError(f"Complement takes a pattern, got {self.part!r}")

    def children(self) -> tuple[Pattern, ...]:
        """Return the part."""
        return (self.part,)

    def with_children(self, children: Sequence[Pattern]) -> Pattern:
        """Return the complement of another part."""
        return complement(*children)

    def __repr__(self) -> str:
        inner = repr(self.part)
        return f"~({inner})" if isinstance(self.part, Union | Intersection) else f"~{inner}"


@dataclass(frozen=True, repr=False, init=False)
class PerHead(_Parts):
    """One pattern per head, or per equal group of neighbouring heads.

    Heads are counted over the whole attention, also inside of another `PerHead`.

    Args:
        *parts: The patterns; their number must divide the number of heads.
        rest: Give one head to each pattern in turn and all that remain to the last one, for any
            number of heads.
    """

    parts: tuple[Pattern, ...]
    rest: bool = False

    def __init__(self, *parts: Pattern, rest: bool = False) -> None:
        self._take(parts)
        object.__setattr__(self, "rest", boolean("PerHead rest", rest))

    def with_children(self, children: Sequence[Pattern]) -> Pattern:
        """Return the same choice of other patterns."""
        return PerHead(*children, rest=self.rest)

    def of(self, head: int, heads: int) -> Pattern:
        """Return the pattern of a head.

        Raises:
            ValueError: The number of patterns does not divide `heads`.
        """
        count = len(self.parts)
        if self.rest:
            return self.parts[min(head, count - 1)]
        if heads % count:
            raise ValueError(
                f"PerHead has {count} patterns, which must divide the number of heads, got {heads}"
            )
        return self.parts[head * count // heads]

    def __repr__(self) -> str:
        return _call("PerHead", self.parts, "rest" if self.rest else "")


@dataclass(frozen=True, repr=False, init=False)
class PerLayer(_Parts):
    """One pattern per layer.

    Args:
        *parts: The patterns, the first for layer 0.
        repeat: Start over after the last pattern, for any number of layers.
    """

    parts: tuple[Pattern, ...]
    repeat: bool = False

    def __init__(self, *parts: Pattern, repeat: bool = False) -> None:
        self._take(parts)
        object.__setattr__(self, "repeat", boolean("PerLayer repeat", repeat))

    def with_children(self, children: Sequence[Pattern]) -> Pattern:
        """Return the same choice of other patterns."""
        return PerLayer(*children, repeat=self.repeat)

    def of(self, layer: int, layers: int) -> Pattern:
        """Return the pattern of a layer.

        Raises:
            ValueError: The number of patterns is not `layers`, without `repeat`.
        """
        count = len(self.parts)
        if count != layers and not self.repeat:
            raise ValueError(
                f"PerLayer has {count} patterns, which must equal the number of layers, "
                f"got layers={layers}"
            )
        return self.parts[layer % count]

    def __repr__(self) -> str:
        return _call("PerLayer", self.parts, "repeat" if self.repeat else "")


def _call(name: str, parts: Sequence[Pattern], flag: str) -> str:
    arguments = [*map(repr, parts), *([f"{flag}=True"] if flag else [])]
    return f"{name}({', '.join(arguments)})"


def _flatten(kind: type[Pattern], parts: Sequence[Pattern]) -> list[Pattern]:
    flat: dict[Pattern, None] = {}
    for part in parts:
        for item in part.children() if isinstance(part, kind) else (part,):
            flat.setdefault(item)
    return list(flat)


def union(*parts: Pattern) -> Pattern:
    """Return the union of the parts, flat and without repeated ones.

    `Full()` absorbs every part but those that say more than what is seen: the rows of global tokens
    may have projections of their own, and tensors of the batch are to be given.
    """
    flat = _flatten(Union, parts)
    if Full() in flat:
        kept = (BatchGlobal, SameDocument)
        flat = [p for p in flat if p == Full() or uses(p, *kept) or has_global_rows(p)]
    return flat[0] if len(flat) == 1 else Union(tuple(flat))


def intersection(*parts: Pattern) -> Pattern:
    """Return the intersection of the parts, flat and without repeated ones or `Full()`."""
    flat = _flatten(Intersection, parts)
    flat = [part for part in flat if part != Full()] or [Full()]
    return flat[0] if len(flat) == 1 else Intersection(tuple(flat))


def complement(part: Pattern) -> Pattern:
    """Return the complement; that of a complement is the part itself."""
    return part.part if isinstance(part, Complement) else Complement(part)


def uses(pattern: Pattern, *kinds: type[Pattern]) -> bool:
    """Return whether the pattern contains an atom of one of the `kinds`."""
    return any(isinstance(part, kinds) for part in pattern.walk())


def has_global_rows(pattern: Pattern) -> bool:
    """Return whether rows of global tokens are in the pattern, which `global_qkv` may compute."""
    return any(isinstance(a, Global | BatchGlobal) and a.rows for a in pattern.walk())


def replace_atoms(pattern: Pattern, function: Callable[[Pattern], Pattern]) -> Pattern:
    """Return the pattern with each atom replaced by `function(atom)`."""
    children = pattern.children()
    if not children:
        return function(pattern)
    return pattern.with_children([replace_atoms(child, function) for child in children])


def scale_windows(pattern: Pattern, factor: float) -> Pattern:
    """Return the pattern with both sides of every window times `factor`, rounded.

    Raises:
        ValueError: `factor` is not positive.
    """
    if not factor > 0:
        raise ValueError(f"window factor must be > 0, got {factor}")

    def scale(value: Any) -> Any:
        def times(number: int) -> int:
            return round(number * factor)

        return value.map(times) if isinstance(value, Schedule) else map_value(value, times)

    def one(atom: Pattern) -> Pattern:
        if isinstance(atom, Window):
            return dataclasses.replace(atom, left=scale(atom.left), right=scale(atom.right))
        return atom

    return replace_atoms(pattern, one)
