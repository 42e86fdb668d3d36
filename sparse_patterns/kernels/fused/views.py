"""Rows and keys of a partial as batches, and back."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from sparse_patterns.kernels.fused.operator import Shape
from sparse_patterns.lowering.fused.partials import Family, Packed, Partial


@dataclass(frozen=True)
class TokenView:
    """Which tokens of `(batch, length, ...)` tensors a partial takes.

    Attributes:
        size: `(count, length, first, tile, step)` of a family, None for a packed partial.
        index: int64 `(n,)` of a packed partial, into all tokens in one line; None for all of them.
    """

    size: tuple[int, int, int, int, int] | None
    index: Tensor | None

    def all_of(self, x: Tensor) -> bool:
        """Return whether the partial takes all tokens in order."""
        if self.size is None:
            return self.index is None
        return self.size[0] == 1 and self.size[1] == x.shape[1]

    def take(self, x: Tensor) -> Tensor:
        """Return the tokens as a batch `(batch, length, ...)`; a view where there is one."""
        if self.size is not None:
            return self._strided(x).flatten(0, 1)
        line = x.flatten(0, 1)
        return (line if self.index is None else line.index_select(0, self.index))[None]

    def put(self, x: Tensor, value: Tensor) -> None:
        """Overwrite the tokens of `x`, which is contiguous, by a batch that `take` returned."""
        if self.size is not None:
            target = self._strided(x)
            target.copy_(value.reshape(target.shape))
        elif self.index is None:
            x.flatten(0, 1).copy_(value[0])
        else:
            x.flatten(0, 1).index_copy_(0, self.index, value[0].to(x.dtype))

    def add(self, x: Tensor, value: Tensor) -> None:
        """Add a batch to the tokens of `x`, which is contiguous; a token may stand twice in it."""
        if self.size is not None:
            target = self._strided(x)
            target.add_(value.reshape(target.shape))
        elif self.index is None:
            x.flatten(0, 1).add_(value[0])
        else:
            x.flatten(0, 1).index_add_(0, self.index, value[0].to(x.dtype))

    def _strided(self, x: Tensor) -> Tensor:
        assert self.size is not None
        count, length, first, tile, step = self.size
        batch, token, *rest = x.stride()
        start = x.storage_offset() + first * token
        size = (x.shape[0], count, length, *x.shape[2:])
        return x.as_strided(size, (batch, tile * token, step * token, *rest), start)


def query_view(partial: Partial, device: torch.device) -> TokenView:
    """Return the query rows of a partial."""
    if isinstance(partial, Packed):
        return TokenView(None, partial.on(device)[0])
    one = partial
    return TokenView((one.count, one.rows, one.first_row, one.q_tile, one.step), None)


def key_view(partial: Partial, device: torch.device) -> TokenView:
    """Return the keys of a partial."""
    if isinstance(partial, Packed):
        return TokenView(None, partial.on(device)[1])
    one = partial
    return TokenView((one.count, one.keys, one.first_key, one.k_tile, one.step), None)


def shape_of(partial: Partial) -> Shape:
    """Return what an operator is to mask."""
    if isinstance(partial, Family):
        return Shape(partial.band)
    return Shape(partial.band, (partial.row_counts, partial.key_counts))
