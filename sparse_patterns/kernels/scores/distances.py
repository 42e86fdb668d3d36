"""A table of numbers by distance, read for whole matrices of pairs, and its gradient.

Rows of queries and columns of keys at constant steps see the table as a strip of it, moved from row
to row (a Toeplitz matrix), so that a tile of any size takes no more than a view and one copy.
Distances run from the first key less the last query to the last key less the first query; a table
is spread over them once, which takes memory in proportion to the lengths.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sparse_patterns.kernels.adding import add_to


def spread(table: Tensor, low: int, high: int) -> Tensor:
    """Return the entries of the distances `low .. high`, `(..., high - low + 1)`.

    Args:
        table: `(..., 2 * m + 1)`, of which the first and the last number hold for all distances
            beyond.
        low: The first distance.
        high: The last one; `low - 1` for none.
    """
    m = table.shape[-1] // 2
    start = max(low, -m) + m
    parts = (
        table[..., :1].expand(*table.shape[:-1], max(0, min(high, -m - 1) - low + 1)),
        table[..., start : max(start, min(high, m) + m + 1)],
        table[..., -1:].expand(*table.shape[:-1], max(0, high - max(low, m + 1) + 1)),
    )
    return torch.cat(parts, -1)


def folded(grad: Tensor, low: int, size: int) -> Tensor:
    """Return the gradient of a table of a size from that of what `spread` made of it."""
    m, count = size // 2, grad.shape[-1]
    table = grad.new_zeros(*grad.shape[:-1], size)
    start = min(max(0, -m - low), count)
    stop = max(start, min(count, m + 1 - low))
    if start < stop:
        table[..., start + low + m : stop + low + m] = grad[..., start:stop]
    table[..., 0] += grad[..., :start].sum(-1)
    table[..., -1] += grad[..., stop:].sum(-1)
    return table


def strip(
    values: Tensor, start: int, rows: int, row_step: int, columns: int, column_step: int
) -> Tensor:
    """Return `values[..., start - t * row_step + c * column_step]` as `(..., rows, columns)`."""
    if not rows or not columns:
        return values.new_empty(*values.shape[:-1], rows, columns)
    step = values.stride(-1)
    turned = values.as_strided(
        (*values.shape[:-1], rows, columns),
        (*values.stride()[:-1], row_step * step, column_step * step),
        values.storage_offset() + (start - (rows - 1) * row_step) * step,
    )
    # A stride cannot be negative: rows are laid out from the last to the first, and turned over.
    return turned.flip(-2)


def diagonal_sums(x: Tensor) -> Tensor:
    """Return the sums over the diagonals of `(..., T, L)`: `(..., T + L - 1)`, `c - t + T - 1`."""
    rows, columns = x.shape[-2:]
    width = rows + columns
    wide = x.new_zeros(*x.shape[:-2], rows + 1, width)
    wide[..., :rows, rows:] = x
    # In rows that are one longer, each row starts one place further left.
    skewed = wide.flatten(-2)[..., : rows * (width + 1)].unflatten(-1, (rows, width + 1))
    return skewed.sum(-2)[..., 1:width]


def add_at(total: Tensor, index: Tensor, values: Tensor) -> None:
    """Add values to the entries `index` of a vector; see `add_to`."""
    add_to(total, [index.flatten()], values.flatten())
