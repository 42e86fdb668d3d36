"""Cells hold the tiles of a part once each, with the keys that these index."""

from __future__ import annotations

import torch

import sparse_patterns as sp
from sparse_patterns.kernels.tiles.fused.cells import cells_of
from sparse_patterns.kernels.tiles.fused.strips import strips_of


def test_cells_hold_each_tile_once_with_its_keys() -> None:
    pattern = sp.GridWindow((32, 32), (3, 5))
    (part,) = sp.plan(pattern, 1024, heads=1, head_dim=8).groups[0].parts
    assert part.keys is not None
    strips = strips_of(part, 12, 1024, torch.float32)
    cells = cells_of(part, strips, 1)
    assert len(cells) > 1
    assert cells_of(part, strips, 1) is cells
    assert len(cells_of(part, strips, 1 << 20)) == 1
    seen = torch.zeros(1024, 1024, dtype=torch.int64)
    for cell in cells:
        assert cell.keys is not None
        for strip in cell.strips:
            assert strip.place is not None
            rows = strip.place.rows(torch.arange(1024)[None])[0].reshape(strip.run.tiles, -1)
            keys = cell.keys.index[strip.run.key_indices() - cell.k_first]
            shape = (strip.run.tiles, strip.run.rows, strip.run.keys)
            mask = torch.ones(shape, dtype=torch.bool)
            if strip.bias is not None:
                mask = (strip.bias == 0).expand(shape)
            pairs = [x.expand(shape)[mask] for x in (rows[:, :, None], keys[:, None, :])]
            seen.index_put_(tuple(pairs), torch.ones_like(pairs[0]), accumulate=True)
    assert torch.equal(seen, sp.dense_mask(pattern, 1024, heads=1)[0].long())


def test_tiles_that_follow_each_other_backwards_are_apart() -> None:
    # A dilation of 2 lists the even rows of the grid before the odd ones.
    pattern = sp.GridWindow((33, 64), (1, 7), (2, 1))
    draw = torch.Generator().manual_seed(0)
    q, k, v = torch.randn(3, 1, 4, 2112, 8, generator=draw)
    out = sp.attention(q, k, v, pattern, kernel="tiles")
    torch.testing.assert_close(out, sp.attention(q, k, v, pattern, kernel="dense"))
