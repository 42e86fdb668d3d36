"""Windows over a grid: what they refuse, how they are written, and what is known of a bound one."""

import pytest
import torch

import sparse_patterns as sp
from sparse_patterns.spec.binding import bind

G = sp.GridWindow


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (((4, 4), -1), ValueError, "grid radius must be >= 0, got -1"),
        (((4, 4), 1.5), TypeError, "grid radius must be an int, got 1.5"),
        (((4, 4), (1, -2)), ValueError, "grid radius must be >= 0, got -2 for dimension 1"),
        (((4, 4), (1, 2, 3)), ValueError, r"one number per dimension of the grid \(2\), got 3"),
        (((4, 4), [1, (2,)]), ValueError, r"\(2\), got 1: \(2,\); PerHead"),
        (((4, 4), sp.linear(-1, 2)), ValueError, r"grid radius in linear\(-1, 2\) must be >= 0"),
        (((4, 4), (1, sp.linear(0, -2))), ValueError, "got -2 for dimension 1"),
        (((4, 4), 1, 0), ValueError, "grid dilation must be >= 1, got 0"),
        (((4, 4), 1, 1, -1), ValueError, "grid prefix must be >= 0, got -1"),
        (((), 1), ValueError, r"grid shape must have 1 to 3 dimensions, got 0: \(\)"),
        (((2, 2, 2, 2), 1), ValueError, "grid shape must have 1 to 3 dimensions, got 4"),
        (((4, 0), 1), ValueError, "grid shape must be >= 1, got 0 for dimension 1"),
        ((("4", 4), 1), TypeError, "grid shape must be an int, got '4' for dimension 0"),
        (((1 << 20, 1 << 20), 1), ValueError, "grid shape must have at most 2147483647 places"),
    ],
)
def test_wrong_numbers_are_refused(arguments, error, message) -> None:
    with pytest.raises(error, match=message):
        G(*arguments)


def test_it_is_written_as_it_was_made() -> None:
    assert repr(G((14, 14), 3, prefix=1)) == "GridWindow((14, 14), 3, prefix=1)"
    assert repr(G([4, 5], (1, sp.linear(1, 2)), [1, 2])) == (
        "GridWindow((4, 5), (1, linear(1, 2)), [1, 2])"
    )


def test_a_layer_has_numbers_of_its_own() -> None:
    grid = G((9, 9), (sp.linear(1, 5), 2), [1, (1, 3)])
    assert bind(grid, heads=2, layer=0, layers=2) == (G((9, 9), (1, 2), (1, 1)),) * 2
    assert bind(grid, heads=1, layer=1, layers=2) == (G((9, 9), (5, 2), (1, 3)),)
    # What leads out of the grid from everywhere is cut: equal windows are equal.
    assert bind(G((4, 1), 2**31 - 1), heads=1) == bind(G((4, 1), (3, 0)), heads=1)


def test_heads_have_windows_of_their_own() -> None:
    pattern = sp.PerHead(G((3, 3), (0, 2)), G((3, 3), (2, 0)))
    row, column = sp.dense_mask(pattern, 9, heads=2)
    assert torch.equal(row, torch.kron(torch.eye(3), torch.ones(3, 3)).bool())
    assert torch.equal(column, torch.kron(torch.ones(3, 3), torch.eye(3)).bool())


def test_the_keys_of_every_query_are_known_without_listing_them() -> None:
    (grid,) = bind(G((4, 5, 3), (1, 3, 0), (2, 1, 1), prefix=2), heads=1)
    q = torch.arange(-1, grid.stop + 3)
    first, last, count = grid.extent(q)
    seen = sp.dense_mask(grid, q.numel(), grid.stop + 1, heads=1, q_offset=-1)[0]
    assert torch.equal(count, seen.sum(1))
    some = count > 0
    assert torch.equal(first[some], seen.int().argmax(1)[some])
    assert torch.equal(last[some], (seen * torch.arange(seen.shape[1])).amax(1)[some])
    assert grid.reach == int((last - q)[some].max())


def test_windows_that_are_scaled() -> None:
    assert sp.scale_windows(G((9, 9), (4, sp.linear(1, 3))), 0.5) == G((9, 9), (2, sp.linear(0, 2)))
