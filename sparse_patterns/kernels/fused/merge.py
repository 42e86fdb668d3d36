"""Merging partials by their log-sum-exp, and adding up their gradients.

Partials with no pair in common merge exactly: with `L = log(exp(a) + exp(b))`, the output is
`exp(a - L) * A + exp(b - L) * B`. Backward, each partial is given the *merged* output and
log-sum-exp: its weights `exp(score - L)` are then those of the whole softmax, and the sum of
`grad * out` over a row, which the softmax's gradient needs, is that of the whole row. So the
gradients of partials simply add up, without any gradient of the merge itself.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sparse_patterns.kernels.fused.views import TokenView


class Merge:
    """Output `(batch, length, heads, head_dim)` and log-sum-exp `(batch, length, heads)` so far.

    Args:
        like: Queries `(batch, length, heads, head_dim)`.
        dtype: Type that sums are held in.
    """

    def __init__(self, like: Tensor, dtype: torch.dtype) -> None:
        self._like = like
        self._dtype = dtype
        self._out: Tensor | None = None
        self.lse = torch.full(like.shape[:3], -torch.inf, dtype=dtype, device=like.device)

    @property
    def out(self) -> Tensor:
        """The output; zeros where nothing was seen."""
        if self._out is None:
            return torch.zeros_like(self._like, memory_format=torch.contiguous_format)
        return self._out

    def add(self, rows: TokenView, out: Tensor, lse: Tensor) -> None:
        """Merge a partial.

        Args:
            rows: Its query rows.
            out: Its output, of the shape that `rows` takes.
            lse: Its log-sum-exp `(batch, heads, length)`, infinite for a row without keys.
        """
        lse = lse.transpose(1, 2)
        lse = lse.masked_fill(lse == torch.inf, -torch.inf).to(self._dtype)
        if self._out is None and rows.all_of(self.lse):
            # The first partial covers everything: nothing is copied, and alone it stays as it is.
            self._out = out.reshape(self._like.shape)
            self.lse = lse.reshape(self.lse.shape).contiguous()
            return
        before = rows.take(self.lse)
        both = torch.logaddexp(before, lse)
        base = both.masked_fill(both == -torch.inf, 0)
        old, new = (before - base).exp(), (lse - base).exp()
        whole = rows.all_of(self.lse)
        total = self._room(None if whole else self._dtype)
        # Half types are multiplied in the type of the weights, and not copied before.
        merged = (rows.take(total) * old[..., None]).addcmul_(out, new[..., None])
        if whole:
            self._out = merged.reshape(self._like.shape)
        else:
            rows.put(total, merged)
        rows.put(self.lse, both)

    def replace(self, rows: TokenView, out: Tensor, lse: Tensor) -> None:
        """Overwrite the rows of a partial."""
        lse = lse.transpose(1, 2)
        rows.put(self._room(), out)
        rows.put(self.lse, lse.masked_fill(lse == torch.inf, -torch.inf).to(self._dtype))

    def clear(self, rows: Tensor) -> None:
        """Empty some rows: int64 `(n,)`, into the rows of all examples in one line."""
        self._room().flatten(0, 1).index_fill_(0, rows, 0)
        self.lse.flatten(0, 1).index_fill_(0, rows, -torch.inf)

    def _room(self, dtype: torch.dtype | None = None) -> Tensor:
        """Return the output to be written to, in a type if one is given."""
        if self._out is None:
            kept = dtype or self._dtype
            self._out = torch.zeros(self._like.shape, dtype=kept, device=self._like.device)
        self._out = self._out.to(dtype or self._out.dtype).contiguous()
        return self._out


class Sum:
    """A sum of gradients `(batch, length, heads, head_dim)`.

    Args:
        like: The tensor whose gradient it is.
        dtype: Type that sums are held in.
    """

    def __init__(self, like: Tensor, dtype: torch.dtype) -> None:
        self._like = like
        self._dtype = dtype
        self._total: Tensor | None = None
        self._owned = False

    @property
    def total(self) -> Tensor:
        """The sum."""
        if self._total is None:
            return torch.zeros_like(self._like, memory_format=torch.contiguous_format)
        return self._total

    def add(self, view: TokenView, value: Tensor) -> None:
        """Add the gradients of a partial's tokens."""
        if self._total is None and view.all_of(self._like):
            self._total = value.reshape(self._like.shape)
            return
        if self._total is None:
            self._total = torch.zeros(self._like.shape, dtype=self._dtype, device=self._like.device)
            self._owned = True
        elif not self._owned:
            self._total = self._total.to(self._dtype, copy=True).contiguous()
            self._owned = True
        view.add(self._total, value)
