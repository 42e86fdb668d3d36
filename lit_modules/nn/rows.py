"""From the rows of a batch to its examples: a long example is several rows."""

from __future__ import annotations

import torch
from torch import Tensor

from lit_modules.nn.precision import widened

__all__ = ["at_positions", "logsumexp_by_example", "mean_by_example"]


def mean_by_example(
    values: Tensor, example: Tensor, examples: int, mask: Tensor | None = None
) -> Tensor:
    """Average over the rows of each example.

    Args:
        values: `(rows, ...)`.
        example: int64 `(rows,)`, the example that a row belongs to.
        examples: Number of examples.
        mask: bool, of the shape of `values`: what counts; everything if None.

    Returns:
        `(examples, ...)`, float32 at least; 0 where nothing counts.
    """
    values = widened(values)
    counted = torch.ones_like(values) if mask is None else mask.to(values.dtype)
    weighted = values if mask is None else values.masked_fill(~mask, 0)
    shape = (examples, *values.shape[1:])
    total = values.new_zeros(shape).index_add(0, example, weighted)
    count = values.new_zeros(shape).index_add(0, example, counted)
    return total / count.clamp(min=1)


def logsumexp_by_example(logits: Tensor, mask: Tensor, example: Tensor, examples: int) -> Tensor:
    """Return the log of the sum of exponentials over all rows of each example.

    Args:
        logits: `(rows, length)`.
        mask: bool `(rows, length)`, what is summed.
        example: int64 `(rows,)`, the example that a row belongs to.
        examples: Number of examples.

    Returns:
        `(examples,)`; minus infinity where nothing is summed.
    """
    by_row = logits.masked_fill(~mask, -torch.inf).logsumexp(1)
    belongs = example == torch.arange(examples, device=example.device)[:, None]
    return by_row.expand(examples, -1).masked_fill(~belongs, -torch.inf).logsumexp(1)


def at_positions(hidden: Tensor, positions: Tensor) -> Tensor:
    """Pick tokens of each row.

    Args:
        hidden: `(rows, length, width)`.
        positions: int64 `(rows, n)`; a negative one is padding and gives an arbitrary token.

    Returns:
        `(rows, n, width)`.
    """
    index = positions.clamp(min=0)[..., None].expand(-1, -1, hidden.shape[2])
    return hidden.gather(1, index)
