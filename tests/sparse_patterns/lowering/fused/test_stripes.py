"""Stripes: disjoint, together what they were, or refused."""

from __future__ import annotations

import random

import torch

from sparse_patterns.lowering.fused.stripes import Stripe, block_edges, disjoint
from sparse_patterns.lowering.normal_form import UNLIMITED

POSITIONS = torch.arange(60)
DOCUMENTS = torch.arange(60) // 17


def count(stripes: list[Stripe]) -> torch.Tensor:
    q, k = POSITIONS[:, None], POSITIONS[None, :]
    seen = torch.zeros(60, 60, dtype=torch.int64)
    for stripe in stripes:
        seen += stripe.sees(q, k, DOCUMENTS)
    return seen


def random_stripe(rng: random.Random) -> Stripe:
    low = rng.choice([-UNLIMITED, rng.randint(-20, 10)])
    high = rng.choice([UNLIMITED, rng.randint(-10, 20)])
    blocks = rng.choice([(), (), (8,), (4,), (6,)])
    return Stripe(low, high, rng.choice([1, 1, 2, 3, 4]), blocks, rng.random() < 0.3)


def test_random_stripes_are_disjoint_and_the_same_pairs() -> None:
    rng = random.Random(0)
    refused = 0
    for _ in range(400):
        stripes = [random_stripe(rng) for _ in range(rng.randint(1, 3))]
        made = disjoint(stripes)
        if made is None:
            refused += 1
            continue
        seen = count(made)
        assert int(seen.max()) <= 1, stripes
        assert torch.equal(seen > 0, count(stripes) > 0), stripes
    assert 50 < refused < 250


def test_what_nests_is_taken_apart() -> None:
    window, strided = Stripe(-128, 0), Stripe(-UNLIMITED, 0, 128)
    made = disjoint([strided, window])
    assert made is not None
    assert made[0] == window
    (rest,) = made[1:]
    assert (rest.high, rest.step) == (-256, 128)


def test_steps_that_do_not_divide_are_refused_where_they_overlap() -> None:
    assert disjoint([Stripe(-6, 6, 2), Stripe(-6, 6, 3)]) is None
    assert disjoint([Stripe(-6, -2, 2), Stripe(3, 6, 3)]) is not None
    assert disjoint([Stripe(-6, 6, 1, (12,)), Stripe(-6, 6, 1, (18,))]) is None


def test_blocks_begin_at_multiples_of_their_size() -> None:
    assert block_edges((8,), 3, 20) == [3, 8, 16]
    assert block_edges((8, 6), -7, 7) == [-7, -6, 0, 6]
    assert block_edges((), 5, 5) == []
