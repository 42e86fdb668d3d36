import itertools

import pytest
import torch

import sparse_patterns as sp
from sparse_patterns.spec.binding import BoundRandomBlocks
from sparse_patterns.spec.block_layouts import draw
from tests.definitions import drawn


def bound(per_row: int, seed: int = 0, layer: int = 0, head: int = 0) -> BoundRandomBlocks:
    return BoundRandomBlocks(64, per_row, seed, layer, head)


@pytest.mark.parametrize(
    ("pattern", "rows", "columns", "expected"),
    [
        (bound(3), [0, 1, 2, 3], 16, [[3, 6, 7], [4, 12, 15], [0, 5, 10], [0, 5, 6]]),
        (
            bound(4, seed=123, layer=5, head=7),
            [0, 1, 2],
            1000,
            [[12, 84, 119, 379], [425, 486, 908, 968], [112, 453, 861, 932]],
        ),
        (
            bound(12, seed=-(2**63), head=1),
            [-1, 2**40],
            64,
            [
                [6, 7, 16, 23, 24, 29, 30, 38, 49, 61, 62, 63],
                [0, 5, 7, 18, 20, 23, 27, 29, 35, 51, 52, 59],
            ],
        ),
    ],
)
def test_golden_values(
    pattern: BoundRandomBlocks, rows: list[int], columns: int, expected: list[list[int]]
) -> None:
    """Models are trained with these blocks: another draw would silently be another model."""
    assert draw(pattern, torch.tensor(rows), columns).tolist() == expected


@pytest.mark.parametrize("seed", [0, 1, -1, 2**63 - 1, -(2**63)])
def test_the_draw_on_unsigned_integers_agrees(seed: int) -> None:
    rows = [0, 1, 5, -3]
    for per_row, columns in itertools.product((1, 3, 6, 12), (1, 2, 7, 64, 10_000)):
        pattern = bound(per_row, seed, layer=2, head=3)
        expected = [sorted(drawn(pattern, 2, 3, row, columns)) for row in rows]
        found = draw(pattern, torch.tensor(rows), columns).tolist()
        assert found == expected, (per_row, columns)


@pytest.mark.parametrize("columns", [1, 2, 5, 40, 41])
def test_blocks_are_distinct_ascending_and_in_range(columns: int) -> None:
    chosen = draw(bound(40), torch.arange(200), columns)
    assert chosen.shape == (200, min(40, columns))
    assert (chosen.diff(dim=1) > 0).all()
    assert ((chosen >= 0) & (chosen < columns)).all()


def test_no_blocks_are_drawn_from_none_or_when_none_are_asked_for() -> None:
    assert draw(bound(3), torch.arange(4), 0).shape == (4, 0)
    assert draw(bound(0), torch.arange(4), 9).shape == (4, 0)
    assert draw(bound(3), torch.arange(0), 9).shape == (0, 3)


def test_all_blocks_are_equally_likely() -> None:
    rows, columns, per_row = 60_000, 10, 3
    counts = torch.bincount(draw(bound(per_row), torch.arange(rows), columns).flatten())
    expected = rows * per_row / columns
    deviation = (rows * 0.3 * 0.7) ** 0.5
    assert counts.numel() == columns
    assert ((counts - expected).abs() < 5 * deviation).all()


def test_all_pairs_of_blocks_are_equally_likely() -> None:
    rows, columns = 60_000, 6
    first, second = draw(bound(2), torch.arange(rows), columns).unbind(1)
    counts = torch.bincount(first * columns + second, minlength=36).reshape(6, 6)
    pairs = counts[torch.triu(torch.ones(6, 6), 1).bool()]
    deviation = (rows * (1 / 15) * (14 / 15)) ** 0.5
    assert ((pairs - rows / 15).abs() < 5 * deviation).all()


def test_a_row_does_not_depend_on_the_others_drawn_with_it() -> None:
    every = draw(bound(4), torch.arange(50), 30)
    some = torch.tensor([49, 3, 17])
    assert torch.equal(draw(bound(4), some, 30), every[some])


def test_torch_seeds_do_not_matter_and_none_is_used_up() -> None:
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first = sp.dense_mask(sp.RandomBlocks(4, 2), 64, heads=2)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    assert torch.equal(sp.dense_mask(sp.RandomBlocks(4, 2), 64, heads=2), first)


def test_layers_heads_seeds_and_rows_differ() -> None:
    draws = {
        tuple(draw(bound(4, seed, layer, head), torch.tensor([row]), 10_000)[0].tolist())
        for seed in range(3)
        for layer in range(3)
        for head in range(3)
        for row in range(3)
    }
    assert len(draws) == 81


def test_masks_differ_by_layer_and_head() -> None:
    pattern = sp.RandomBlocks(4, 2)
    masks = [sp.dense_mask(pattern, 128, heads=2, layer=layer, layers=2) for layer in range(2)]
    kinds = {tuple(mask[head].flatten().tolist()) for mask in masks for head in range(2)}
    assert len(kinds) == 4
