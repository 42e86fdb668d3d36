"""The reach rules against the oracle: what is said to be out of reach never comes back."""

import math
import random

import pytest
import torch

import sparse_patterns as sp
from sparse_patterns.spec.base import uses
from sparse_patterns.spec.binding import bind
from sparse_patterns.spec.lookahead import (
    call_time_parts,
    furthest_ahead,
    look_ahead,
    negation_normal_form,
    still_visible,
)
from tests.random_specs import random_pattern

LENGTH = 150
POSITIONS = torch.arange(LENGTH)

ATOMS = [
    sp.Window(5, 0),
    sp.Window(3, 4, dilation=3),
    sp.GridWindow((3, 5), 1, prefix=4),
    sp.GridWindow((2, 3, 4), (1, 0, 9), (1, 1, 2)),
    sp.Causal(),
    sp.Full(),
    sp.Global((0, 40), rows=False),
    sp.Global((3, 70)),
    sp.Global(()),
    sp.Strided(1),
    sp.Strided(7),
    sp.LocalBlock(12),
    sp.Summary(10, 2),
    sp.Summary(3, 3),
    sp.BlockTable(("1000", "0010", "0100"), 9),
    sp.BlockTable((), 4),
]


def mask_of(pattern: sp.Pattern) -> torch.Tensor:
    return sp.dense_mask(pattern, LENGTH, heads=1).reshape(LENGTH, LENGTH)


def check_against_the_oracle(bound: sp.Pattern, mask: torch.Tensor) -> None:
    normal = negation_normal_form(bound)
    query, key = mask.nonzero().T
    assert (key - query).max() <= furthest_ahead(normal) if query.numel() else True
    before = torch.ones(LENGTH, dtype=torch.bool)
    for now in range(0, LENGTH, 5):
        kept = still_visible(normal, POSITIONS, now)
        assert kept.shape == POSITIONS.shape
        assert not (mask[now:].any(0) & ~kept).any(), f"a dropped key is seen after {now}: {bound}"
        assert not (kept & ~before).any(), f"a key came back at {now}: {bound}"
        before = kept


@pytest.mark.parametrize("atom", ATOMS, ids=repr)
def test_each_atom_and_its_complement(atom: sp.Pattern) -> None:
    for pattern in (atom, ~atom):
        (bound,) = bind(pattern, heads=1)
        check_against_the_oracle(bound, mask_of(pattern))


def test_random_specs() -> None:
    checked = 0
    for seed in range(600):
        rng = random.Random(seed)
        pattern = random_pattern(rng, heads=2, layers=2)
        bound = bind(pattern, heads=2, layer=1, layers=2)
        if any(call_time_parts(one) for one in bound):
            continue
        given = {}
        if uses(pattern, sp.SameDocument):  # in another layer
            given["segment_ids"] = torch.zeros(1, LENGTH, dtype=torch.int64)
        masks = sp.dense_mask(pattern, LENGTH, heads=2, layer=1, layers=2, **given)
        for one, mask in zip(bound, masks.reshape(2, LENGTH, LENGTH), strict=True):
            check_against_the_oracle(one, mask)
        checked += 1
    assert checked > 200


@pytest.mark.parametrize(
    "pattern",
    [
        sp.Window(9, 0),
        sp.Window(4, 0, dilation=3),
        sp.Window(4, 0) | sp.Global((0,), rows=False),
        (sp.Window(4, 2) | sp.Global((0, 1, 2))) & sp.Causal(),
        sp.LocalBlock(15) & sp.Causal(),
        (sp.LocalBlock(15) | sp.Summary(15, 2)) & sp.Causal(),
        sp.Strided(8) & sp.Causal(),
        sp.Causal() & ~sp.Summary(6, 1),
        sp.BlockTable(("100", "110", "101"), 50) & sp.Causal(),
        sp.Window(3, 0) & ~sp.Full(),
    ],
    ids=repr,
)
def test_what_is_kept_is_needed(pattern: sp.Pattern) -> None:
    (bound,) = bind(pattern, heads=1)
    mask = mask_of(pattern)
    for now in range(0, LENGTH - 30):
        kept = still_visible(negation_normal_form(bound), POSITIONS[:now], now)
        assert torch.equal(kept, mask[now:, :now].any(0)), now


@pytest.mark.parametrize("atom", ATOMS, ids=repr)
def test_the_bound_ahead_is_met_where_it_is_finite(atom: sp.Pattern) -> None:
    bound = furthest_ahead(*bind(atom, heads=1))
    query, key = mask_of(atom).nonzero().T
    if math.isfinite(bound):
        assert (key - query).max() == bound
    elif bound < 0:
        assert not query.numel()


@pytest.mark.parametrize(
    ("pattern", "part"),
    [
        (sp.Window(5, 0) | sp.Global((0,)), sp.Global((0,))),
        (sp.Window(5, 0) | sp.Global((0, 1), rows=False), sp.Global((0, 1), rows=False)),
        (sp.Window(2, 2), sp.Window(2, 2)),
        (sp.Causal() | sp.Window(2, 1) & sp.Strided(2), sp.Window(2, 1) & sp.Strided(2)),
        (sp.Window(5, 0) | sp.Global((0,), rows=False), None),
        ((sp.Window(5, 5) | sp.Global((0,))) & sp.Causal(), None),
        (~(~sp.Causal() | sp.Strided(2)), None),
    ],
    ids=repr,
)
def test_the_part_that_looks_ahead_is_found(pattern: sp.Pattern, part: sp.Pattern | None) -> None:
    assert look_ahead(negation_normal_form(pattern)) == part


def test_normal_form_keeps_the_meaning() -> None:
    for seed in range(300):
        pattern = random_pattern(random.Random(seed), heads=1, layers=1)
        (bound,) = bind(pattern, heads=1)
        if call_time_parts(bound):
            continue
        normal = negation_normal_form(bound)
        assert torch.equal(mask_of(normal), mask_of(bound)), seed
        for part in normal.walk():
            assert not (isinstance(part, sp.Complement) and part.part.children()), seed
