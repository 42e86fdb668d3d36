"""What changes the scores of one head, piece by piece: a bias by distance, and a cap.

Where a piece is views of queries and keys, its bias is a strip of the head's table, the same for
all tiles of a run of windows; where queries or keys are listed, it is gathered. See
`kernels.scores.distances`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from sparse_patterns.kernels.scores.distances import add_at, diagonal_sums, strip
from sparse_patterns.kernels.scores.terms import Distances, Scores
from sparse_patterns.kernels.tiles.head import SAFE_SCORE, Workspace
from sparse_patterns.kernels.tiles.pieces import Piece
from sparse_patterns.lowering.tiles.runs import PlanPart

LOWEST = 60.0
"""Without a shift, the largest weight of a row may be as small as exp(-LOWEST) and still be exact:
its products with values stay far above the smallest numbers of float32."""


NEGLIGIBLE = 36.0
"""A weight of exp(-NEGLIGIBLE) of the largest one of its row is rounded away in every type."""


@dataclass
class HeadTerms:
    """The bias and the cap of one head.

    Attributes:
        q: Scaled queries `(n, D)`; with a cap, times `2 / softcap`.
        softcap: Scores become `softcap * tanh(score / softcap)`; None leaves them.
        bias: `(distances,)`, multiplied like `q`; or None.
        origin: Index in `bias` of query row 0 with key 0.
        backward: Whether `differentiate` follows each `fill`.
        grad: Where the gradient of the bias is added, or None.
        floor: What is below it in the bias counts as that much, which changes no sum: exponentials
            near the smallest numbers take many times as long as others.
    """

    q: Tensor
    softcap: float | None
    bias: Tensor | None
    origin: int
    backward: bool = False
    grad: Tensor | None = None
    floor: float | None = None
    _made: tuple[object, Tensor] | None = None

    @classmethod
    def of(
        cls, q: Tensor, scores: Scores, distances: Distances | None, example: int, head: int
    ) -> HeadTerms:
        """Return the terms of a head whose scaled queries are `q`."""
        bias = grad = None
        origin = 0
        if distances is not None:
            bias, origin = distances.of(example)[head], distances.origin - distances.q_offset
            grad = None if distances.grad is None else distances.grad[example, head]
        if scores.softcap is not None:
            q = q * (2 / scores.softcap)
            bias = None if bias is None else bias * (2 / scores.softcap)
        return cls(q, scores.softcap, bias, origin, grad=grad)

    def is_small(self, bound: float, parts: list[PlanPart], hidden: bool) -> bool:
        """Return whether the scores of some parts need no shift.

        Args:
            bound: No product of a query and a key is larger.
            parts: The parts.
            hidden: Whether the example hides more than the masks of the parts.
        """
        top, lowest = bound, -bound
        if self.bias is not None and self.bias.numel():
            unit = 1.0 if self.softcap is None else self.softcap / 2
            start, stop = self._reach(parts)
            least, most = torch.aminmax(self.bias[start:stop])
            top = top + unit * float(most)
            if lowest + unit * float(least) < -LOWEST and not hidden:
                least = self._least_of_rows(parts, least)
                floor = float(least) - (2 * bound + NEGLIGIBLE) / unit
                self.floor = floor if math.isfinite(floor) else None
            lowest = lowest + unit * float(least)
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

    def _least_of_rows(self, parts: list[PlanPart], least: Tensor) -> Tensor:
        """Return the least over all rows of the largest bias that a row sees.

        A row of large weights next to tiny ones is exact. Only rows of windows are looked at, whose
        tiles are alike; where there are others, `least` is returned.
        """
        assert self.bias is not None
        largest = []
        for part in parts:
            if part.name != "window" or part.documents or part.dynamic is not None:
                return least
            for run in part.runs:
                mask = run.mask
                if (mask is not None and mask.shape[0] > 1) or run.k_tile != run.q_tile:
                    return least
                start = self.origin + run.k_start - run.q_start
                own = strip(self.bias, start, run.rows, run.q_step, run.keys, run.k_step)
                if mask is not None:
                    own = own.masked_fill(~mask[0].to(own.device), -torch.inf)
                rows = own.amax(-1)
                largest.append(rows.masked_fill(rows == -torch.inf, torch.inf).amin())
        return torch.stack(largest).amin() if largest else least

    def fill(
        self, scores: Tensor, q: Tensor, k: Tensor, piece: Piece, part: PlanPart, space: Workspace
    ) -> None:
        """Write the scores of a piece, not masked yet.

        Args:
            scores: Where to write, `(C, T, L)`.
            q: The piece's rows of `self.q`, `(C, T, D)`.
            k: Its keys, `(C, L, D)`.
            piece: The piece.
            part: Its part.
            space: Buffers.
        """
        factor = 0
        if self.bias is not None:
            scores.copy_(self._of_piece(self.bias, scores.shape, piece, part))
            factor = 1
        if scores.shape[0] == 1:
            scores[0].addmm_(q[0], k[0].T, beta=factor)
        else:
            scores.baddbmm_(q, k.mT, beta=factor)
        if self.softcap is None:
            return
        # tanh(x) = (exp(2x) - 1) / (exp(2x) - 1 + 2) is as exact and takes half the time. Beyond
        # the limit it is 1 in every type.
        scores.clamp_(max=2 * SAFE_SCORE).expm1_()
        scores.div_(torch.add(scores, 2, out=space.get("slope", *scores.shape)))
        if self.backward:
            torch.mul(scores, scores, out=space.get("slope", *scores.shape))
        scores.mul_(self.softcap)

    def differentiate(self, grad: Tensor, piece: Piece, part: PlanPart, space: Workspace) -> None:
        """Turn the gradient of changed scores into that of products, in place, after `fill`."""
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
            made = strip(bias, start, shape[1], q_step, shape[2], k_step)
            self._made = (key, made if self.floor is None else made.clamp_(min=self.floor))
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
