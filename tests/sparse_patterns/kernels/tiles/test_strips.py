"""Strips hold every visible pair of their runs once, and fewer that are not visible."""

from __future__ import annotations

import pytest
import torch

import sparse_patterns as sp
from sparse_patterns.kernels.tiles.strips import cut_rows, strips_of
from sparse_patterns.lowering.tiles.runs import PlanPart, TileRun


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


def test_strips_compute_less_than_their_runs() -> None:
    (part,) = sp.plan(sp.Window(256, 256), 2048, heads=1, head_dim=8).groups[0].parts
    strips = strips_of(part, 12, 2048, torch.float32)
    assert strips.whole
    assert sum(one.run.pairs for one in strips.strips) < 0.95 * part.pairs
    assert strips_of(part, 12, 2048, torch.float32) is strips


def test_rows_without_keys_are_known() -> None:
    (part,) = sp.plan(sp.Window(3, 0), 90, 20, heads=1, head_dim=8, q_offset=0).groups[0].parts
    assert not strips_of(part, 1, 90, torch.float32).whole


def test_equal_parts_of_tall_tiles_are_one_run() -> None:
    (part,) = sp.plan(sp.Window(256, 256), 2048, heads=1, head_dim=8).groups[0].parts
    (tall,) = [run for run in part.runs if run.tiles > 1]
    of_tall = [one.run for one in strips_of(part, 12, 2048, torch.float32).strips][:1]
    assert of_tall[0].tiles == 2 * tall.tiles
    assert of_tall[0].rows == tall.rows // 2


def test_a_run_of_which_nothing_is_visible_has_no_strips() -> None:
    hidden = torch.zeros(1, 64, 40, dtype=torch.bool)
    part = PlanPart("window", (TileRun(2, 64, 40, 0, 1, 64, 0, 1, 40, hidden),))
    strips = strips_of(part, 1, 128, torch.float32)
    assert not strips.strips
    assert not strips.whole
