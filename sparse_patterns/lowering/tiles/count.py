"""Visible pairs and receptive field of one head, counted over its tiles: right for any pattern."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from sparse_patterns.lowering.numbers import Numbers
from sparse_patterns.lowering.tiles.runs import PlanPart, TileRun
from sparse_patterns.spec.oracle import ExampleContext, visible

LISTED_AT_ONCE = 1 << 19
"""Rows and keys listed at once, which bounds the memory."""


def count_tiles(parts: tuple[PlanPart, ...], q_len: int, kv_len: int, q_offset: int) -> Numbers:
    """Return the numbers of one head from its tiles, each pair counted once.

    Args:
        parts: The parts of a bound pattern (see `lower`).
        q_len: Number of queries.
        kv_len: Number of keys.
        q_offset: Position of query row 0.
    """
    counts = torch.zeros(q_len, dtype=torch.int64, device="cpu")
    back = torch.zeros(q_len, dtype=torch.int64, device="cpu")
    forward = torch.zeros(q_len, dtype=torch.int64, device="cpu")
    for part in parts:
        if part.whole_rows:
            for values in (counts, back, forward):
                values[part.queries] = 0
        for run in _short(part):
            rows = run.query_rows()
            rows = rows if part.queries is None else part.queries[rows]
            keys = run.key_indices()
            keys = keys if part.keys is None else part.keys[keys]
            mask = run.mask
            if part.dynamic is not None:
                q, k = rows[:, :, None] + q_offset, keys[:, None, :]
                seen = visible(part.dynamic, q, k, _one_document(kv_len))
                mask = seen.expand(run.tiles, run.rows, run.keys)
                mask = mask if run.mask is None else mask & run.mask
            first, last, number = _row_extent(mask, keys)
            position = (rows + q_offset).flatten()
            rows = rows.flatten()
            number = number.expand(run.tiles, run.rows).flatten()
            if part.documents:
                # A position outside of the sequence has no document.
                number = torch.where((position < 0) | (position >= kv_len), 0, number)
            seen = number > 0
            counts.index_add_(0, rows, number)
            for values, distance in (
                (back, position - first.expand(run.tiles, run.rows).flatten()),
                (forward, last.expand(run.tiles, run.rows).flatten() - position),
            ):
                far = torch.where(seen, distance, 0)
                values[rows] = torch.maximum(values[rows], far)
    receptive_field = (int(back.max()), int(forward.max())) if q_len else (0, 0)
    return Numbers(int(counts.sum()), receptive_field)


def _one_document(kv_len: int) -> ExampleContext:
    """Return a batch's tensors where none are known: one document, no global token."""
    return ExampleContext(kv_len, None, torch.zeros(kv_len, dtype=torch.int64, device="cpu"))


def _short(part: PlanPart) -> Iterator[TileRun]:
    """Yield runs that have keys, none with so many that listing them takes much memory."""
    for run in part.runs:
        if run.keys:
            listed = run.rows + run.keys if part.dynamic is None else run.rows * run.keys
            yield from run.split(max(1, LISTED_AT_ONCE // listed))


def _row_extent(mask: Tensor | None, keys: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the first key, the last key and the number of keys that each row sees.

    Each is int64 `(tiles or 1, rows or 1)`, to be broadcast to all tiles and rows.
    """
    if mask is None:
        number = torch.tensor([[keys.shape[1]]], device="cpu")
        return keys.amin(1, keepdim=True), keys.amax(1, keepdim=True), number
    keys = keys[:, None, :]
    if mask.shape[0] == 1 and keys.shape[0] > 1:
        # Equal tiles: the first and last column seen are the same in each.
        columns = torch.arange(mask.shape[2], device="cpu")
        first = torch.where(mask[0], columns, mask.shape[2] - 1).amin(1)
        last = torch.where(mask[0], columns, 0).amax(1)
        ordered = bool((keys[..., 1:] >= keys[..., :-1]).all())
        if ordered:
            return keys[:, 0, :][:, first], keys[:, 0, :][:, last], mask.sum(2)
    far = 1 << 50
    first = torch.where(mask, keys, far).amin(2)
    last = torch.where(mask, keys, -far).amax(2)
    return first, last, mask.sum(2)
