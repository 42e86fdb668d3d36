"""One pattern per head or per layer, and what can be asked of a pattern or done to its atoms."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from sparse_patterns.spec.arguments import real
from sparse_patterns.spec.atoms import BatchGlobal, Global, SameDocument, Window
from sparse_patterns.spec.base import Pattern, Union, _Parts, uses
from sparse_patterns.spec.fields import boolean, shown
from sparse_patterns.spec.grids import GridWindow, map_numbers
from sparse_patterns.spec.schedules import Schedule, map_value


@dataclass(frozen=True, repr=False, init=False)
class PerHead(_Parts):
    """One pattern per head, or per equal group of adjacent heads.

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

    Of a window over a grid, the radius.

    Raises:
        TypeError: `pattern` is no pattern, or `factor` no number.
        ValueError: `factor` is not positive and finite, or a window becomes too large.
    """
    if not isinstance(pattern, Pattern):
        raise TypeError(f"pattern must be a Pattern, got {shown(pattern)}")
    if not real("window factor", factor) > 0:
        raise ValueError(f"window factor must be > 0, got {factor}")

    def scale(value: Any) -> Any:
        def times(number: int) -> int:
            return round(number * factor)

        return value.map(times) if isinstance(value, Schedule) else map_value(value, times)

    def one(atom: Pattern) -> Pattern:
        if isinstance(atom, Window):
            return dataclasses.replace(atom, left=scale(atom.left), right=scale(atom.right))
        if isinstance(atom, GridWindow):
            radius = map_numbers(atom.radius, lambda number: round(number * factor))
            return dataclasses.replace(atom, radius=radius)
        return atom

    try:
        return replace_atoms(pattern, one)
    except ValueError as error:
        raise ValueError(f"window factor {factor} is too large: {error}") from error


def alternatives(pattern: Pattern) -> tuple[Pattern, ...]:
    """Return the parts of a union, or the pattern itself."""
    return pattern.parts if isinstance(pattern, Union) else (pattern,)


def takes_example_tensors(pattern: Pattern) -> bool:
    """Return whether what is visible depends on tensors of the batch besides padding."""
    return uses(pattern, BatchGlobal, SameDocument)
