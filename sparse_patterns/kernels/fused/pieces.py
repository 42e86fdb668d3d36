"""The backward pass of packed sequences, some at a time where there are very many.

FlashAttention 2 adds up the gradients of the queries in a float32 buffer that has 128 rows more for
each sequence. Thousands of short ones fill a GPU that way, and before its release 2.8 a place in
that buffer was counted in 32 bits (Dao-AILab/flash-attention#1500).
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from sparse_patterns.kernels.fused.operator import Operator, Shape

ROWS = 128
"""Rows that the buffer has more for each sequence."""

MOST = 1 << 29
"""Elements of the buffer that come from that, at most: 2 GiB."""


def backward(
    operator: Operator,
    grad: Tensor,
    out: Tensor,
    lse: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    shape: Shape,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of `q, k, v`; see `Operator.backward`."""
    at_once = max(1, MOST // (ROWS * q.shape[2] * max(1, q.shape[3])))
    if shape.lengths is None or len(shape.lengths[0]) <= at_once:
        return operator.backward(grad, out, lse, q, k, v, shape, scale)
    found = []
    for some, rows, keys in _pieces(shape, at_once):
        logs = lse[:, :, rows].contiguous()
        found.append(
            operator.backward(
                grad[:, rows],
                out[:, rows],
                logs,
                q[:, rows],
                k[:, keys],
                v[:, keys],
                some,
                scale,
            )
        )
    grad_q, grad_k, grad_v = (torch.cat(parts, 1) for parts in zip(*found, strict=True))
    return grad_q, grad_k, grad_v


def _pieces(shape: Shape, at_once: int) -> Iterator[tuple[Shape, slice, slice]]:
    """Yield some of the sequences at a time, with their rows and keys."""
    assert shape.lengths is not None
    row = key = 0
    for first in range(0, len(shape.lengths[0]), at_once):
        rows, keys = (counts[first : first + at_once] for counts in shape.lengths)
        next_row, next_key = row + sum(rows), key + sum(keys)
        yield Shape(shape.band, (rows, keys)), slice(row, next_row), slice(key, next_key)
        row, key = next_row, next_key
