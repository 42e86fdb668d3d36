"""The rows of global tokens, which are computed whole and apart from all others."""

from __future__ import annotations

import torch
from torch import Tensor

from sparse_patterns.algebra import Union, uses
from sparse_patterns.lowering.masks import evaluate_pairs
from sparse_patterns.lowering.tiles import MAX_KEYS, MAX_ROWS
from sparse_patterns.patterns import BatchGlobal, Pattern, SameDocument
from sparse_patterns.runs import Part, Run


def row_part(
    pattern: Pattern, rows: Tensor, kv_len: int, q_offset: int, whole: bool, evaluate: bool = True
) -> Part:
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
                k = torch.arange(k_start, k_start + keys)
                mask = evaluate_pairs(pattern, some[None, :] + q_offset, k[None, :], kv_len)
            runs.append(Run(1, some.numel(), keys, first, 1, 0, k_start, 1, 0, mask))
    return Part("rows", tuple(runs), queries=rows, dynamic=dynamic)


def alternatives(pattern: Pattern) -> tuple[Pattern, ...]:
    """Return the parts of a union, or the pattern itself."""
    return pattern.parts if isinstance(pattern, Union) else (pattern,)
