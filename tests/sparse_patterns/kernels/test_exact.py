"""Attention of a few rows: sums over visible pairs only, whatever the hidden ones hold."""

import math

import pytest
import torch

from sparse_patterns.kernels import exact

INF, NAN = math.inf, math.nan


@pytest.mark.parametrize(
    ("weights", "mask", "x", "total"),
    [
        ([2.0, 3.0], [1, 1], [1.0, 10.0], 32.0),
        ([2.0, 0.0], [1, 0], [1.0, NAN], 2.0),
        ([2.0, 0.0], [1, 0], [1.0, INF], 2.0),
        ([2.0, 0.0], [1, 1], [1.0, NAN], NAN),
        ([2.0, 0.0], [1, 1], [1.0, -INF], NAN),
        ([2.0, 3.0], [1, 1], [1.0, INF], INF),
        ([2.0, -3.0], [1, 1], [1.0, INF], -INF),
        ([2.0, -3.0], [1, 1], [INF, INF], NAN),
        ([2.0, 3.0], [1, 1], [-INF, 1.0], -INF),
        ([-2.0, 3.0], [1, 1], [-INF, INF], INF),
    ],
)
def test_a_sum_over_visible_pairs(
    weights: list[float], mask: list[int], x: list[float], total: float
) -> None:
    as_row = torch.tensor([weights], dtype=torch.float64)
    column = torch.tensor(x, dtype=torch.float64)[:, None]
    found = exact.visible_sum(as_row, torch.tensor([mask], dtype=torch.bool), column)
    expected = torch.tensor([[total]], dtype=torch.float64)
    torch.testing.assert_close(found, expected, equal_nan=True)


@pytest.mark.parametrize("dropped", [False, True])
def test_gradients_are_those_of_autograd(dropped: bool) -> None:
    q, k, v = (torch.randn(n, 4, dtype=torch.float64, requires_grad=True) for n in (3, 5, 5))
    mask = torch.rand(3, 5) < 0.6
    mask[:, 0] = True
    factors = 2 * (torch.rand(3, 5) < 0.5).double() if dropped else None
    grad_out, grad_lse = torch.randn(3, 4).double(), torch.randn(3).double()
    out, lse, _ = exact.attend(q, k, v, mask, 0.7, factors)
    expected = torch.autograd.grad([out, lse], (q, k, v), [grad_out, grad_lse])
    *found, _ = exact.gradients(
        q.detach(), k.detach(), v.detach(), mask, 0.7, grad_out, grad_lse, factors
    )
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


def test_a_row_that_sees_nothing() -> None:
    x = torch.full((2, 4), NAN)
    out, lse, weights = exact.attend(x, x, x, torch.zeros(2, 2, dtype=torch.bool), 1.0)
    assert not out.any()
    assert not weights.any()
    assert torch.equal(lse, torch.full((2,), -INF, dtype=torch.float64))
