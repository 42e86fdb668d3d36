"""What changes the scores of some heads, piece by piece: a bias by distance, and a cap.

Where a piece is views of queries and keys, its bias is a strip of the table of each head, the same
for all tiles of a run of windows; where queries or keys are listed, it is gathered. See
`kernels.scores.distances`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from sparse_patterns.kernels.scores.distances import add_at, diagonal_sums, strip
from sparse_patterns.kernels.tiles.cap import Cap
from sparse_patterns.kernels.tiles.head import SAFE_SCORE, Side, Workspace
from sparse_patterns.kernels.tiles.pieces import Piece
from sparse_patterns.lowering.tiles.runs import PlanPart

LOWEST = 60.0
"""Without a shift, the largest weight of a row may be as small as exp(-LOWEST) and still be exact:
its products with values stay far above the smallest numbers of float32."""


NEGLIGIBLE = 36.0
"""A weight of exp(-NEGLIGIBLE) of the largest one of its row is rounded away in every type."""


@dataclass
class HeadTerms:
    """The bias and the cap of some heads.

    Attributes:
        scale: Factor of the products, with the unit of the cap.
        cap: How scores are capped, or None.
        bias: `(heads, distances)`, in the unit of the cap; or None.
        origin: Index in `bias` of query row 0 with key 0.
        backward: Whether `differentiate` follows each `fill`.
        grad: `(heads, distances)`, where the gradient of the bias is added, or None.
        floor: `(heads, 1, 1)`. What is below it in the bias counts as that much, which changes no
            sum: exponentials near the smallest numbers take many times as long as others.
    """

    scale: float
    cap: Cap | None
    bias: Tensor | None
    origin: int
    backward: bool = False
    grad: Tensor | None = None
    floor: Tensor | None = None
    _made: tuple[object, Tensor] | None = None

    @classmethod
    def of(
        cls,
        side: Side,
        parts: list[PlanPart],
        softcap: float | None,
        bias: tuple[Tensor, int, Tensor | None] | None,
        *,
        hidden: bool,
        backward: bool,
    ) -> Side:
        """Return a side whose scores are changed.

        Args:
            side: The heads, without terms.
            parts: The parts that are to be computed.
            softcap: The cap, or None.
            bias: `(heads, distances)`, `origin` and where to add its gradient; or None.
            hidden: Whether the example hides more than the masks of the parts.
            backward: Whether this is for the backward pass.
        """
        table, origin, grad = (None, 0, None) if bias is None else bias
        terms = cls(side.scale, None, table, origin, backward, grad)
        top, lowest = terms._range(side.bound, parts, hidden)
        if softcap is not None:
            least = 0.0 if table is None or not table.numel() else float(table.amin())
            cap = Cap.of(softcap, max(top, side.bound - least), side.q.dtype)
            terms.cap, terms.scale = cap, side.scale * cap.unit
            terms.bias = None if table is None else table * cap.unit
            # What is far below the largest score of a row is less far from it when capped.
            terms.floor = None
            top, lowest = min(top, softcap), max(lowest, -softcap)
        shift = max(0.0, top - SAFE_SCORE)
        small = lowest - shift >= -LOWEST
        if backward:
            # Scores are then lowered by their log-sum-exp, which may be the lowest of all.
            small = top - lowest <= 2 * SAFE_SCORE
        return replace(side, small=small, shift=shift if small else 0.0, terms=terms)

    def _range(self, bound: float, parts: list[PlanPart], hidden: bool) -> tuple[float, float]:
        """Return what no score exceeds, and what some score of every row exceeds.

        Args:
            bound: No product of a query and a key is larger.
            parts: The parts.
            hidden: Whether the example hides more than the masks of the parts.
        """
        if self.bias is None or not self.bias.numel():
            return bound, -bound
        start, stop = self._reach(parts)
        least, most = torch.aminmax(self.bias[:, start:stop], dim=-1)
        if float(least.amin()) - bound < -LOWEST and not hidden:
            least = self._least_of_rows(parts, least)
            floor = least - (2 * bound + NEGLIGIBLE)
            self.floor = floor[:, None, None] if bool(floor.isfinite().all()) else None
        return bound + float(most.amax()), float(least.amin()) - bound

    def _reach(self, parts: list[PlanPart]) -> tuple[int, int]:
        """Return the first and behind the last index of the bias that some parts read."""
        assert self.bias is not None
        ends = []
        for part in parts:
            if part.keys is not None or part.queries is not None:
                return 0, self.bias.shape[-1]
            for run in part.runs:
                first = self.origin + run.k_start - run.q_start
                last = first + (run.tiles - 1) * (run.k_tile - run.q_tile)
                ends.append(min(first, last) - (run.rows - 1) * run.q_step)
                ends.append(max(first, last) + (run.keys - 1) * run.k_step)
        return max(0, min(ends, default=0)), max(ends, default=0) + 1

    def _least_of_rows(self, parts: list[PlanPart], least: Tensor) -> Tensor:
        """Return the least over all rows of the largest bias that a row sees, `(heads,)`.

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
                largest.append(rows.masked_fill(rows == -torch.inf, torch.inf).amin(-1))
        return torch.stack(largest).amin(0) if largest else least

    def fill(
        self, scores: Tensor, q: Tensor, k: Tensor, piece: Piece, part: PlanPart, space: Workspace
    ) -> None:
        """Write the scores of a piece, not masked yet.

        Args:
            scores: Where to write, `(C, T, L)`.
            q: Its rows, `(C, T, D)`.
            k: Its keys, `(C, L, D)`.
            piece: The piece.
            part: Its part.
            space: Buffers.
        """
        factor = 0
        if self.bias is not None:
            scores.copy_(self._of_piece(scores.shape, piece, part))
            factor = 1
        if scores.shape[0] == 1:
            scores[0].addmm_(q[0], k[0].T, beta=factor, alpha=self.scale)
        else:
            scores.baddbmm_(q, k.mT, beta=factor, alpha=self.scale)
        if self.cap is None:
            return
        self.cap.apply(scores, space)
        if self.backward:
            torch.mul(scores, scores, out=space.get("slope", *scores.shape))

    def differentiate(self, grad: Tensor, piece: Piece, part: PlanPart, space: Workspace) -> None:
        """Turn the gradient of changed scores into that of products, in place, after `fill`."""
        if self.cap is not None:
            slope = space.get("slope", *grad.shape)
            grad.addcmul_(grad, slope, value=-1 / self.cap.softcap**2)
        if self.grad is None:
            return
        total = self.grad[piece.heads]
        _, rows, columns = grad.shape
        where = _strip_of(piece, part, self.origin)
        if where is None or where[1] != where[2]:
            index = self._index(grad.shape, piece, part)
            for own, found in zip(total, grad.unflatten(0, (total.shape[0], -1)), strict=True):
                add_at(own, index, found)
            return
        start, step, _ = where
        first = start - (rows - 1) * step
        some = grad.sum(0, keepdim=True) if total.shape[0] == 1 and grad.shape[0] > 1 else grad
        total[:, first : first + (rows + columns - 2) * step + 1 : step] += diagonal_sums(some)

    def _of_piece(self, shape: torch.Size, piece: Piece, part: PlanPart) -> Tensor:
        """Return the bias of the pairs of a piece; broadcasts to `(C, T, L)`."""
        assert self.bias is not None
        bias = self.bias[piece.heads]
        where = _strip_of(piece, part, self.origin)
        if where is None:
            return bias[:, self._index(shape, piece, part)].flatten(0, 1)
        start, q_step, k_step = where
        key = (*where, shape[1:], piece.heads.start, piece.heads.stop)
        if self._made is None or self._made[0] != key:
            made = strip(bias, start, shape[1], q_step, shape[2], k_step)
            floor = None if self.floor is None else self.floor[piece.heads]
            self._made = (key, made if floor is None else made.clamp_(min=floor))
        return self._made[1]

    def _index(self, shape: torch.Size, piece: Piece, part: PlanPart) -> Tensor:
        """Return the index in the bias of each pair of a piece, int64 `(tiles, T, L)`."""
        assert self.bias is not None
        device, run = self.bias.device, piece.run
        tiles = 1 if piece.shared_keys else piece.tiles
        rows, columns = shape[1:]
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
