"""Windows over a grid as tiles and as blocks: every pair once, in few tiles and little memory."""

import random

import pytest
import torch

import sparse_patterns as sp
from sparse_patterns.lowering.plan import plan
from tests.random_specs import seeds


def computed(pattern: sp.Pattern, q_len: int, kv_len: int, q_offset: int) -> torch.Tensor:
    """Return how often the tiles of the one head compute each pair."""
    times = torch.zeros(q_len, kv_len, dtype=torch.int64)
    (group,) = plan(pattern, q_len, kv_len, heads=1, q_offset=q_offset).groups
    for part in group.parts:
        for run in part.runs:
            rows, keys = run.query_rows(), run.key_indices()
            rows = rows if part.queries is None else part.queries[rows]
            keys = keys if part.keys is None else part.keys[keys]
            one = torch.ones(run.tiles, run.rows, run.keys, dtype=torch.bool)
            mask = one if run.mask is None else run.mask.expand_as(one)
            index = (rows[:, :, None].expand_as(mask)[mask], keys[:, None].expand_as(mask)[mask])
            times.index_put_(index, torch.ones(()).long(), accumulate=True)
    return times


@pytest.mark.parametrize("seed", seeds(400, every_day=12))
def test_tiles_and_blocks_and_numbers_are_the_pattern(seed: int) -> None:
    rng = random.Random(seed)
    sides = rng.choice(((200,), (16, 16), (7, 7, 7)))
    shape = tuple(rng.randint(1, side) for side in sides)
    radius = tuple(rng.randint(0, 5) for _ in shape)
    dilation = tuple(rng.choice((1, 1, 2, 3, 9)) for _ in shape)
    grid = sp.GridWindow(shape, radius, dilation, rng.choice((0, 1, 7)))
    kv_len = rng.choice((grid.stop, grid.stop, rng.randint(1, grid.stop), grid.stop + 5))
    q_len = rng.choice((kv_len, kv_len, rng.randint(1, kv_len)))
    q_offset = rng.choice((kv_len - q_len, kv_len - q_len, rng.randint(-5, kv_len)))
    expected = sp.dense_mask(grid, q_len, kv_len, heads=1, q_offset=q_offset)[0]
    assert torch.equal(computed(grid, q_len, kv_len, q_offset), expected.long())
    made = plan(grid, q_len, kv_len, heads=1, q_offset=q_offset)
    for block in (8, 64):
        assert torch.equal(made.groups[0].blocks(block).to_dense(q_len, kv_len), expected)
    q, k = torch.arange(q_len)[:, None] + q_offset, torch.arange(kv_len)
    assert made.visible == int(expected.sum()) <= made.groups[0].forms.pairs_at_most
    far = (k - q)[expected]
    ends = (max(0, -int(far.min())), max(0, int(far.max()))) if far.numel() else (0, 0)
    assert made.receptive_field == ends


def test_an_image_is_computed_without_much_that_nobody_sees() -> None:
    made = plan(sp.GridWindow((64, 64), 7), 4096, heads=1)
    assert made.computed <= 2.4 * made.visible
    assert made.tiles <= 4096 // 64 + 16


def test_lines_of_a_grid_are_computed_without_anything_else() -> None:
    for radius in ((0, 63), (63, 0)):
        made = plan(sp.GridWindow((64, 64), radius), 4096, heads=1)
        assert made.computed == made.visible == 4096 * 64
    (part,) = plan(sp.GridWindow((64, 64), (0, 63)), 4096, heads=1).groups[0].parts
    assert part.keys is None
    assert part.queries is None


def test_a_query_that_a_cache_adds_costs_no_more_than_its_row() -> None:
    made = plan(sp.GridWindow((1024, 64), 3), 1, 64 * 1000, heads=1)
    assert made.computed <= 64 * 7


@pytest.mark.parametrize("shape", [(512, 256), (64, 64, 32)])
def test_the_work_grows_with_the_visible_pairs(shape: tuple[int, ...]) -> None:
    small = plan(sp.GridWindow((shape[0] // 4, *shape[1:]), 3), 1 << 15, heads=1)
    large = plan(sp.GridWindow(shape, 3), 1 << 17, heads=1)
    assert large.computed / large.visible <= 1.2 * small.computed / small.visible
    blocks = [one.groups[0].blocks(128).row.numel() / one.visible for one in (small, large)]
    assert blocks[1] <= 1.2 * blocks[0]


def test_an_end_that_sees_nothing_makes_no_tile() -> None:
    pattern = sp.Window(0, 36) & sp.Causal()
    expected = sp.dense_mask(pattern, 128, 119, heads=1, q_offset=24)[0]
    assert torch.equal(computed(pattern, 128, 119, 24), expected.long())
