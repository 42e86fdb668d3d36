"""Rows and keys at any positions give what the mask says, and hidden numbers do nothing."""

import torch

import sparse_patterns as sp
from sparse_patterns.distributed.layout import groups_of
from sparse_patterns.distributed.strips import Positions, Strip, Whole
from sparse_patterns.kernels import exact

PATTERN = sp.PerHead(sp.Window(9, 2), sp.Window(3, 3) | sp.Global((2, 17)))
ROWS, KEYS = [3, 8, 17], [1, 2, 5, 9, 17, 20]


def test_output_and_gradients_are_those_of_the_pairs() -> None:
    torch.manual_seed(0)
    q, k, v, grad = (torch.randn(1, n, m, 4).double() for n, m in ((2, 3), (1, 6), (1, 6), (2, 3)))
    key_mask = torch.ones(1, 24, dtype=torch.bool)
    key_mask[0, 20] = False
    # A key that is padded, and one that no row of the second head sees but its global token.
    k[0, 0, 5], v[0, 0, 5] = torch.nan, torch.inf
    strip = Strip(
        groups_of(PATTERN, 2, 0, 1, 24),
        Whole(24, key_mask, None, None),
        Positions(torch.tensor([ROWS])),
        Positions(torch.tensor([KEYS])),
        0.5,
    )
    out, lse = strip.forward(q, k, v)
    seen = sp.dense_mask(PATTERN, 24, heads=2, key_mask=key_mask)[0][:, ROWS][:, :, KEYS]
    expected, logs, _ = exact.attend(q[0], k[0], v[0], seen, 0.5)
    torch.testing.assert_close(out[0], expected, atol=1e-14, rtol=0)
    torch.testing.assert_close(lse[0], logs, atol=1e-14, rtol=0)
    delta = (out * grad).sum(-1)
    found = strip.backward(q, k, v, grad, delta, lse.masked_fill(lse == -torch.inf, torch.inf))
    *grads, _ = exact.gradients(q[0], k[0], v[0], seen, 0.5, grad[0])
    torch.testing.assert_close(found[0][0], grads[0], atol=1e-14, rtol=0)
    for got, want in zip(found[1:], grads[1:], strict=True):
        torch.testing.assert_close(got[0], want.sum(0, keepdim=True), atol=1e-14, rtol=0)
