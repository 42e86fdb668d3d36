"""Signatures: blocks of one kind have one mask, and regular patterns have few kinds."""

from __future__ import annotations

import pytest
import torch

import sparse_patterns as sp
from sparse_patterns.lowering.blocks.kinds import Places, kinds_of
from sparse_patterns.spec.binding import bind
from sparse_patterns.spec.oracle import ExampleContext, visible

LENGTH, SIZE = 256, 16
PATTERNS = {
    "window": (sp.Window(40, 70), 12),
    "dilated": (sp.Window(9, 9, 5), 25),
    "causal": (sp.Causal(), 3),
    "full": (sp.Full(), 1),
    "strided": (sp.Strided(24), 3),
    "local": (sp.LocalBlock(24), 22),
    "local, aligned": (sp.LocalBlock(64), 2),
    "summary": (sp.Summary(32, 4), 2),
    "globals": (sp.Global((0, 3, 100)), 16),
    "columns": (sp.Global((0, 3, 100), rows=False), 3),
    "random": (sp.RandomBlocks(16, 2), 16),
    "table": (sp.BlockTable([[0, 1], [1, 0]], 64), 48),
    "union": (sp.Window(9, 9) | sp.Strided(16), 5),
    "complement": (~sp.Window(9, 9), 5),
    "fine table": (sp.BlockTable([[1, 0, 1]] * 9, 1), 256),
    "rule": (sp.Rule(lambda q, k, head: (q * k) % 7 == 0), 256),
    "documents": (sp.SameDocument(), 256),
}


def all_places(**fields) -> Places:
    count = LENGTH // SIZE
    at = torch.arange(count**2)
    segments = torch.arange(LENGTH).div(40, rounding_mode="floor")
    context = ExampleContext(LENGTH, None, segments)
    return Places(at // count, at % count, SIZE, LENGTH, 0, context, fields.get("key_mask"))


@pytest.mark.parametrize("name", PATTERNS)
def test_one_kind_has_one_mask(name: str) -> None:
    pattern, most = PATTERNS[name]
    (one,) = bind(pattern, heads=1)
    places = all_places()
    kind, example = kinds_of(one, places)
    offset = torch.arange(SIZE)
    q, k = places.q_first[:, None] + offset, places.k_first[:, None] + offset
    masks = visible(one, q[:, :, None], k[:, None, :], places.context)
    masks = masks.expand(kind.numel(), SIZE, SIZE)
    assert torch.equal(masks[example][kind], masks)
    assert torch.equal(kind[example], torch.arange(example.numel()))
    assert example.numel() <= most


def test_padding_makes_kinds() -> None:
    mask = torch.ones(LENGTH, dtype=torch.bool)
    assert kinds_of(sp.Full(), all_places(key_mask=mask))[1].numel() == 1
    mask[100:] = False
    assert kinds_of(sp.Full(), all_places(key_mask=mask))[1].numel() == 3


def test_many_signatures_still_fit() -> None:
    # Each of the atoms alone has several values; all of them together do not fit one number.
    pattern = sp.Rule(lambda q, k, head: q < k)
    for size in range(30, 60):
        pattern = pattern | sp.LocalBlock(size)
    (one,) = bind(pattern, heads=1)
    assert kinds_of(one, all_places())[1].numel() == 256
