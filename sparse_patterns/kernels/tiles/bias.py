"""The bias of the scores by distance of some heads at once, for whole runs of tiles."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from sparse_patterns.kernels.scores.distances import strip
from sparse_patterns.lowering.tiles.runs import PlanPart, TileRun


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
