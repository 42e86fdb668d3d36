"""Rows that see the same listed keys, and none that a stripe shows already."""

from __future__ import annotations

import torch

from sparse_patterns.lowering.fused.listed import ListedKeys, list_columns
from sparse_patterns.lowering.fused.stripes import Stripe
from sparse_patterns.lowering.normal_form import UNLIMITED

EVERYWHERE = Stripe(-UNLIMITED, UNLIMITED)


def pairs(listed: ListedKeys) -> list[tuple[int, int]]:
    rows = listed.rows.split(list(listed.row_counts))
    keys = listed.keys.split(list(listed.key_counts))
    return [(r, k) for a, b in zip(rows, keys, strict=True) for r in a.tolist() for k in b.tolist()]


def columns(
    tokens: list[int], *shown: Stripe, q_len: int = 50, q_offset: int = 0
) -> ListedKeys | None:
    index = torch.tensor(tokens, dtype=torch.int64)
    own = torch.ones(len(tokens), dtype=torch.bool)
    return list_columns([(EVERYWHERE, own)], index, shown, q_len, q_offset, None)


def test_columns_lose_what_windows_show() -> None:
    for window in (Stripe(-7, 4), Stripe(-9, 6, 3), Stripe(-UNLIMITED, 0), Stripe(-3, 3, 1, (8,))):
        for offset in (0, -5, 30):
            listed = columns([0, 1, 20, 47], window, q_offset=offset)
            assert listed is not None
            q, k = torch.arange(50)[:, None] + offset, torch.tensor([0, 1, 20, 47])
            want = ~window.sees(q, k, None)
            expected = {(row, int(k[at])) for row, at in want.nonzero().tolist()}
            got = pairs(listed)
            assert len(got) == len(set(got))
            assert set(got) == expected
            assert listed.rows.unique().numel() == listed.rows.numel()


def test_segments_do_not_grow_with_the_length() -> None:
    window = Stripe(-8, 8)
    counts = []
    for length in (100, 100_000):
        listed = columns([0, 1, 2], window, q_len=length)
        assert listed is not None
        counts.append(len(listed.row_counts))
    assert counts[0] == counts[1] <= 7


def test_nothing_to_list_is_none() -> None:
    assert columns([]) is None
    assert columns([3], Stripe(-UNLIMITED, UNLIMITED)) is None
    assert columns([3], q_len=0) is None


def test_rows_that_see_most_keys_stand_in_order() -> None:
    listed = columns([0, 1], Stripe(-2, 2))
    assert listed is not None
    assert torch.equal(listed.rows, torch.arange(50))
    assert listed.key_counts == (0, 1, 2)
