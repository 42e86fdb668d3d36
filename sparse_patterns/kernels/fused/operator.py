"""The seam between partials and the operator that runs one: everything else is plain torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from sparse_patterns.lowering.fused.bands import Band


@dataclass(frozen=True)
class Shape:
    """What an operator call masks.

    Attributes:
        band: The window, aligned at the bottom right of each rectangle.
        lengths: Rows and keys of each rectangle where several are packed one after the other in a
            batch of one, else None: every example of the batch is one rectangle.
    """

    band: Band
    lengths: tuple[tuple[int, ...], tuple[int, ...]] | None = None


class Operator(Protocol):
    """A fused attention operator.

    Tensors are `(batch, length, heads, head_dim)` with `head_dim` a multiple of 8 and a last stride
    of 1; `k` and `v` may have fewer heads, which divide those of `q`. The log-sum-exp is
    `(batch, heads, length)`; what it is for a row without keys does not matter, as long as it is
    infinite and the row's output is zeros.
    """

    def forward(
        self, q: Tensor, k: Tensor, v: Tensor, shape: Shape, scale: float
    ) -> tuple[Tensor, Tensor]:
        """Return output and log-sum-exp."""

    def backward(
        self,
        grad: Tensor,
        out: Tensor,
        lse: Tensor,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        shape: Shape,
        scale: float,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return the gradients of `q, k, v` for weights `exp(score - lse)`.

        `out` and `lse` need not be what the forward pass of these inputs returned: weights are
        computed from `lse`, +inf for a row that gives none, and `out` only serves for the sum of
        `grad * out` over each row.
        """
