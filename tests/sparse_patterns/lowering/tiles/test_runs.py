"""Runs of tiles: where their rows and keys are, how they split, which columns need a mask."""

import pytest
import torch

from sparse_patterns.lowering.tiles.runs import PlanPart, TileRun
from sparse_patterns.lowering.tiles.tiles import Tiles


def run(mask: torch.Tensor | None = None) -> TileRun:
    return TileRun(4, 2, 3, q_start=5, q_step=2, q_tile=7, k_start=1, k_step=3, k_tile=9, mask=mask)


def test_rows_and_keys_advance_by_constant_steps() -> None:
    rows, keys = run().query_rows(), run().key_indices()
    assert rows.tolist() == [[5, 7], [12, 14], [19, 21], [26, 28]]
    assert keys.tolist() == [[1, 4, 7], [10, 13, 16], [19, 22, 25], [28, 31, 34]]
    assert run().pairs == rows.numel() * keys.shape[1]
    assert PlanPart("window", (run(), run())).pairs == 48


@pytest.mark.parametrize("tiles", [1, 2, 3, 4, 9])
@pytest.mark.parametrize("masks", [None, 1, 4])
def test_shorter_runs_are_the_same_tiles(tiles: int, masks: int | None) -> None:
    whole = run(None if masks is None else torch.rand(masks, 2, 3) < 0.5)
    parts = list(whole.split(tiles))
    assert [part.tiles for part in parts[:-1]] == [min(tiles, 4)] * (len(parts) - 1)
    assert torch.equal(torch.cat([part.query_rows() for part in parts]), whole.query_rows())
    assert torch.equal(torch.cat([part.key_indices() for part in parts]), whole.key_indices())
    if whole.mask is not None:
        given = [part.mask.expand(part.tiles, 2, 3) for part in parts if part.mask is not None]
        assert torch.equal(torch.cat(given), whole.mask.expand(4, 2, 3))


@pytest.mark.parametrize(
    ("columns", "edges"),
    [
        ("1111", []),
        ("0110", [(0, 1), (3, 4)]),
        ("1100", [(2, 4)]),
        ("0011", [(0, 2)]),
        ("0000", [(0, 4)]),
        # A hole between columns that all see: one slab over everything.
        ("1011", [(0, 4)]),
    ],
)
def test_slabs_are_the_columns_that_some_row_does_not_see(columns: str, edges: list) -> None:
    mask = torch.ones(2, 3, 4, dtype=torch.bool)
    for column, bit in enumerate(columns):
        mask[1, 2, column] = bit == "1"
    made = TileRun(2, 3, 4, 0, 1, 3, 0, 1, 4, mask)
    assert [(start, stop) for start, stop, _ in made.slabs] == edges
    for start, stop, factors in made.slabs:
        assert torch.equal(factors, mask[:, :, start:stop].float())


@pytest.mark.parametrize(
    ("q_gap", "k_gap", "step", "odd", "expected"),
    [
        (32, 32, 1, None, 1),
        (32, 0, 1, None, 1),
        (0, 32, 1, None, None),
        (32, -8, 1, None, None),
        (1, 3, 4, None, None),  # tiles that interleave come back to a key of an earlier one
        (32, 32, 1, "rows", None),
        (32, 32, 1, "q_start", None),
        (32, 32, 1, "kind", None),
    ],
)
def test_equal_tiles_at_equal_distances_are_one_run_as_the_scan_finds(
    q_gap: int, k_gap: int, step: int, odd: str | None, expected: int | None
) -> None:
    number = torch.arange(5)
    each = {
        "q_start": 7 + q_gap * number,
        "rows": torch.full((5,), 32),
        "k_start": 90 + k_gap * number,
        "keys": torch.full((5,), 20),
        "kind": torch.zeros(5, dtype=torch.int64),
    }
    if odd is not None:
        each[odd][-1] += 1
    stacked = torch.rand(5, 32, 20) < 0.5
    tiles = Tiles(**each, masks=[stacked, None], step=step)
    found, scanned = tiles._one_run(), tiles._scan(number)
    if expected is None:
        assert found is None
        assert len(scanned) > 1
        return
    assert found is not None
    (want,) = scanned
    assert torch.equal(found.query_rows(), want.query_rows())
    assert torch.equal(found.key_indices(), want.key_indices())
    assert found.mask is not None
    assert want.mask is not None
    assert torch.equal(found.mask, want.mask)
