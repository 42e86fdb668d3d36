"""Bands cut to rectangles: FlashAttention 2's own window rule shows what the band does."""

from __future__ import annotations

import random

from sparse_patterns.lowering.fused.bands import (
    Band,
    Rectangle,
    cut_band,
    flash_window,
    keeps_window,
    shared_band,
    window_sides,
)
from sparse_patterns.lowering.normal_form import UNLIMITED


def flash_pairs(one: Rectangle) -> list[tuple[int, int]]:
    """The pairs that FlashAttention 2 shows, in rows and keys of the whole."""
    sides = window_sides(one.band, one.rows, one.keys)
    left, right = flash_window(*sides, one.keys)
    return [
        (one.first_row + row, one.first_key + key)
        for row in range(one.rows)
        for key in range(one.keys)
        for distance in [key - (row + one.keys - one.rows)]
        if (left < 0 or distance >= -left) and (right < 0 or distance <= right)
    ]


def test_random_bands_are_shown_exactly_once() -> None:
    rng = random.Random(0)
    most = 0
    for _ in range(6000):
        rows, keys, shift = rng.randint(0, 9), rng.randint(0, 9), rng.randint(-14, 14)
        low = rng.choice([-UNLIMITED, rng.randint(-14, 10)])
        high = rng.choice([UNLIMITED, rng.randint(-10, 14)])
        cut = list(cut_band(rows, keys, shift, low, high))
        got = [pair for one in cut for pair in flash_pairs(one)]
        want = [(i, c) for i in range(rows) for c in range(keys) if low <= c - i - shift <= high]
        assert sorted(got) == want
        assert all(one.rows > 0 and one.keys > 0 for one in cut)
        assert all(one.left >= 0 and one.right >= 0 for one in cut)
        most = max(most, len(cut))
    assert most == 3


def test_a_window_in_self_attention_is_one_rectangle() -> None:
    (one,) = cut_band(100, 100, 0, -8, 8)
    assert one == Rectangle(0, 100, 0, 100, 8, 8)
    assert one.band == Band(8, 8)
    (causal,) = cut_band(100, 100, 0, -UNLIMITED, 0)
    assert causal.band == Band(None, 0)
    (full,) = cut_band(100, 100, 0, -UNLIMITED, UNLIMITED)
    assert full.band == Band(None, None)


def test_a_side_as_long_as_the_keys_is_taken_as_unlimited() -> None:
    assert flash_window(5, 90, 20) == (5, 20)
    assert flash_window(20, 3, 20) == (20, 3)
    assert flash_window(25, 30, 20) == (-1, -1)
    # More queries than keys: the row 60 before the first key sees 90 ahead, flash shows it none.
    assert not keeps_window([Rectangle(0, 80, 0, 20, 5, 90)])
    assert len(list(cut_band(80, 20, -60, -5, 90))) > 1


def test_rectangles_share_a_window_where_short_ones_lose_nothing() -> None:
    long, short = Rectangle(0, 100, 0, 100, 8, 8), Rectangle(100, 5, 100, 5, 8, 8)
    assert shared_band([long, short]) == Band(8, 8)
    assert keeps_window([long, short])
    assert shared_band([short]) == Band(None, None)
