"""What changes the scores of a call, and the bias of each pair as kernels read it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sparse_patterns.kernels.scores.distances import diagonal_sums, folded, spread, strip


@dataclass(frozen=True, eq=False)
class Scores:
    """What changes scores, in this order: `bias` is added, they are capped; masks follow.

    Attributes:
        softcap: Scores become `softcap * tanh(score / softcap)`; None leaves them.
        sinks: `(batch, heads)`, a logit that takes weight in every row, in the accumulation type.
        bias: `(batch, heads, 2 * m + 1)`, the bias of each distance, in the accumulation type.
        bias_grad: Whether the gradient of the bias is wanted.
    """

    softcap: float | None = None
    sinks: Tensor | None = None
    bias: Tensor | None = None
    bias_grad: bool = False

    @property
    def plain(self) -> bool:
        """Whether scores are the scaled products alone."""
        return self.softcap is None and self.bias is None

    def change(self, scores: Tensor, bias: Tensor | None) -> Tensor | None:
        """Add the bias of some pairs to their scores and cap them, in place.

        Args:
            scores: Scaled products; what is hidden is not masked yet.
            bias: Of the same pairs, or None.

        Returns:
            The derivative of the new scores by the old ones, None where it is 1.
        """
        if bias is not None:
            scores.add_(bias)
        if self.softcap is None:
            return None
        scores.div_(self.softcap).tanh_()
        slope = 1 - scores.square()
        scores.mul_(self.softcap)
        return slope


PLAIN = Scores()
"""Scores that nothing changes."""


class Distances:
    """The bias of a call for every distance between its queries and keys, and its gradient.

    Attributes:
        origin: Index of distance 0.
        values: `(batch or 1, heads, distances)`, one row where all examples have the same.
        grad: `(batch, heads, distances)` zeros to add to, or None where none is wanted.
    """

    def __init__(
        self, scores: Scores, q_len: int, kv_len: int, q_offset: int, backward: bool = False
    ) -> None:
        assert scores.bias is not None
        table = scores.bias
        self.size = table.shape[-1]
        self.q_len, self.kv_len, self.q_offset = q_len, kv_len, q_offset
        self.low = -(q_offset + q_len - 1)
        self.origin = -self.low
        own = table if table.stride(0) else table[:1]
        count = max(0, q_len + kv_len - 1)
        self.values = spread(own, self.low, self.low + count - 1)
        shape = (*table.shape[:2], count)
        self.grad: Tensor | None = None
        if backward and scores.bias_grad:
            self.grad = torch.zeros(shape, dtype=table.dtype, device=table.device)

    @classmethod
    def of_call(cls, call: Any, backward: bool = False) -> Distances | None:
        """Return those of a `kernels.base.Call`, None without a bias."""
        request = call.request
        if call.scores.bias is None:
            return None
        return cls(call.scores, request.q_len, request.kv_len, request.q_offset, backward)

    def of(self, example: int) -> Tensor:
        """Return the values of an example, `(heads, distances)`."""
        return self.values[example if self.values.shape[0] > 1 else 0]

    def matrix(self, some: slice) -> Tensor:
        """Return the bias of all pairs, `(examples or 1, heads, q_len, kv_len)` of some."""
        values = self.values[some] if self.values.shape[0] > 1 else self.values
        return strip(values, self.q_len - 1, self.q_len, 1, self.kv_len, 1)

    def add_matrix(self, some: slice, grad: Tensor) -> None:
        """Add the gradient of every pair of some examples, `(examples, heads, q_len, kv_len)`."""
        if self.grad is not None and grad.numel():
            self.grad[some] += diagonal_sums(grad)

    def index(self, rows: Tensor) -> Tensor:
        """Return the index of each pair of some query rows and all keys, int64 `(rows, kv_len)`."""
        keys = torch.arange(self.kv_len, device=rows.device)
        return self.origin + keys - (rows[:, None] + self.q_offset)

    def table(self) -> Tensor:
        """Return the gradient of the bias, `(batch, heads, 2 * m + 1)`."""
        assert self.grad is not None
        return folded(self.grad, self.low, self.size)


def bias_gradient(distances: Distances | None) -> tuple[Tensor, ...]:
    """Return the gradient of the bias as what a kernel adds to its gradients, if it is wanted."""
    return () if distances is None or distances.grad is None else (distances.table(),)
