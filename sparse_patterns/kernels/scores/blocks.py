"""What changes scores that are held block by block."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from sparse_patterns.kernels.scores.distances import add_at, diagonal_sums, strip
from sparse_patterns.kernels.scores.terms import Distances, Scores


class BlockTerms:
    """The bias and the cap of scores `(pairs, blocks, size, size)`.

    Args:
        scores: What changes the scores.
        distances: The bias of the call, or None.
        pairs: Example and head of each of the first dimension.
        row: int64 `(blocks,)`, block row of each block.
        column: int64 `(blocks,)`, block column.
        size: Rows and columns of a block.
    """

    def __init__(
        self,
        scores: Scores,
        distances: Distances | None,
        pairs: Sequence[tuple[int, int]],
        row: Tensor,
        column: Tensor,
        size: int,
    ) -> None:
        self.scores, self.distances, self.pairs, self.size = scores, distances, pairs, size
        self.first = (column - row) * size

    def change(self, values: Tensor) -> Tensor | None:
        """Add the bias and cap, in place; see `Scores.change`."""
        if self.distances is not None:
            index = self._index()
            for (example, head), own in zip(self.pairs, values, strict=True):
                diagonals = self.distances.of(example)[head][index]
                own.add_(strip(diagonals, self.size - 1, self.size, 1, self.size, 1))
        return self.scores.change(values, None)

    def differentiate(self, grad: Tensor, slope: Tensor | None) -> None:
        """Turn the gradient of changed scores into that of products, in place."""
        if slope is not None:
            grad.mul_(slope)
        if self.distances is None or self.distances.grad is None:
            return
        index = self._index()
        for (example, head), own in zip(self.pairs, grad, strict=True):
            add_at(self.distances.grad[example, head], index, diagonal_sums(own))

    def _index(self) -> Tensor:
        """Return where the diagonals of each block are in the bias, `(blocks, 2 * size - 1)`.

        Those behind the last row or column are of no pair, and any index will do.
        """
        assert self.distances is not None
        around = torch.arange(1 - self.size, self.size, device=self.first.device)
        index = self.distances.origin - self.distances.q_offset + self.first[:, None] + around
        return index.clamp(0, max(0, self.distances.values.shape[-1] - 1))
