"""A pattern of a piece of the keys sees in it what the pattern sees there in the sequence."""

import random

import pytest
import torch

import sparse_patterns as sp
from sparse_patterns.distributed.layout import groups_of
from sparse_patterns.distributed.relocation import alignment, keeps_rows_apart, relocate
from tests.random_specs import random_case, seeds


@pytest.mark.parametrize("seed", seeds(300, every_day=12))
def test_pairs_of_a_piece_are_those_of_the_sequence(seed: int) -> None:
    case, rng = random_case(seed), random.Random(seed)
    length, align = case.kv_len, alignment(case.pattern)
    start = rng.randint(0, length) // align * align
    stop = rng.randint(start, length)
    masks = {"global_mask": case.global_mask, "segment_ids": case.segment_ids}
    shape = {"heads": case.heads, "layer": case.layer, "layers": case.layers}
    whole = sp.dense_mask(case.pattern, length, **shape, **masks)
    moved = relocate(case.pattern, start, stop, length, **shape)
    parts = {name: None if x is None else x[:, start:stop] for name, x in masks.items()}
    piece = sp.dense_mask(moved, stop - start, **shape, **parts)
    whole, piece = (x if x.ndim == 4 else x[None] for x in (whole, piece))
    expected = whole[..., start:stop, start:stop].clone()
    for group in groups_of(case.pattern, case.heads, case.layer, case.layers, length):
        rows = torch.zeros(expected.shape[0], length, dtype=torch.bool)
        rows[:, list(group.row_tokens)] = True
        if group.batch_rows and case.global_mask is not None:
            rows |= case.global_mask
        # The rows of global tokens are computed elsewhere.
        heads = list(group.heads)
        for mask in (expected, piece):
            mask[:, heads] &= ~rows[:, None, start:stop, None]
    assert torch.equal(piece, expected), str(case)


def test_blocks_stay_whole() -> None:
    assert alignment(sp.LocalBlock(6) | sp.Summary(4, 1) | sp.Window(3, 3)) == 12


@pytest.mark.parametrize(
    ("pattern", "apart"),
    [
        (sp.Causal() | sp.Strided(3) | sp.Global((0,)), True),
        (sp.Causal() & sp.SameDocument(), False),
        (~(sp.Window(1, 1) | sp.Global((0,))), False),
        (~(sp.Window(1, 1) | sp.Global((0,), rows=False)), True),
        (sp.RandomBlocks(4, 2), False),
    ],
)
def test_what_serves_rows_outside_of_the_piece(pattern: sp.Pattern, apart: bool) -> None:
    assert keeps_rows_apart(pattern) is apart
