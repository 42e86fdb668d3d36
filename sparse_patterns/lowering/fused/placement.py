"""Stripes in one example: cut to its documents, its real keys and to blocks."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import torch
from torch import Tensor

from sparse_patterns.lowering.fused.partials import Placed, place_stripe
from sparse_patterns.lowering.fused.stripes import Stripe, block_edges

Label = tuple[int, ...]


def place_in_example(
    stripe: Stripe,
    q_len: int,
    kv_len: int,
    q_offset: int,
    real: Tensor | None = None,
    documents: Tensor | None = None,
) -> Iterator[Placed]:
    """Yield the rectangles of a stripe in one example.

    Args:
        stripe: The stripe.
        q_len: Number of queries.
        kv_len: Number of keys.
        q_offset: Position of query row 0.
        real: bool `(kv_len,)`, False for a padded key, or None where no key is padded. Rows of
            padded queries may be left out.
        documents: int64 `(kv_len,)`, the document of each key.
    """
    keys: dict[Label, list[tuple[int, int]]] = {}
    for start, stop, label in _runs(stripe, 0, kv_len, documents, real):
        if real is None or bool(real[start]):
            keys.setdefault(label, []).append((start, stop))
    first, stop = _real_rows(q_len, q_offset, real)
    if stripe.documents:
        first, stop = max(first, -q_offset), min(stop, kv_len - q_offset)
    for start, end, label in _runs(stripe, first + q_offset, stop + q_offset, documents, None):
        rows = (start - q_offset, end - q_offset)
        for run in keys.get(label, []):
            yield from place_stripe(stripe, rows, run, q_offset)


def _real_rows(q_len: int, q_offset: int, real: Tensor | None) -> tuple[int, int]:
    """Return the first and the last but one row between which all rows of real queries lie."""
    if real is None or not q_len:
        return 0, q_len
    positions = torch.arange(q_len, device="cpu") + q_offset
    kept = (positions < 0) | (positions >= real.numel())
    if real.numel():
        kept |= real[positions.clamp(0, real.numel() - 1)]
    rows = kept.nonzero().flatten()
    return (int(rows[0]), int(rows[-1]) + 1) if rows.numel() else (0, 0)


def _runs(
    stripe: Stripe, first: int, stop: int, documents: Tensor | None, real: Tensor | None
) -> Iterator[tuple[int, int, Label]]:
    """Yield runs of positions of one document, one block and one kind of key.

    Yields:
        First position, the one after the last, and a label equal where pairs may be seen.
    """
    if first >= stop:
        return
    edges = set(block_edges(stripe.blocks, first, stop))
    marks = [real] if real is not None else []
    if stripe.documents:
        assert documents is not None
        marks.append(documents)
    for mark in marks:
        changed = (mark[first + 1 : stop] != mark[first : stop - 1]).nonzero().flatten()
        edges.update((changed + first + 1).tolist())
    ordered = [*sorted(edges), stop]
    for start, end in pairwise(ordered):
        label = tuple(start // size for size in stripe.blocks)
        if stripe.documents and documents is not None:
            label = (*label, int(documents[start]))
        yield start, end, label
