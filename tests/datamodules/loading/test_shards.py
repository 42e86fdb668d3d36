"""The share of each process, and random numbers by key."""

import pytest
import torch

from datamodules.loading.shards import ALONE, Shard, generator


@pytest.mark.parametrize(("total", "processes"), [(6, 1), (6, 2), (6, 3), (5, 2), (1, 3)])
def test_parts_are_equal_and_hold_all_rows(total: int, processes: int) -> None:
    parts = [Shard(rank, processes).rows(total) for rank in range(processes)]
    assert len({len(part) for part in parts}) == 1
    rows = [row for part in parts for row in part]
    assert rows[:total] == list(range(total))
    assert len(rows) - total < processes


def test_one_process_has_all_rows() -> None:
    assert list(ALONE.rows(4)) == [0, 1, 2, 3]


def test_numbers_are_a_function_of_the_key_alone() -> None:
    def draw(*key: int | str) -> list[int]:
        return torch.randint(1 << 30, (4,), generator=generator(*key)).tolist()

    before = torch.random.get_rng_state()
    assert draw("a", 1) == draw("a", 1)
    # Neither the type of a part nor where parts end can be mistaken.
    keys = [("a", 1), ("a", "1"), ("a", 11), ("a1",), ("a", 1, 1)]
    assert len({tuple(draw(*key)) for key in keys}) == len(keys)
    assert torch.equal(torch.random.get_rng_state(), before)
