"""Partials: strided families, and rectangles packed without sharing a row."""

from __future__ import annotations

import torch

from sparse_patterns.lowering.fused import partials
from sparse_patterns.lowering.fused.bands import Band
from sparse_patterns.lowering.fused.partials import (
    Family,
    pack_rectangles,
    place_stripe,
    to_families,
)
from sparse_patterns.lowering.fused.placement import place_in_example
from sparse_patterns.lowering.fused.stripes import Stripe


def families(stripe: Stripe, length: int) -> list[Family]:
    return to_families(place_in_example(stripe, length, length, 0))


def test_a_window_is_one_family_whatever_the_length() -> None:
    for length in (100, 100_000):
        (one,) = families(Stripe(-8, 8), length)
        assert one == Family(1, length, length, 0, 0, 0, 0, 1, Band(8, 8))


def test_dilation_is_a_family_of_residues_and_one_more_for_the_rest() -> None:
    (even,) = families(Stripe(-8, 8, 2), 100)
    assert even == Family(2, 50, 50, 0, 1, 0, 1, 2, Band(4, 4))
    longer, shorter = families(Stripe(-9, 9, 3), 100)
    assert (longer.count, longer.rows, shorter.count, shorter.rows) == (1, 34, 2, 33)
    assert (shorter.first_row, shorter.q_tile, shorter.step) == (1, 1, 3)


def test_blocks_are_a_family_at_their_size() -> None:
    (one,) = families(Stripe(-100, 0, 1, (16,)), 96)
    assert one == Family(6, 16, 16, 0, 16, 0, 16, 1, Band(None, 0))


def test_documents_of_all_examples_are_one_call_over_all_tokens() -> None:
    documents = torch.tensor([[0] * 30 + [1] * 70, [0] * 60 + [1] * 40])
    placed = [
        (example, one)
        for example in range(2)
        for one in place_in_example(
            Stripe(-8, 8, documents=True), 100, 100, 0, None, documents[example]
        )
    ]
    (one,) = pack_rectangles(placed, 100, 100, 2)
    assert one.rows is None
    assert one.keys is None
    assert one.row_counts == one.key_counts == (30, 70, 60, 40)
    assert one.band == Band(8, 8)


def test_rows_that_see_two_stretches_of_keys_go_into_calls_of_their_own() -> None:
    real = torch.ones(60, dtype=torch.bool)
    real[20:30] = False
    placed = [(0, one) for one in place_in_example(Stripe(-15, 15), 60, 60, 0, real)]
    packed = pack_rectangles(placed, 60, 60, 1)
    assert 2 <= len(packed) <= 4
    for one in packed:
        assert one.rows is not None
        assert one.rows.unique().numel() == one.rows.numel()


def test_calls_take_no_more_rectangles_than_cuda_counts(monkeypatch) -> None:
    monkeypatch.setattr(partials, "MAX_SEGMENTS", 3)
    placed = [
        (example, one)
        for example in range(8)
        for one in place_stripe(Stripe(-2, 2), (0, 9), (0, 9), 0)
    ]
    packed = pack_rectangles(placed, 9, 9, 8)
    assert [len(one.row_counts) for one in packed] == [3, 3, 2]
    assert sorted(torch.cat([one.rows for one in packed]).tolist()) == list(range(72))
