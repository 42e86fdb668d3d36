"""What changes the scores of one head, piece by piece: a bias by distance, and a cap.

Where a piece is views of queries and keys, its bias is a strip of the head's table, the same for
all tiles of a run of windows; where queries or keys are listed, it is gathered. See
`kernels.scores.distances`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from sparse_patterns.kernels.scores.distances import add_at, diagonal_sums, strip
from sparse_patterns.kernels.tiles.head import SAFE_SCORE, Workspace
from sparse_patterns.kernels.tiles.pieces import Piece
from sparse_patterns.lowering.tiles.runs import PlanPart

LOWEST = 60.0
"""Without a shift, the largest weight of a row may be as small as exp(-LOWEST) and still be exact:
its products with values stay far above the smallest numbers of float32."""


@dataclass
class HeadTerms:
    """The bias and the cap of one head.

    Attributes:
        softcap: Scores become `softcap * tanh(score / softcap)`; None leaves them.
        bias: `(distances,)`, or None.
        origin: Index in `bias` of query row 0 with key 0.
        backward: Whether `differentiate` follows each `change`.
        grad: Where the gradient of `bias` is added, or None.
    """

    softcap: float | None
    bias: Tensor | None
    origin: int
    backward: bool = False
    grad: Tensor | None = None
    _made: tuple[object, Tensor] | None = None

    def is_small(self, bound: float, parts: list[PlanPart]) -> bool:
        """Return whether the scores of some parts need no shift, given a bound of the products."""
        top, lowest = bound, -bound
        if self.bias is not None and self.bias.numel():
            start, stop = self._reach(parts)
            least, most = torch.aminmax(self.bias[start:stop])
            top, lowest = top + float(most), lowest + float(least)
        if self.softcap is not None:
            top, lowest = min(top, self.softcap), max(lowest, -self.softcap)
        return top <= SAFE_SCORE and lowest >= -LOWEST

    def _reach(self, parts: list[PlanPart]) -> tuple[int, int]:
        """Return the first and behind the last index of the bias that some parts read."""
        assert self.bias is not None
        ends = []
        for part in parts:
            if part.keys is not None or part.queries is not None:
                return 0, self.bias.numel()
            for run in part.runs:
                first = self.origin + run.k_start - run.q_start
                last = first + (run.tiles - 1) * (run.k_tile - run.q_tile)
                ends.append(min(first, last) - (run.rows - 1) * run.q_step)
                ends.append(max(first, last) + (run.keys - 1) * run.k_step)
        return max(0, min(ends, default=0)), max(ends, default=0) + 1

    def change(self, scores: Tensor, piece: Piece, part: PlanPart, space: Workspace) -> None:
        """Add the bias to the scores of a piece `(C, T, L)` and cap them, in place."""
        if self.bias is not None:
            scores.add_(self._of_piece(self.bias, scores.shape, piece, part))
        if self.softcap is None:
            return
        scores.div_(self.softcap).tanh_()
        if self.backward:
            torch.mul(scores, scores, out=space.get("slope", *scores.shape))
        scores.mul_(self.softcap)

    def differentiate(self, grad: Tensor, piece: Piece, part: PlanPart, space: Workspace) -> None:
        """Turn the gradient of changed scores into that of products, in place, after `change`."""
        if self.softcap is not None:
            grad.addcmul_(grad, space.get("slope", *grad.shape), value=-1)
        if self.grad is None:
            return
        _, rows, columns = grad.shape
        where = _strip_of(piece, part, self.origin)
        if where is None or where[1] != where[2]:
            add_at(self.grad, self._index(grad.shape, piece, part), grad)
            return
        start, step, _ = where
        first = start - (rows - 1) * step
        sums = diagonal_sums(grad.sum(0) if grad.shape[0] > 1 else grad[0])
        self.grad[first : first + (rows + columns - 2) * step + 1 : step] += sums

    def _of_piece(self, bias: Tensor, shape: torch.Size, piece: Piece, part: PlanPart) -> Tensor:
        """Return the bias of the pairs of a piece; broadcasts to `(C, T, L)`."""
        where = _strip_of(piece, part, self.origin)
        if where is None:
            return bias[self._index(shape, piece, part)]
        start, q_step, k_step = where
        key = (*where, shape[1:])
        if self._made is None or self._made[0] != key:
            self._made = (key, strip(bias, start, shape[1], q_step, shape[2], k_step))
        return self._made[1]

    def _index(self, shape: torch.Size, piece: Piece, part: PlanPart) -> Tensor:
        """Return the index in the bias of each pair of a piece, int64 `(C, T, L)`."""
        assert self.bias is not None
        device, run = self.bias.device, piece.run
        tiles, rows, columns = shape
        tile = piece.tile + torch.arange(tiles, device=device)[:, None]
        q = run.q_start + tile * run.q_tile
        q = q + (piece.row + torch.arange(rows, device=device)) * run.q_step
        k = run.k_start + tile * run.k_tile + torch.arange(columns, device=device) * run.k_step
        q = q if part.queries is None else part.queries.to(device)[q]
        k = k if part.keys is None else part.keys.to(device)[k]
        return self.origin + k[:, None, :] - q[:, :, None]


def _strip_of(piece: Piece, part: PlanPart, origin: int) -> tuple[int, int, int] | None:
    """Return where the strip of a piece starts, and its steps by row and column.

    None where queries or keys are listed, or tiles have strips of their own.
    """
    run = piece.run
    if part.keys is not None or part.queries is not None:
        return None
    if piece.tiles > 1 and not piece.shared_keys and run.k_tile != run.q_tile:
        return None
    q = run.q_start + piece.tile * run.q_tile + piece.row * run.q_step
    k = run.k_start + piece.tile * run.k_tile
    return origin + k - q, run.q_step, run.k_step
