"""Masks of tiles: different ones are told apart by their digests."""

from __future__ import annotations

import pytest
import torch

from sparse_patterns.lowering.tiles.masks import _digest


@pytest.mark.parametrize("column", range(9))
def test_masks_that_differ_in_one_column_of_eight_are_told_apart(column: int) -> None:
    # All subsets of 12 pairs, each in the same place of its eight, or of its nine.
    subsets = (torch.arange(1 << 12)[:, None] >> torch.arange(12)) & 1 == 1
    width = 8 if column < 8 else 9
    rows = torch.zeros(1 << 12, 12 * width, dtype=torch.bool)
    rows[:, column::width] = subsets
    assert _digest(rows).unique().numel() == 1 << 12


def test_equal_masks_have_equal_digests() -> None:
    rows = torch.rand(1, 100, generator=torch.Generator().manual_seed(0)) > 0.5
    assert _digest(rows.expand(5, -1).contiguous()).unique().numel() == 1
