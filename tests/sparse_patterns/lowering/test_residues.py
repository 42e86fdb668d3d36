"""Residues of a dilation: which queries see what, in numbers, against every pair."""

from __future__ import annotations

import random

import pytest

import sparse_patterns as sp
from sparse_patterns.lowering.normal_form import to_conjuncts
from sparse_patterns.lowering.residues import residues
from tests.random_specs import seeds


@pytest.mark.parametrize("seed", seeds(200, every_day=20))
def test_numbers_are_those_of_the_pairs(seed: int) -> None:
    draw = random.Random(seed)
    pattern: sp.Pattern = sp.Window(draw.randint(0, 9), draw.randint(0, 9), draw.randint(1, 7))
    if draw.random() < 0.4:
        pattern = pattern & draw.choice((sp.Causal(), ~sp.Causal(), sp.Strided(3), sp.Window(2, 1)))
    q_len, kv_len, offset = draw.randint(1, 60), draw.randint(1, 60), draw.randint(-20, 70)
    mask = sp.dense_mask(pattern, q_len, kv_len, heads=1, q_offset=offset)[0]
    (conjunct,) = to_conjuncts(pattern)
    seen = set()
    rows = []
    for group in residues(conjunct, q_len, kv_len, offset):
        seeing = group.seeing(0, group.queries)
        for number in range(group.count):
            for query in range(group.queries):
                row = group.first_query + number + query * conjunct.dilation
                rows.append(row)
                if query in seeing:
                    first, last = group.span(range(query, query + 1))
                    start = group.first_key + number
                    seen |= {
                        (row, start + key * conjunct.dilation) for key in range(first, last + 1)
                    }
        each = sum(last - first + 1 for first, last in map(group.span, _alone(seeing)))
        assert group.pairs == group.count * each
    assert sorted(rows) == list(range(q_len))
    assert seen == {(row, key) for row, key in mask.nonzero().tolist()}


def _alone(seeing: range) -> list[range]:
    return [range(query, query + 1) for query in seeing]
