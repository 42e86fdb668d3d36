"""Conjuncts together are the pattern, and each says of its pairs what is so."""

import pytest
import torch

import sparse_patterns as sp
from sparse_patterns.lowering.normal_form import (
    MAX_CONJUNCTS,
    UNLIMITED,
    has_batch_rows,
    row_tokens,
    to_conjuncts,
    without,
)
from sparse_patterns.spec.base import union
from sparse_patterns.spec.binding import bind
from sparse_patterns.spec.oracle import ExampleContext, visible
from tests.random_specs import random_case, seeds

WINDOW, CAUSAL = sp.Window(3, 2), sp.Causal()


def seen(pattern: sp.Pattern, length: int, context: ExampleContext) -> torch.Tensor:
    places = torch.arange(length)
    return visible(pattern, places[:, None], places[None], context).expand(length, length)


@pytest.mark.parametrize("seed", seeds(60, every_day=30))
def test_conjuncts_of_random_specs_are_the_pattern_but_for_global_rows(seed: int) -> None:
    case = random_case(seed)
    length = case.kv_len
    generator = torch.Generator().manual_seed(seed)
    marks = torch.rand(length, generator=generator) < 0.2
    documents = (torch.rand(length, generator=generator) < 0.2).long().cumsum(0)
    context = ExampleContext(length, marks, documents)
    for one in set(bind(case.pattern, heads=case.heads, layer=case.layer, layers=case.layers)):
        conjuncts = to_conjuncts(one)
        got = seen(union(*(each.pattern for each in conjuncts)), length, context)
        want = seen(one, length, context)
        rows = torch.zeros(length, dtype=torch.bool)
        rows[list(row_tokens(one, length))] = True
        if has_batch_rows(one):
            rows |= marks
        assert torch.equal(got[~rows], want[~rows]), case
        for each in conjuncts:
            low, high = each.bounds(torch.arange(length), length)
            places = torch.arange(length)
            bounds = (places >= low[:, None]) & (places <= high[:, None])
            own = seen(each.pattern, length, context)
            assert not (own & ~bounds).any(), case
            distance = places[:, None] - places
            assert not (own & (distance % each.dilation != 0)).any(), case
            keys = each.key_list(length)
            if keys is not None:
                assert not own[:, ~torch.isin(places, keys)].any(), case


def test_literals_are_sorted_into_bounds() -> None:
    pattern = sp.Window(6, 2, 2) & CAUSAL & sp.LocalBlock(8) & sp.Strided(3) & sp.SameDocument()
    (one,) = to_conjuncts(pattern)
    assert (one.left, one.right, one.dilation, one.blocks) == (12, 0, 6, (8,))
    assert one.documents
    assert not one.rest
    assert not one.plain
    low, high = one.bounds(torch.tensor([5, 17]), 100)
    assert (low.tolist(), high.tolist()) == ([0, 16], [5, 17])


def test_complements_reach_the_atoms() -> None:
    (later,) = to_conjuncts(~CAUSAL)
    assert (later.left, later.right, later.rest) == (-1, UNLIMITED, ())
    both = to_conjuncts(~(WINDOW & CAUSAL))
    assert {one.rest for one in both} == {(), (~WINDOW,)}


def test_a_conjunct_inside_a_wider_one_is_dropped() -> None:
    wide = sp.Window(9, 9)
    assert [one.pattern for one in to_conjuncts(WINDOW | wide | (wide & sp.Strided(2)))] == [wide]
    # A document boundary takes pairs away from the wider one, so the narrower one stays.
    assert len(to_conjuncts(WINDOW | (wide & sp.SameDocument()))) == 2


def test_a_pattern_of_too_many_conjuncts_is_evaluated_as_one() -> None:
    pattern = sp.Full()
    for n in range(1, 6):
        pattern &= sp.Window(n, n) | sp.Strided(n + 1)
    (one,) = to_conjuncts(pattern)
    assert 2**5 > MAX_CONJUNCTS
    assert one.rest == (pattern,)


def test_rows_of_global_tokens_are_named_under_even_complements_alone() -> None:
    assert row_tokens(sp.Global((4, -1)) | WINDOW, 10) == (4, 9)
    assert row_tokens(~~sp.Global((4,)) & CAUSAL, 10) == (4,)
    assert row_tokens(~sp.Global((4,)), 10) == ()
    assert row_tokens(sp.Global((4,), rows=False), 10) == ()
    assert has_batch_rows(sp.BatchGlobal() | WINDOW)
    assert not has_batch_rows(~sp.BatchGlobal())
    assert not has_batch_rows(sp.BatchGlobal(rows=False))


def test_each_conjunct_loses_the_pairs_of_earlier_ones() -> None:
    conjuncts = to_conjuncts(WINDOW | sp.Strided(3) | sp.LocalBlock(4))
    context = ExampleContext(20, None, None)
    left = [
        seen(without(one, conjuncts[:number]), 20, context).int()
        for number, one in enumerate(conjuncts)
    ]
    assert sum(left).max() == 1
    want = seen(WINDOW | sp.Strided(3) | sp.LocalBlock(4), 20, context)
    assert torch.equal(sum(left).bool(), want)
