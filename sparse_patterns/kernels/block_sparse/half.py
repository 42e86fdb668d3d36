"""Products over visible blocks in half types, with sums in float32, as tensor cores have them."""

from __future__ import annotations

import torch
from torch import Tensor


def scores(a: Tensor, b: Tensor, row: Tensor, column: Tensor, block: int) -> Tensor:
    """Return `a @ b.T` in the visible blocks.

    Args:
        a: Half type, `(batch, rows * block, head_dim)`.
        b: Half type, `(batch, columns * block, head_dim)`.
        row: int64 `(blocks,)`, row of each block.
        column: int64 `(blocks,)`, column of each block.
        block: Rows, and columns, of a block.

    Returns:
        float32 `(batch, blocks, block, block)`.
    """
    left = a.unflatten(1, (-1, block))[:, row]
    right = b.unflatten(1, (-1, block))[:, column]
    found = product(left.flatten(0, 1), right.flatten(0, 1).transpose(1, 2))
    return found.unflatten(0, (a.shape[0], -1))


def apply(values: Tensor, x: Tensor, row: Tensor, column: Tensor, rows: int) -> Tensor:
    """Return the block-sparse matrix times `x`.

    Args:
        values: float32 `(batch, blocks, block, block)`, rounded to the type of `x`.
        x: Half type, `(batch, columns * block, head_dim)`.
        row: int64 `(blocks,)`, row of each block.
        column: int64 `(blocks,)`, column of each block.
        rows: Number of rows of blocks.

    Returns:
        float32 `(batch, rows * block, head_dim)`.
    """
    batch, _, block, _ = values.shape
    taken = x.unflatten(1, (-1, block))[:, column]
    parts = product(values.to(x.dtype).flatten(0, 1), taken.flatten(0, 1))
    total = parts.new_zeros(batch, rows, block, x.shape[2])
    return total.index_add_(1, row, parts.unflatten(0, (batch, -1))).flatten(1, 2)


def product(a: Tensor, b: Tensor) -> Tensor:
    """Return the products of two batches of matrices of a half type in float32."""
    if a.is_cuda:
        return torch.bmm(a, b, out_dtype=torch.float32)
    # Of half types a product is exact in float32, so this is the same but for the order of sums.
    return a.float() @ b.float()
