"""A long computation in parts, so that memory is that of one part."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

__all__ = ["in_parts"]


def in_parts(function: Callable[[slice], Tensor], count: int, size: int) -> Tensor:
    """Join the results of `function(slice)` over `count` things, `size` of them at a time.

    Where there are several parts, what is inside is computed again for the gradient instead of
    being kept.
    """
    if count <= size:
        return function(slice(0, count))
    parts = []
    for first in range(0, count, size):
        part = slice(first, min(first + size, count))
        if torch.is_grad_enabled():
            joined = checkpoint(function, part, use_reentrant=False)
            assert isinstance(joined, Tensor)
            parts.append(joined)
        else:
            parts.append(function(part))
    return torch.cat(parts)
