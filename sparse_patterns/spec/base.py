"""The pattern and its Boolean algebra: union, intersection, complement.

`union`, `intersection` and `complement` stand behind `|`, `&` and `~` and simplify what is obvious.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from dataclasses import MISSING, dataclass
from typing import Any

from sparse_patterns.spec.fields import shown


@dataclass(frozen=True)
class Pattern:
    """A set of visible (query, key) pairs for each layer and head.

    Combine patterns with `a | b` (union), `a & b` (intersection) and `~a` (complement). Patterns
    are frozen, hashable and comparable; their `repr` is the expression that makes them.
    """

    def __or__(self, other: object) -> Pattern:
        return union(self, other) if isinstance(other, Pattern) else NotImplemented

    def __and__(self, other: object) -> Pattern:
        return intersection(self, other) if isinstance(other, Pattern) else NotImplemented

    def __invert__(self) -> Pattern:
        return complement(self)

    def children(self) -> tuple[Pattern, ...]:
        """Return the patterns this one is composed of; an atom has none."""
        return ()

    def with_children(self, children: Sequence[Pattern]) -> Pattern:
        """Return the same composition of other `children`."""
        assert not children, "an atom has no children"
        return self

    @property
    def names_more_than_pairs(self) -> bool:
        """Whether the pattern holds more for a kernel than which pairs are visible.

        So do rows of global tokens, which may have projections of their own, and atoms that read
        tensors of the batch. Such a pattern stays in a union with `Full()`.
        """
        return any(child.names_more_than_pairs for child in self.children())

    def walk(self) -> Iterable[Pattern]:
        """Yield this pattern and everything it is composed of, outermost first."""
        yield self
        for child in self.children():
            yield from child.walk()

    def _repr_html_(self) -> str | None:
        """Return what a notebook shows; replaced by `viz.notebook.to_html`."""
        return None

    def __repr__(self) -> str:
        parts: list[str] = []
        positional = True
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.default is not MISSING and value == field.default:
                positional = False
                continue
            # A bare True or False does not explain itself.
            positional = positional and not isinstance(value, bool)
            parts.append(repr(value) if positional else f"{field.name}={value!r}")
        return f"{type(self).__name__}({', '.join(parts)})"


@dataclass(frozen=True, repr=False)
class Full(Pattern):
    """Every pair."""


class _Parts(Pattern):
    """What the patterns made of several parts have in common."""

    parts: tuple[Pattern, ...]

    def _take(self, parts: Iterable[Any]) -> None:
        if not isinstance(parts, Iterable):
            raise TypeError(f"{type(self).__name__} takes patterns, got {shown(parts)}")
        parts = tuple(parts)
        if not parts:
            raise ValueError(f"{type(self).__name__} needs at least one pattern, got none")
        for part in parts:
            if not isinstance(part, Pattern):
                raise TypeError(f"{type(self).__name__} takes patterns, got {shown(part)}")
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
            raise TypeError(f"Complement takes a pattern, got {shown(self.part)}")

    def children(self) -> tuple[Pattern, ...]:
        """Return the part."""
        return (self.part,)

    def with_children(self, children: Sequence[Pattern]) -> Pattern:
        """Return the complement of another part."""
        return complement(*children)

    def __repr__(self) -> str:
        inner = repr(self.part)
        return f"~({inner})" if isinstance(self.part, Union | Intersection) else f"~{inner}"


def uses(pattern: Pattern, *kinds: type[Pattern]) -> bool:
    """Return whether the pattern contains an atom of one of the `kinds`."""
    return any(isinstance(part, kinds) for part in pattern.walk())


def union(*parts: Pattern) -> Pattern:
    """Return the union of the parts, flat and without repeated ones.

    `Full()` absorbs every part but those that say more than what is seen: the rows of global tokens
    may have projections of their own, and tensors of the batch are to be given.
    """
    flat = _flatten(Union, parts)
    if Full() in flat:
        flat = [p for p in flat if p == Full() or p.names_more_than_pairs]
    return flat[0] if len(flat) == 1 else Union(tuple(flat))


def intersection(*parts: Pattern) -> Pattern:
    """Return the intersection of the parts, flat and without repeated ones or `Full()`."""
    flat = _flatten(Intersection, parts)
    flat = [part for part in flat if part != Full()] or [Full()]
    return flat[0] if len(flat) == 1 else Intersection(tuple(flat))


def complement(part: Pattern) -> Pattern:
    """Return the complement; that of a complement is the part itself."""
    return part.part if isinstance(part, Complement) else Complement(part)


def _flatten(kind: type[Pattern], parts: Sequence[Pattern]) -> list[Pattern]:
    flat: dict[Pattern, None] = {}
    for part in parts:
        for item in part.children() if isinstance(part, kind) else (part,):
            flat.setdefault(item)
    return list(flat)
