"""Pieces hold every visible pair of every head once, whatever they are batches of."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

import sparse_patterns as sp
from sparse_patterns.kernels.tiles import pieces
from sparse_patterns.kernels.tiles.pieces import cut, trimmed

LENGTH = 300
PATTERNS = {
    "window": sp.Window(40, 7),
    "tall tiles": sp.Window(100, 100),
    "global columns": sp.Window(9, 9) | sp.Global((0, 3), rows=False),
    "blocks": sp.LocalBlock(20),
    "random": sp.RandomBlocks(20, 2),
}


@pytest.mark.parametrize("few", [0, 1 << 30])
@pytest.mark.parametrize("heads", [1, 3])
@pytest.mark.parametrize("name", PATTERNS)
def test_every_visible_pair_is_in_one_piece(
    name: str, heads: int, few: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pieces, "FEW_SCORES", few)
    monkeypatch.setattr(pieces, "SCORES_AT_ONCE", 1 << 12)
    at: Any = SimpleNamespace(key_mask=None)
    seen = torch.zeros(heads, LENGTH, LENGTH)
    row = torch.arange(LENGTH).repeat(heads, 1)
    head = torch.arange(heads)[:, None].repeat(1, LENGTH)
    for part in sp.plan(PATTERNS[name], LENGTH, heads=1, head_dim=8).groups[0].parts:
        keys = torch.arange(LENGTH) if part.keys is None else part.keys
        keys = keys.repeat(heads, 1)
        assert part.queries is None
        for run in trimmed(part):
            for piece in cut(run, heads):
                q, k, h = piece.queries(row), piece.keys(keys), piece.queries(head)
                weights = torch.ones(*q.shape, k.shape[1])
                piece.hide(weights, at, part, additive=False)
                index = (h[..., None], q[..., None], k[:, None, :])
                index = tuple(x.expand_as(weights) for x in index)
                seen.index_put_(index, weights, accumulate=True)
    want = sp.dense_mask(PATTERNS[name], LENGTH, heads=1).float()
    assert torch.equal(seen, want.expand(heads, -1, -1))


def test_contributions_to_shared_keys_add_up() -> None:
    (part,) = sp.plan(sp.Window(40, 40), LENGTH, heads=1, head_dim=8).groups[0].parts
    total, want = torch.zeros(1, LENGTH, 2), torch.zeros(1, LENGTH, 2)
    overlapping = 0
    for run in trimmed(part):
        for piece in cut(run, 1):
            found = piece.keys(torch.randn(1, LENGTH, 2)).clone()
            piece.fold(total, found)
            overlapping += not piece.apart
            index = piece.keys(torch.arange(LENGTH)[None]).flatten()
            want.index_add_(1, index, found.flatten(0, 1)[None])
    assert overlapping
    torch.testing.assert_close(total, want)
