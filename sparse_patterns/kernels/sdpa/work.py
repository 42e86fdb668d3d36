"""What torch's operator does in a call, counted by kind, as its time is estimated from.

Kinds, forward and (as "back ...") backward:

- "call": calls of the kernel.
- "product": pairs computed, times the head size; "half product" in a half type.
- "pair": pairs computed.
- "mask": pairs whose scores a mask is added to.
- "copy": elements of inputs and results, and once more where they are converted.
- "make": elements of masks that are made at the call.
"""

from __future__ import annotations

from collections import Counter
from functools import lru_cache

import torch

from sparse_patterns.kernels.base import Request
from sparse_patterns.kernels.rates.work import Work

KEYS = 512
"""Keys of a block of the operator."""

ROWS = ((768, 256), (192, 64), (0, 32))
"""Query rows of a block, by the number of rows from which on the operator takes them."""


def work_of(request: Request, causal: bool, masked: bool, groups: int) -> Work:
    """Return the work of a request.

    Args:
        request: The request.
        causal: Whether the operator is told to hide keys after the query.
        masked: Whether it is given a mask.
        groups: Groups of heads that have masks of their own.
    """
    heads, size = request.batch * request.heads, request.head_dim
    pairs = heads * _pairs(request.q_len, request.kv_len, causal)
    ends = heads * size * (request.q_len + request.kv_len)
    half = request.dtype.itemsize < 4
    native = request.dtype == torch.bfloat16
    work: Counter[str] = Counter({"call": 1})
    own = request.key_mask or request.global_mask or request.segment_ids
    elements = request.q_len * request.kv_len
    if masked and own:
        work["make"] += request.batch * groups * elements
    if request.distance_bias:
        work["make"] += request.heads * elements
    for name in ("", "back ") if request.needs_grad else ("",):
        kind = "half " if native and not name else ""
        work[f"{name}call"] += bool(name)
        work[f"{kind or name}product"] += pairs * size
        work[f"{name}pair"] += pairs
        work[f"{name}copy"] += ends * (2 if half and not kind else 1)
        if masked:
            work[f"{name}mask"] += pairs
    return dict(work)


def _rows(q_len: int) -> int:
    return next(rows for least, rows in ROWS if q_len >= least)


@lru_cache(maxsize=128)
def _pairs(q_len: int, kv_len: int, causal: bool) -> int:
    """Return the pairs that the operator computes for a head: whole blocks of keys."""
    if not causal:
        return q_len * kv_len
    rows, pairs = _rows(q_len), 0
    for first in range(0, q_len, rows):
        last = min(first + rows, q_len)
        pairs += (last - first) * min(kv_len, -(-min(last, kv_len) // KEYS) * KEYS)
    return pairs
