"""What a decoder needs of a pattern: made from a name, causal, and of a known reach backwards."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import sparse_patterns as sp
from sparse_patterns.spec.base import uses
from sparse_patterns.spec.binding import bind
from sparse_patterns.spec.lookahead import negation_normal_form

__all__ = ["causal", "check_distances", "check_marks", "reaches", "resolve"]

PatternLike = str | Mapping[str, Any] | sp.Pattern
"""A registered name, a config (`sp.to_config`), or a pattern."""


def resolve(pattern: PatternLike) -> sp.Pattern:
    """Return the pattern of a name or a config.

    Raises:
        ValueError: The name or the config is unknown; the message suggests near ones.
        TypeError: Something else was given.
    """
    return sp.from_config(pattern)


def causal(pattern: sp.Pattern) -> sp.Pattern:
    """Return the pattern without the pairs whose key is after the query.

    The same set as `pattern & Causal()`, with windows cut instead of intersected: kernels support
    one-sided windows.
    """
    if isinstance(pattern, sp.Window):
        return dataclasses.replace(pattern, right=0)
    if isinstance(pattern, sp.Union | sp.PerHead | sp.PerLayer):
        return pattern.with_children([causal(part) for part in pattern.children()])
    if isinstance(pattern, sp.Intersection):
        if any(_is_causal(part) for part in pattern.parts):
            return pattern
        # One causal part makes the whole causal: prefer a window, which costs nothing.
        for index, part in enumerate(pattern.parts):
            if isinstance(part, sp.Window):
                parts = [*pattern.parts[:index], causal(part), *pattern.parts[index + 1 :]]
                return pattern.with_children(parts)
    return pattern & sp.Causal()


def _is_causal(part: sp.Pattern) -> bool:
    return isinstance(part, sp.Causal) or (isinstance(part, sp.Window) and part.right == 0)


def check_marks(pattern: sp.Pattern) -> None:
    """Refuse a pattern whose global tokens are marked in each example: a decoder is given no marks.

    Raises:
        ValueError: The pattern holds `BatchGlobal()`, which would quietly be left out.
    """
    if uses(pattern, sp.BatchGlobal):
        raise ValueError(
            "pattern of a language model holds BatchGlobal(), the global tokens that each example "
            "marks, and a language model is given no marks; name positions, as in Global((0,)), or "
            "take a pattern without them, such as 'longformer-causal'"
        )


def reaches(pattern: sp.Pattern, *, heads: int, layers: int) -> tuple[int | None, ...]:
    """Return how many earlier tokens some query of each layer can see.

    Args:
        pattern: A causal pattern.
        heads: Number of query heads.
        layers: Number of layers of the model.

    Returns:
        Tokens, one number per layer; None where there is no limit.
    """
    found: list[int | None] = []
    for layer in range(layers):
        bound = bind(pattern, heads=heads, layer=layer, layers=layers)
        furthest = max(0.0, *(_furthest_behind(negation_normal_form(one)) for one in bound))
        found.append(None if math.isinf(furthest) else int(furthest))
    return tuple(found)


def check_distances(pattern: sp.Pattern, *, heads: int, layers: int) -> None:
    """Refuse a pattern that does not suit a memory.

    Raises:
        ValueError: What the pattern sees depends on more than the distance between query and key,
            so that it means something else in each segment of a stream.
    """
    for layer in range(layers):
        for one in bind(pattern, heads=heads, layer=layer, layers=layers):
            for atom in one.walk():
                if not atom.children() and not isinstance(atom, _OF_DISTANCE):
                    raise ValueError(
                        "memory needs a pattern of distances (Window, Causal, Full, Strided), got "
                        f"{atom!r} in layer {layer}: it means other keys in each segment"
                    )


_OF_DISTANCE = (sp.Window, sp.Causal, sp.Full, sp.Strided)


def _furthest_behind(pattern: sp.Pattern) -> float:
    """Return a bound on `query - key` of a bound pattern in normal form."""
    if isinstance(pattern, sp.Window):
        return float(pattern.left * pattern.dilation)
    if isinstance(pattern, sp.Union):
        return max(_furthest_behind(part) for part in pattern.parts)
    if isinstance(pattern, sp.Intersection):
        return min(_furthest_behind(part) for part in pattern.parts)
    if isinstance(pattern, sp.Complement) and isinstance(pattern.part, sp.Causal):
        return -1.0
    return math.inf
