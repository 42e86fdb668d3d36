"""Places of rows: all of them for one process, and the same ones shared out for several."""

import pytest

from datamodules.loading.draws import (
    batches_that_cover,
    batches_that_hold,
    places_in_order,
    random_places,
)
from datamodules.loading.shards import ALONE, Shard


@pytest.mark.parametrize("processes", [1, 2, 3])
def test_processes_share_what_one_process_draws(processes: int) -> None:
    alone = random_places(100, 6, ALONE, "windows", 3)
    shared = [random_places(100, 6, Shard(r, processes), "windows", 3) for r in range(processes)]
    assert [place for part in shared for place in part] == alone
    assert alone != random_places(100, 6, ALONE, "windows", 4)


def test_every_place_is_drawn_and_none_beyond() -> None:
    drawn = {place for n in range(60) for place in random_places(5, 4, ALONE, n)}
    assert drawn == {0, 1, 2, 3, 4}


@pytest.mark.parametrize(("windows", "rows"), [(7, 3), (6, 3), (1, 4), (9, 2)])
@pytest.mark.parametrize("processes", [1, 2])
def test_batches_in_order_have_each_window_once(windows: int, rows: int, processes: int) -> None:
    found = [
        place
        for number in range(batches_that_cover(windows, rows))
        for rank in range(processes)
        for place in places_in_order(number, windows, rows, Shard(rank, processes))
    ]
    # An empty row keeps the parts of the processes equal.
    assert [place for place in found if place != windows] == list(range(windows))


def test_a_pass_has_at_least_one_batch() -> None:
    assert [batches_that_hold(tokens, 10) for tokens in (3, 10, 29)] == [1, 1, 2]
