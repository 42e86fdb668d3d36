"""Runs that are cut to lower tiles hold every visible pair once, and fewer that are not visible."""

from __future__ import annotations

import pytest
import torch

import sparse_patterns as sp
from sparse_patterns.lowering.tiles.cutting import cut_rows
from sparse_patterns.lowering.tiles.runs import TileRun


def visible_pairs(runs: list[TileRun], length: int) -> torch.Tensor:
    """How often runs show each pair, int64 `(length, length)`."""
    seen = torch.zeros(length, length, dtype=torch.int64)
    for run in runs:
        shape = (run.tiles, run.rows, run.keys)
        mask = torch.ones(shape, dtype=torch.bool) if run.mask is None else run.mask.expand(shape)
        rows = run.query_rows()[:, :, None].expand(shape)[mask]
        keys = run.key_indices()[:, None, :].expand(shape)[mask]
        seen.index_put_((rows, keys), torch.ones_like(rows), accumulate=True)
    return seen


@pytest.mark.parametrize("height", [1, 32, 50])
@pytest.mark.parametrize("pattern", [sp.Window(40, 7), sp.Window(20, 20, 3), sp.LocalBlock(48)])
def test_cutting_keeps_every_visible_pair(pattern: sp.Pattern, height: int) -> None:
    plan = sp.plan(pattern, 400, heads=1, head_dim=8)
    runs = [run for part in plan.groups[0].parts for run in part.runs]
    cut = [one for run in runs for one in cut_rows(run, height)]
    assert all(run.rows <= height or run.mask is None for run in cut)
    assert torch.equal(visible_pairs(cut, 400), visible_pairs(runs, 400))
    assert torch.equal(visible_pairs(cut, 400) > 0, sp.dense_mask(pattern, 400, heads=1)[0])
