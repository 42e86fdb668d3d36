"""What is added to the scores of whole runs of tiles, in some heads at once: masks and a bias."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from sparse_patterns.kernels.scores.distances import strip
from sparse_patterns.kernels.tiles.fused.strips import Strip
from sparse_patterns.kernels.tiles.selection import Selection
from sparse_patterns.lowering.tiles.runs import PlanPart, TileRun

MASK_AT_ONCE = 1 << 19
"""Elements of a mask that is made at the call."""


@dataclass(frozen=True, eq=False)
class Bias:
    """What is added to the scores of some heads.

    Attributes:
        table: `(heads, distances)`.
        origin: Index in `table` of query row 0 with key 0.
    """

    table: Tensor
    origin: int

    def is_alike(self, run: TileRun, part: PlanPart) -> bool:
        """Return whether all tiles of a run have the same bias, which is a strip of the table."""
        listed = part.keys is not None or part.queries is not None
        return not listed and (run.tiles == 1 or run.k_tile == run.q_tile)

    def of_run(self, run: TileRun, part: PlanPart) -> Tensor:
        """Return the bias of a run, `(heads, tiles or 1, rows, keys)`."""
        if self.is_alike(run, part):
            start = self.origin + run.k_start - run.q_start
            return strip(self.table, start, run.rows, run.q_step, run.keys, run.k_step)[:, None]
        device = self.table.device
        q, k = run.query_rows().to(device), run.key_indices().to(device)
        q = q if part.queries is None else part.queries.to(device)[q]
        k = k if part.keys is None else part.keys.to(device)[k]
        index = self.origin + k[:, None, :] - q[:, :, None]
        return torch.index_select(self.table, 1, index.flatten()).unflatten(1, index.shape)


def masked(
    strip: Strip, at: Selection, part: PlanPart, bias: Bias | None
) -> Iterator[tuple[TileRun, Tensor | None, Tensor | None]]:
    """Yield the tiles of a strip with everything that is added to their scores.

    Yields:
        The tiles; what is added, `(heads or 1, tiles or 1, rows or 1, keys)` or None; and which
        rows see nothing, bool `(tiles or 1, rows or 1)` or None.
    """
    hides = at.key_mask is not None or part.documents or part.dynamic is not None
    alike = bias is None or bias.is_alike(strip.run, part)
    count = 1 if alike or bias is None else bias.table.shape[0]
    if bias is not None and strip.bias is not None and strip.bias.shape[0] > 1:
        count = bias.table.shape[0]
    at_once = strip.run.tiles
    if hides or count > 1:
        at_once = max(1, MASK_AT_ONCE // (count * strip.run.rows * strip.run.keys))
    tile = 0
    for run in strip.run.split(at_once) if at_once < strip.run.tiles else (strip.run,):
        stop = tile + run.tiles
        mask, empty = (
            x if x is None or x.shape[0] == 1 else x[tile:stop] for x in (strip.bias, strip.empty)
        )
        factors = (
            at.factors(torch.Size((run.tiles, run.rows, run.keys)), part, run, 0, 0)
            if hides
            else ()
        )
        hidden = [factor.to(at.padded.device).log() for factor in factors]
        for one in hidden:
            mask = one if mask is None else mask + one.to(mask.dtype)
        if hidden:
            assert mask is not None
            empty = (mask == -torch.inf).all(-1)
        added = None if mask is None else mask[None]
        if bias is not None:
            own = bias.of_run(run, part)
            added = own if added is None else own + added.to(own.dtype)
        yield run, added, empty
        tile = stop
