"""Masks that no length changes, the same objects in every plan, and what is known of them."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from functools import lru_cache
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary

from sparse_patterns.lowering.tiles.masks import evaluate_pairs
from sparse_patterns.spec.atoms import Causal, Strided, Window
from sparse_patterns.spec.base import Full, Pattern

KEPT = 64
"""Masks kept of each sort; the one not used for longest goes first."""

LARGEST_KEPT = 1 << 17
"""Pairs of a mask that is kept, which bounds the memory."""

LARGEST_KNOWN = 1 << 18
"""Pairs of a mask of which things are kept, which bounds the memory."""

_known: WeakIdKeyDictionary = WeakIdKeyDictionary()

T = TypeVar("T")


def depends_on_distance(pattern: Pattern) -> bool:
    """Return whether what a bound pattern sees depends on the distance of query and key alone."""
    atoms = (part for part in pattern.walk() if not part.children())
    return all(isinstance(atom, Window | Causal | Strided | Full) for atom in atoms)


def band_mask(rows: int, keys: int, low: int, high: int) -> Tensor | None:
    """Return the mask of a tile whose row `r` sees the keys `low + r .. high + r`.

    Returns:
        bool `(1, rows, keys)`, None where every pair is visible.
    """
    if low + rows <= 1 and high >= keys - 1:
        return None
    make = _kept_band if rows * keys <= LARGEST_KEPT else _band
    return make(rows, keys, low, high)


def distance_mask(
    pattern: Pattern, rows: int, keys: int, distance: int, step: int
) -> tuple[bool, Tensor | None]:
    """Return the mask of a tile under a pattern that depends on the distance alone.

    Args:
        pattern: A bound pattern (see `depends_on_distance`).
        rows: Query rows.
        keys: Keys.
        distance: Tokens from the first row to the first key.
        step: Distance between rows, and between keys.

    Returns:
        Whether anything is visible, and what: bool `(1, rows, keys)`, None where everything is.
    """
    make = _kept_by_distance if rows * keys <= LARGEST_KEPT else _by_distance
    return make(pattern, rows, keys, distance, step)


def column_mask(pattern: Pattern, rows: int, tokens: tuple[int, ...]) -> tuple[bool, Tensor | None]:
    """Return the mask of neighbouring queries and any keys, under a pattern of distances alone.

    Args:
        pattern: A bound pattern (see `depends_on_distance`).
        rows: Number of queries.
        tokens: The keys, as distances from the first query.

    Returns:
        Whether anything is visible, and what: bool `(1, rows, keys)`, None where everything is.
    """
    make = _kept_by_column if rows * len(tokens) <= LARGEST_KEPT else _by_column
    return make(pattern, rows, tokens)


def known(mask: Tensor, name: Hashable, make: Callable[[], T]) -> T:
    """Return what was made of a mask before, or make it now; it is kept as long as the mask.

    Args:
        mask: The mask, which nobody changes.
        name: Everything that the result depends on besides the mask.
        make: Makes the result, which must not hold the mask or a view of it: it would live forever.
    """
    if mask.numel() > LARGEST_KNOWN:
        return make()
    of_mask: dict[Hashable, Any] = _known.setdefault(mask, {})
    if name not in of_mask:
        of_mask[name] = make()
    found: T = of_mask[name]
    return found


def _band(rows: int, keys: int, low: int, high: int) -> Tensor:
    mask = torch.ones(rows, keys, dtype=torch.bool, device="cpu")
    return mask.triu_(low).tril_(high)[None]


def _by_distance(
    pattern: Pattern, rows: int, keys: int, distance: int, step: int
) -> tuple[bool, Tensor | None]:
    q = torch.arange(rows, device="cpu") * step
    return _seen(pattern, q, torch.arange(keys, device="cpu") * step + distance)


def _by_column(pattern: Pattern, rows: int, tokens: tuple[int, ...]) -> tuple[bool, Tensor | None]:
    return _seen(pattern, torch.arange(rows, device="cpu"), torch.tensor(tokens, device="cpu"))


def _seen(pattern: Pattern, q: Tensor, k: Tensor) -> tuple[bool, Tensor | None]:
    mask = evaluate_pairs(pattern, q[None], k[None], 0)
    if bool(mask.all()):
        return True, None
    return bool(mask.any()), mask


_kept_band = lru_cache(maxsize=KEPT)(_band)
_kept_by_distance = lru_cache(maxsize=KEPT)(_by_distance)
_kept_by_column = lru_cache(maxsize=KEPT)(_by_column)


def forget_masks() -> None:
    """Forget every mask, as a new process has none."""
    for kept in (_kept_band, _kept_by_distance, _kept_by_column):
        kept.cache_clear()
