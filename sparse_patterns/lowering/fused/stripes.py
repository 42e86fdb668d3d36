"""Stripes: pairs at an interval of distances, every so many tokens, inside blocks or documents.

The conjuncts of a pattern that fused operators can run are stripes, or stripes cut to a list of
keys. Here they are separated from conjuncts that cannot be, and made disjoint.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import islice, permutations

import torch
from torch import Tensor

from sparse_patterns.lowering.normal_form import UNLIMITED, Conjunct

MAX_ORDERS = 120
"""Orders tried in taking stripes out of each other."""


@dataclass(frozen=True)
class Stripe:
    """Keys at distances `low .. high` that are multiples of `step`.

    Attributes:
        low: Smallest distance `key - query`, in tokens.
        high: Largest distance.
        step: The dilation.
        blocks: Sizes of blocks that query and key share.
        documents: Whether query and key share a document.
    """

    low: int
    high: int
    step: int = 1
    blocks: tuple[int, ...] = ()
    documents: bool = False

    def sees(self, q: Tensor, k: Tensor, documents: Tensor | None) -> Tensor:
        """Return whether query positions see key positions, bool of their broadcast shape.

        Args:
            q: int64 query positions.
            k: int64 key positions, inside the sequence.
            documents: int64 `(kv_len,)`, the document of each key, or None.
        """
        distance = k - q
        seen = (distance >= self.low) & (distance <= self.high)
        if self.step > 1:
            seen = seen & (distance % self.step == 0)
        for size in self.blocks:
            seen = seen & (q // size == k // size)
        if self.documents:
            assert documents is not None
            inside = (q >= 0) & (q < documents.numel())
            own = documents[q.clamp(0, max(0, documents.numel() - 1))]
            seen = seen & inside & (own == documents[k])
        return seen


def to_stripe(conjunct: Conjunct) -> Stripe:
    """Return the distances, blocks and documents of a conjunct."""
    return Stripe(
        max(-UNLIMITED, -conjunct.left),
        min(UNLIMITED, conjunct.right),
        conjunct.dilation,
        tuple(sorted(set(conjunct.blocks))),
        conjunct.documents,
    )


def disjoint(stripes: list[Stripe]) -> list[Stripe] | None:
    """Return disjoint stripes that together are the given ones, or None where none were found."""
    snapped = dict.fromkeys(map(_snapped, stripes))
    stripes = sorted((one for one in snapped if one.low <= one.high), key=_order)
    for order in islice(permutations(stripes), MAX_ORDERS):
        made: list[Stripe] = []
        for stripe in order:
            pieces = _without_all(stripe, made)
            if pieces is None:
                break
            made.extend(pieces)
        else:
            return made
    return None


def _order(stripe: Stripe) -> tuple[bool, bool, int, int]:
    return stripe.documents, bool(stripe.blocks), stripe.step, stripe.low - stripe.high


def _without_all(stripe: Stripe, made: list[Stripe]) -> list[Stripe] | None:
    """Return the stripes that remain of one without the pairs of others, None if none do."""
    pieces = [stripe]
    for earlier in made:
        left: list[Stripe] = []
        for piece in pieces:
            rest = _minus(piece, earlier)
            if rest is None:
                return None
            left.extend(rest)
        pieces = left
    return pieces


def _minus(stripe: Stripe, earlier: Stripe) -> list[Stripe] | None:
    """Return the stripes that remain of one without the pairs of another, None if none do."""
    if earlier.high < stripe.low or earlier.low > stripe.high:
        return [stripe]
    held = all(any(size % own == 0 for own in stripe.blocks) for size in earlier.blocks)
    if stripe.step % earlier.step or not held or earlier.documents > stripe.documents:
        return None
    sides = (
        replace(stripe, high=min(stripe.high, earlier.low - 1)),
        replace(stripe, low=max(stripe.low, earlier.high + 1)),
    )
    return [side for side in map(_snapped, sides) if side.low <= side.high]


def _snapped(stripe: Stripe) -> Stripe:
    """Return the stripe with distances that are multiples of its step."""
    low = -(-stripe.low // stripe.step) * stripe.step
    high = stripe.high // stripe.step * stripe.step
    return replace(stripe, low=low, high=high)


def block_edges(blocks: tuple[int, ...], first: int, stop: int) -> list[int]:
    """Return where blocks begin inside `first .. stop - 1`, with `first` in front."""
    edges = {first} if first < stop else set()
    for size in blocks:
        edges.update(range(-(-first // size) * size, stop, size))
    return sorted(edges)


def token_edges(stripe: Stripe, tokens: Tensor) -> Tensor:
    """Return the query positions at which what is seen of some keys may change, int64 `(n,)`."""
    edges = [tokens - stripe.high, tokens - stripe.low + 1]
    for size in stripe.blocks:
        start = tokens // size * size
        edges += [start, start + size]
    return torch.cat(edges)
