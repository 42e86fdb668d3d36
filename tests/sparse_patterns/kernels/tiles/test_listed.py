"""Lists of rows, regular or not, read, written and added to as `index_select` and its like do."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from sparse_patterns.kernels.tiles.listed import FEW_ROWS, Listed

ROWS = 64 * 40


def strips(width: int, radius: int) -> Tensor:
    """Overlapping strips of a grid of 64 x 40 tokens, each row by row."""
    grid = torch.arange(ROWS).view(64, 40)
    parts = [
        grid[:, max(0, at - radius) : at + width + radius].flatten() for at in range(0, 40, width)
    ]
    return torch.cat(parts)


LISTS = {
    "strips": strips(10, 3),
    "strips apart": strips(10, 0),
    "planes": torch.cat([torch.arange(ROWS).view(8, 8, 40)[:, y].flatten() for y in range(8)]),
    "one stretch": torch.arange(100, 900),
    "few": torch.randint(ROWS, (FEW_ROWS - 1,)),
    "many": torch.randint(ROWS, (FEW_ROWS + 500,)),
    "twice": torch.cat([torch.arange(300), torch.arange(300)]),
}


@pytest.mark.parametrize("name", LISTS)
def test_rows_are_gathered_and_added(name: str) -> None:
    listed = Listed.of(LISTS[name])
    assert (listed.boxes is None) == (name in ("few", "many"))
    x = torch.randn(2, ROWS, 3, dtype=torch.float64)
    assert torch.equal(listed.gather(x), x[:, listed.index])
    assert torch.equal(listed.gather(x[..., 0]), x[:, listed.index, 0])
    found = torch.randn(2, listed.index.numel(), 3, dtype=torch.float64)
    want = x.index_add(1, listed.index, found)
    listed.add(x, found)
    torch.testing.assert_close(x, want, rtol=0, atol=1e-14)


@pytest.mark.parametrize("name", ["strips apart", "planes", "one stretch"])
def test_rows_are_written(name: str) -> None:
    listed = Listed.of(LISTS[name])
    found = torch.randn(2, listed.index.numel(), 3)
    total = torch.zeros(2, ROWS, 3)
    listed.put(total, found)
    assert torch.equal(total, torch.zeros_like(total).index_copy(1, listed.index, found))


@pytest.mark.parametrize("name", LISTS)
@pytest.mark.parametrize("ends", [(0, 1), (5, 60), (0, 600), (13, 14), (39, 521)])
def test_a_stretch_of_a_list_is_a_list(name: str, ends: tuple[int, int]) -> None:
    listed = Listed.of(LISTS[name])
    first, stop = ends[0], min(ends[1], listed.index.numel())
    part = listed.stretch(first, stop)
    x = torch.randn(1, ROWS, 2)
    assert torch.equal(part.gather(x), x[:, listed.index[first:stop]])


@pytest.mark.parametrize(("rows", "step"), [(32, 80), (40, 40), (80, 80), (20, 20)])
def test_places_of_tiles(rows: int, step: int) -> None:
    listed = Listed.of(LISTS["strips apart"])
    place = listed.tiles(640, 6, rows, step)
    at = 640 + torch.arange(6)[:, None] * step + torch.arange(rows)
    x = torch.randn(2, ROWS, 3)
    assert (place is not None) == (rows % 10 == 0)
    if place is not None:
        want = x[:, listed.index[at]]
        assert torch.equal(place.rows(x).reshape(2, 6, rows, 3), want)
        some = place.of_tiles(2, 5)
        assert torch.equal(some.rows(x).reshape(2, 3, rows, 3), want[:, 2:5])


def test_places_of_tiles_that_are_not_alike() -> None:
    listed = Listed.of(LISTS["strips apart"])
    assert listed.tiles(0, 2, 40, 620) is None
