"""Products over visible blocks: gathered, multiplied, added up in an order that is always the same.

Half types are multiplied as half types with sums in float32, as tensor cores have them. Nothing is
looked up in the layout on the way, for which a GPU would have to be waited for.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sparse_patterns.kernels.adding import add_to


def scores(a: Tensor, b: Tensor, row: Tensor, column: Tensor, block: int) -> Tensor:
    """Return `a @ b.T` in the visible blocks.

    Args:
        a: `(batch, rows * block, head_dim)`.
        b: `(batch, columns * block, head_dim)`.
        row: int64 `(blocks,)`, row of each block.
        column: int64 `(blocks,)`, column of each block.
        block: Rows, and columns, of a block.

    Returns:
        `(batch, blocks, block, block)`, as `product` returns them.
    """
    left = a.unflatten(1, (-1, block))[:, row]
    right = b.unflatten(1, (-1, block))[:, column]
    found = product(left.flatten(0, 1), right.flatten(0, 1).transpose(1, 2))
    return found.unflatten(0, (a.shape[0], -1))


def apply(values: Tensor, x: Tensor, row: Tensor, column: Tensor, rows: int) -> Tensor:
    """Return the block-sparse matrix times `x`.

    Args:
        values: `(batch, blocks, block, block)`, rounded to the type of `x`.
        x: `(batch, columns * block, head_dim)`.
        row: int64 `(blocks,)`, row of each block.
        column: int64 `(blocks,)`, column of each block.
        rows: Number of rows of blocks.

    Returns:
        `(batch, rows * block, head_dim)`, as `product` returns them.
    """
    batch, _, block, _ = values.shape
    taken = x.unflatten(1, (-1, block))[:, column]
    parts = product(values.to(x.dtype).flatten(0, 1), taken.flatten(0, 1))
    total = parts.new_zeros(batch, rows, block, x.shape[2])
    add_to(total, [None, row], parts.unflatten(0, (batch, -1)))
    return total.flatten(1, 2)


def product(a: Tensor, b: Tensor) -> Tensor:
    """Return the products of two batches of matrices, those of a half type in float32."""
    if a.dtype.itemsize > 2:
        return torch.bmm(a, b)
    if a.is_cuda:
        return torch.bmm(a, b, out_dtype=torch.float32)
    # Of half types a product is exact in float32, so this is the same but for the order of sums.
    return a.float() @ b.float()
