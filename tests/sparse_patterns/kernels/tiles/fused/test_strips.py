"""Strips hold every visible pair of their runs once, and fewer that are not visible."""

from __future__ import annotations

import torch

import sparse_patterns as sp
from sparse_patterns.kernels.tiles.fused.strips import strips_of
from sparse_patterns.lowering.tiles.runs import PlanPart, TileRun


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
    strips = strips_of(part, 12, 2048, torch.float32).strips
    (of_tall,) = [one.run for one in strips if one.run.tiles > 1]
    assert of_tall.tiles == 2 * tall.tiles
    assert of_tall.rows == tall.rows // 2


def test_a_run_of_which_nothing_is_visible_has_no_strips() -> None:
    hidden = torch.zeros(1, 64, 40, dtype=torch.bool)
    part = PlanPart("window", (TileRun(2, 64, 40, 0, 1, 64, 0, 1, 40, hidden),))
    strips = strips_of(part, 1, 128, torch.float32)
    assert not strips.strips
    assert not strips.whole
