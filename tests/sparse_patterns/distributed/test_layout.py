"""No visible key is missing from what a rank is given, and a window gives no more than needed."""

import random

import pytest
import torch

import sparse_patterns as sp
from sparse_patterns.distributed.layout import Layout, layout_of, outside, overlap
from tests.random_specs import random_case, seeds


def known(layout: Layout, rank: int, marks: torch.Tensor | None) -> torch.Tensor:
    """Return which keys a rank is given, bool `(batch, length)`."""
    reach = layout.reach(rank)
    given = torch.zeros(layout.length, dtype=torch.bool)
    for start, stop in (reach.near, reach.far):
        given[start:stop] = True
    for owner in range(layout.ranks):
        given[layout.columns_of(rank, owner)] = True
    given[layout.shared] = True
    if marks is None:
        return given[None]
    inside = torch.zeros_like(given)
    inside[slice(*layout.marked)] = True
    return given | marks & inside


@pytest.mark.parametrize("seed", seeds(300, every_day=12))
def test_every_visible_key_is_given(seed: int) -> None:
    case, rng = random_case(seed), random.Random(seed)
    cuts = sorted(rng.randint(0, case.kv_len) for _ in range(3))
    lengths = tuple(b - a for a, b in zip([0, *cuts], [*cuts, case.kv_len], strict=True))
    layout = layout_of(case.pattern, case.heads, case.layer, case.layers, lengths)
    marks = case.global_mask
    masks = {"global_mask": marks, "segment_ids": case.segment_ids}
    seen = sp.dense_mask(
        case.pattern, case.kv_len, heads=case.heads, layer=case.layer, layers=case.layers, **masks
    )
    seen = seen if seen.ndim == 4 else seen[None]
    for group in layout.groups:
        heads = list(group.heads)
        rows = seen[:, heads]
        rows[:, :, list(group.row_tokens)] = False
        if group.batch_rows and marks is not None:
            rows &= ~marks[:, None, :, None]
        for rank in range(layout.ranks):
            start, stop = layout.stretch(rank)
            needed = rows[:, :, start:stop].any(2).any(1)
            assert not (needed & ~known(layout, rank, marks)).any(), (str(case), rank)


def test_a_window_gives_its_width() -> None:
    pattern = sp.Window(5, 3) | sp.Global((0, 30), rows=False)
    layout = layout_of(pattern, 2, 0, 1, (10, 20, 10))
    assert [layout.reach(rank).near for rank in range(3)] == [(0, 13), (5, 33), (25, 40)]
    assert layout.shared.tolist() == [0, 30]
    assert not layout.is_far


def test_each_key_comes_once() -> None:
    pattern = (sp.Window(4, 0) | sp.Summary(8, 2) | sp.Global((7, 9), rows=False)) & sp.Causal()
    layout = layout_of(pattern, 1, 0, 1, (16, 16, 16))
    assert layout.shared.tolist() == [7, 9]
    columns = [layout.columns_of(2, owner).tolist() for owner in range(3)]
    # The stretch's first position is moved back to the edge of a block of the summary.
    assert layout.reach(2).near == (24, 48)
    assert columns == [[6, 14, 15], [22, 23], []]


def test_far_keys_end_with_the_order_of_tokens() -> None:
    layout = layout_of(sp.Causal(), 1, 0, 1, (4, 4, 4))
    assert layout.is_far
    assert [layout.reach(1).far_in(layout.stretch(rank)) for rank in (0, 2)] == [(0, 4), (0, 0)]


def test_intervals() -> None:
    assert overlap((0, 5), (3, 9)) == (3, 5)
    assert overlap((0, 3), (3, 9)) == (0, 0)
    assert outside((0, 5), (3, 9)) == (0, 3)
    assert outside((3, 9), (0, 5)) == (5, 9)
    assert outside((3, 4), (0, 5)) == (0, 0)
