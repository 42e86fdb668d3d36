"""Attention between rows and keys at any positions, dense, with exact masks.

It serves what is small or irregular: columns that every row sees, rows that see every key, and
distant keys of patterns that no kernel can be given a piece of. The backward pass takes the output
and log-sum-exp of all keys together, so that parts need not be remembered.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sparse_patterns.distributed.layout import Group
from sparse_patterns.kernels.base import accumulation_dtype
from sparse_patterns.kernels.exact import visible_sum
from sparse_patterns.spec.oracle import ExampleContext, visible

PAIRS_AT_ONCE = 1 << 22
"""Scores held at once, over all heads of one example."""


@dataclass(frozen=True, eq=False)
class Whole:
    """The masks of the whole sequence.

    Attributes:
        length: Tokens of the sequence.
        key_mask: bool `(batch, length)` or None.
        global_mask: bool `(batch, length)`, without padded tokens, or None.
        segment_ids: int64 `(batch, length)` or None.
    """

    length: int
    key_mask: Tensor | None
    global_mask: Tensor | None
    segment_ids: Tensor | None

    def context(self, example: int) -> ExampleContext:
        """Return what the patterns of an example are evaluated with."""
        marks = None if self.global_mask is None else self.global_mask[example]
        ids = None if self.segment_ids is None else self.segment_ids[example]
        return ExampleContext(self.length, marks, ids)

    def cut(self, name: str, start: int, stop: int) -> Tensor | None:
        """Return the part of a mask at some positions."""
        mask: Tensor | None = getattr(self, name)
        return None if mask is None else mask[:, start:stop].contiguous()


@dataclass(frozen=True, eq=False)
class Positions:
    """Positions of the whole sequence, of each example or of all of them.

    Attributes:
        at: int64 `(batch or 1, n)`.
        valid: bool of the shape of `at`: False where it only fills up; or None.
    """

    at: Tensor
    valid: Tensor | None = None

    def of(self, example: int) -> tuple[Tensor, Tensor | None]:
        """Return positions and validity of one example, `(n,)`."""
        row = example if self.at.shape[0] > 1 else 0
        return self.at[row], None if self.valid is None else self.valid[row]

    @classmethod
    def between(cls, start: int, stop: int, device: torch.device) -> Positions:
        """Return all positions of an interval."""
        return cls(torch.arange(start, stop, device=device)[None])


@dataclass(frozen=True, eq=False)
class Strip:
    """Rows and keys, and what the rows see.

    Attributes:
        groups: Heads with one pattern.
        whole: Masks of the sequence.
        rows: Where the rows are.
        keys: Where the keys are.
        scale: Factor of the scores.
        chosen: `chosen(group, example, positions)` says which rows a group computes, all if None.
    """

    groups: Sequence[Group]
    whole: Whole
    rows: Positions
    keys: Positions
    scale: float
    chosen: Callable[[Group, int, Tensor], Tensor] | None = None

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Return output and log-sum-exp in the accumulation type.

        Args:
            q: `(batch, heads, rows, head_dim)`.
            k: `(batch, kv_heads, keys, head_dim)`.
            v: Of the shape of `k`.
        """
        dtype = accumulation_dtype(q.dtype)
        out = torch.zeros(q.shape, dtype=dtype, device=q.device)
        lse = torch.full(q.shape[:3], -torch.inf, dtype=dtype, device=q.device)
        for example, rows, mask in self._pieces(q, k):
            scores = self._scores(q[example, :, rows], k[example], mask)
            logs = scores.logsumexp(-1)
            weights = scores.sub_(logs.masked_fill(logs == -torch.inf, 0)[..., None]).exp_()
            lse[example, :, rows] = logs
            values = _by_key_head(weights, k)
            seen = visible_sum(values, _by_key_head(mask, k), v[example].to(dtype))
            out[example, :, rows] = seen.reshape(out[example, :, rows].shape)
        return out, lse

    def backward(
        self, q: Tensor, k: Tensor, v: Tensor, grad_out: Tensor, delta: Tensor, lse: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return what these pairs add to the gradients, in the accumulation type.

        Args:
            q: As in `forward`.
            k: As in `forward`.
            v: As in `forward`.
            grad_out: Gradient of the output of all keys, of the shape of `q`.
            delta: `(batch, heads, rows)`, the product of output and its gradient in each row, less
                the gradient of the log-sum-exp.
            lse: Log-sum-exp of all keys; +inf for rows without a part in the gradients.
        """
        dtype = accumulation_dtype(q.dtype)
        grad_q, grad_k, grad_v = (
            torch.zeros(x.shape, dtype=dtype, device=x.device) for x in (q, k, v)
        )
        for example, rows, mask in self._pieces(q, k):
            queries = q[example, :, rows]
            weights = self._scores(queries, k[example], mask)
            weights = weights.sub_(lse[example, :, rows, None]).exp_()
            upstream = _by_key_head(grad_out[example, :, rows].to(dtype), k)
            inner = upstream @ v[example].to(dtype).mT
            inner = inner.sub_(_by_key_head(delta[example, :, rows, None], k))
            by_head = _by_key_head(weights, k)
            seen = _by_key_head(mask, k)
            inner = inner.mul_(by_head).masked_fill_(~seen, 0)
            found = visible_sum(inner, seen, k[example].to(dtype)) * self.scale
            grad_q[example, :, rows] = found.reshape(queries.shape)
            scaled = _by_key_head(queries.to(dtype) * self.scale, k)
            grad_k[example] += visible_sum(inner.mT, seen.mT, scaled)
            grad_v[example] += visible_sum(by_head.mT, seen.mT, upstream)
        return grad_q, grad_k, grad_v

    def _scores(self, q: Tensor, k: Tensor, mask: Tensor) -> Tensor:
        """Return masked scores `(heads, rows, keys)` of one example."""
        dtype = accumulation_dtype(q.dtype)
        rows = _by_key_head(q.to(dtype) * self.scale, k[None])
        scores = (rows @ k.to(dtype).mT).reshape(*q.shape[:2], k.shape[1])
        return scores.masked_fill_(~mask, -torch.inf)

    def _pieces(self, q: Tensor, k: Tensor) -> Iterator[tuple[int, slice, Tensor]]:
        """Yield example, rows, and what they see, bool `(heads, rows, keys)`."""
        batch, heads, count = q.shape[:3]
        at_once = max(1, PAIRS_AT_ONCE // max(1, heads * k.shape[2]))
        if not k.shape[2] or not q.numel():
            return
        for example in range(batch):
            for start in range(0, count, at_once):
                rows = slice(start, min(start + at_once, count))
                yield example, rows, self._mask(example, rows, heads)

    def _mask(self, example: int, rows: slice, heads: int) -> Tensor:
        q, q_valid = self.rows.of(example)
        k, k_valid = self.keys.of(example)
        q = q[rows]
        real = torch.ones(q.numel(), k.numel(), dtype=torch.bool, device=q.device)
        if q_valid is not None:
            real &= q_valid[rows, None]
        if k_valid is not None:
            real &= k_valid
        if self.whole.key_mask is not None:
            padding = self.whole.key_mask[example]
            real &= padding[q][:, None] & padding[k]
        context = self.whole.context(example)
        mask = torch.empty(heads, *real.shape, dtype=torch.bool, device=q.device)
        for group in self.groups:
            seen = visible(group.pattern, q[:, None], k[None], context) & real
            if self.chosen is not None:
                seen = seen & self.chosen(group, example, q)[:, None]
            mask[list(group.heads)] = seen
        return mask


def _by_key_head(x: Tensor, k: Tensor) -> Tensor:
    """Return `(heads, rows, n)` as `(kv_heads, heads of a key head * rows, n)`."""
    return x.reshape(k.shape[1], -1, x.shape[-1])
