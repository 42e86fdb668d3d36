"""The rows of global tokens, which are computed densely in a part of their own."""

from __future__ import annotations

import torch
from torch import Tensor

from sparse_patterns.lowering.tiles.masks import evaluate_pairs
from sparse_patterns.lowering.tiles.runs import PlanPart, TileRun
from sparse_patterns.lowering.tiles.tiles import MAX_KEYS, MAX_ROWS
from sparse_patterns.spec.atoms import BatchGlobal, SameDocument
from sparse_patterns.spec.base import Pattern, uses


def row_part(
    pattern: Pattern, rows: Tensor, kv_len: int, q_offset: int, whole: bool, evaluate: bool = True
) -> PlanPart:
    """Return the part that computes whole rows, exactly as the pattern sees them.

    Args:
        pattern: The bound pattern.
        rows: int64 `(rows,)`, query rows.
        kv_len: Number of keys.
        q_offset: Position of query row 0.
        whole: Whether the rows are known to see every key.
        evaluate: Whether to evaluate now what does not depend on the call.
    """
    dynamic = None
    if not whole and (not evaluate or uses(pattern, BatchGlobal, SameDocument)):
        dynamic = pattern
    runs = []
    for k_start in range(0, kv_len, MAX_KEYS):
        keys = min(MAX_KEYS, kv_len - k_start)
        for first in range(0, rows.numel(), MAX_ROWS):
            some = rows[first : first + MAX_ROWS]
            mask = None
            if not whole and dynamic is None:
                k = torch.arange(k_start, k_start + keys, device="cpu")
                mask = evaluate_pairs(pattern, some[None, :] + q_offset, k[None, :], kv_len)
            runs.append(TileRun(1, some.numel(), keys, first, 1, 0, k_start, 1, 0, mask))
    return PlanPart("rows", tuple(runs), queries=rows, dynamic=dynamic, whole_rows=True)
