"""Pairs and receptive fields counted from the normal form, against the oracle and the tiles."""

import pytest
import torch

import sparse_patterns as sp
from sparse_patterns.lowering.forms import forms_of
from sparse_patterns.lowering.numbers import Numbers, count_pairs, pairs_at_most
from sparse_patterns.lowering.tiles.count import count_tiles
from sparse_patterns.spec.binding import bind
from tests.random_specs import random_case, seeds

SHAPES = [(64, 64, 0), (17, 90, 73), (90, 17, -73), (12, 40, -5), (0, 9, 9), (9, 0, 0)]

COUNTED = {
    "window": sp.Window(5, 2),
    "nested": sp.Window(5, 2) | sp.Causal() & sp.LocalBlock(8),
    "apart": sp.Window(5, 2) | ~sp.Causal() & sp.LocalBlock(16),
    "dilated": sp.Window(3, 1, 4) | sp.Window(2, 2),
    "strided": sp.Strided(7) & sp.Causal() | sp.Window(9, 0),
    "fixed": sp.Summary(8, 2) & sp.Causal() | sp.LocalBlock(8),
    "globals": sp.Window(3, 3) | sp.Global((0, 30, -1)),
    "sinks": sp.Window(3, 0) | sp.Global((0, 1), rows=False) & sp.Causal(),
    "nothing": sp.Causal() & ~sp.Causal() & sp.Window(0, 0),
    "full": sp.Full(),
    "batch": sp.Window(2, 2) | sp.BatchGlobal(),
    "documents": sp.Window(4, 4) & sp.SameDocument(),
}

LEFT_TO_TILES = {
    "rule": sp.Rule(lambda q, k, head: (q + k) % 3 == 0),
    "random": sp.RandomBlocks(8, 2),
    "two lists": sp.Global((3,), rows=False) | sp.Summary(8, 1),
    "not whole rows": sp.Global((3,)) & sp.Causal(),
}


def expected(pattern: sp.Pattern, q_len: int, kv_len: int, q_offset: int) -> Numbers:
    segments = torch.zeros(1, kv_len, dtype=torch.int64)
    given = {"segment_ids": segments} if pattern == COUNTED["documents"] else {}
    mask = sp.dense_mask(pattern, q_len, kv_len, heads=1, q_offset=q_offset, **given)
    mask = mask.flatten(0, -3)[0]
    distance = torch.arange(q_len)[:, None] + q_offset - torch.arange(kv_len)
    distance = distance.expand_as(mask)[mask]
    if not distance.numel():
        return Numbers(0, (0, 0))
    return Numbers(int(mask.sum()), (max(0, int(distance.max())), max(0, -int(distance.min()))))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", COUNTED)
def test_the_normal_form_counts_what_the_oracle_shows(name: str, shape) -> None:
    (bound,) = bind(COUNTED[name], heads=1)
    forms = forms_of(bound, *shape)
    counted = count_pairs(bound, forms.conjuncts, *shape)
    assert counted == expected(COUNTED[name], *shape)
    assert forms.numbers == counted


@pytest.mark.parametrize("name", LEFT_TO_TILES)
def test_what_the_normal_form_cannot_count_is_left_to_the_tiles(name: str) -> None:
    (bound,) = bind(LEFT_TO_TILES[name], heads=1)
    forms = forms_of(bound, 64, 64, 0)
    assert count_pairs(bound, forms.conjuncts, 64, 64, 0) is None
    assert forms.numbers == expected(LEFT_TO_TILES[name], 64, 64, 0)


@pytest.mark.parametrize("seed", seeds(120, every_day=40))
def test_random_specs_count_the_same_in_both_ways_and_stay_below_the_bound(seed: int) -> None:
    case = random_case(seed)
    for bound in bind(case.pattern, heads=case.heads, layer=case.layer, layers=case.layers):
        shape = (case.q_len, case.kv_len, case.q_offset or 0)
        forms = forms_of(bound, *shape)
        counted = count_pairs(bound, forms.conjuncts, *shape)
        by_tiles = count_tiles(forms.tiles, *shape)
        assert counted in (None, by_tiles), case
        rows = len(forms.row_tokens) * case.kv_len
        assert pairs_at_most(forms.conjuncts, *shape) + rows >= by_tiles.visible, case
