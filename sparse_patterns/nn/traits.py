"""What a pattern of one layer depends on besides the distance of query and key."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

from sparse_patterns.spec import atoms
from sparse_patterns.spec.base import Full, Pattern
from sparse_patterns.spec.binding import bind
from sparse_patterns.spec.lookahead import call_time_parts

_BY_DISTANCE = (atoms.Window, atoms.Causal, Full, atoms.Strided)
_BY_EXAMPLE = (atoms.BatchGlobal, atoms.SameDocument)


class Traits(NamedTuple):
    """What a pattern of one layer depends on.

    Attributes:
        movable: Whether it means the same wherever a text starts.
        by_length: Which part depends on the final length, and why; None if no part does.
    """

    movable: bool
    by_length: str | None


@lru_cache(maxsize=256)
def traits(pattern: Pattern, heads: int, layer: int, layers: int) -> Traits:
    """Return what a pattern of one layer depends on."""
    movable, by_length = True, None
    for one in dict.fromkeys(bind(pattern, heads=heads, layer=layer, layers=layers)):
        leaves = [part for part in one.walk() if not part.children()]
        movable &= all(isinstance(leaf, (*_BY_DISTANCE, *_BY_EXAMPLE)) for leaf in leaves)
        for part, why in call_time_parts(one):
            if not isinstance(part, _BY_EXAMPLE):
                by_length = f"{part!r} depends on {why}"
    return Traits(movable, by_length)
