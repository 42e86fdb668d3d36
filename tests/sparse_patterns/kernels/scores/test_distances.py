"""Tables by distance against matrices of all pairs."""

import pytest
import torch

from sparse_patterns.kernels.scores.distances import add_at, diagonal_sums, folded, spread, strip


@pytest.mark.parametrize("m", [0, 1, 4, 30])
@pytest.mark.parametrize(("low", "high"), [(-9, 9), (-40, -20), (20, 33), (-3, -4), (0, 0)])
def test_spread_clips_and_folds_back(m: int, low: int, high: int) -> None:
    table = torch.randn(2, 2 * m + 1, dtype=torch.double, requires_grad=True)
    index = torch.arange(low, high + 1).clamp(-m, m) + m
    assert torch.equal(spread(table, low, high), table[:, index])
    upstream = torch.randn(2, high - low + 1, dtype=torch.double)
    (want,) = torch.autograd.grad(table[:, index], table, upstream)
    torch.testing.assert_close(folded(upstream, low, 2 * m + 1), want)


@pytest.mark.parametrize(("rows", "columns"), [(3, 5), (5, 3), (1, 4), (4, 1)])
@pytest.mark.parametrize("step", [1, 3])
def test_strips_and_their_gradient(rows: int, columns: int, step: int) -> None:
    values = torch.randn(60, dtype=torch.double)
    index = 30 - torch.arange(rows)[:, None] * step + torch.arange(columns) * step
    assert torch.equal(strip(values, 30, rows, step, columns, step), values[index])
    grad = torch.randn(rows, columns, dtype=torch.double)
    want, total = torch.zeros(60).double(), torch.zeros(60).double()
    add_at(want, index, grad)
    total[index.min() : index.max() + 1 : step] = diagonal_sums(grad)
    torch.testing.assert_close(total, want)
