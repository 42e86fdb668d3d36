"""Torch's operators in every layout: results laid out like the inputs, gradients of all outputs."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from sparse_patterns.kernels.sdpa import operator


def drawn(shape: tuple[int, ...], layout: str, dtype: torch.dtype) -> Tensor:
    x = torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape))).to(dtype)
    if layout == "projected":
        return x.transpose(1, 2).contiguous().transpose(1, 2)
    if layout == "turned":
        return x.mT.contiguous().mT
    return x


def masks(batch: int, heads: int, q_len: int, kv_len: int) -> list[Tensor | None]:
    made: list[Tensor | None] = [None]
    for size in ((1, 1), (batch, 1), (1, heads), (batch, heads)):
        hidden = torch.rand(*size, q_len, kv_len, generator=torch.Generator().manual_seed(0)) < 0.4
        hidden[..., 0] = False
        made.append(torch.zeros(hidden.shape).masked_fill(hidden, -torch.inf))
    made.append(made[2][:, :, :1] if made[2] is not None else None)  # padded keys
    return made


def exact(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, causal: bool) -> list[Tensor]:
    share = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(share, 1), v.repeat_interleave(share, 1)
    scores = q @ k.mT * 0.3
    if mask is not None:
        scores = scores + mask
    if causal:
        scores = scores.masked_fill(~torch.ones_like(scores, dtype=torch.bool).tril(), -torch.inf)
    return [scores.softmax(-1) @ v, scores.logsumexp(-1)]


LAYOUTS = ("plain", "projected", "turned")
SIZES = [(3, 4, 4), (3, 4, 2), (1, 4, 4)]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize(
    ("layout", "sizes", "number"),
    [
        # A third: each pair of a layout, sizes and a mask is among them.
        pytest.param(
            LAYOUTS[a],
            SIZES[b],
            number,
            marks=() if (a + b + number) % 3 == 0 else pytest.mark.long,
        )
        for a in range(3)
        for b in range(3)
        for number in range(6)
    ],
)
@pytest.mark.parametrize("causal", [False, True])
def test_it_equals_float64(
    dtype: torch.dtype, layout: str, sizes: tuple[int, int, int], number: int, causal: bool
) -> None:
    batch, heads, kv_heads = sizes
    q = drawn((batch, heads, 23, 8), layout, dtype)
    k = drawn((batch, kv_heads, 37, 8), layout, dtype)
    v = drawn((batch, kv_heads, 37, 8), layout, dtype).flip(2)
    mask = masks(batch, heads, 23, 37)[number]
    mask = None if mask is None else mask.to(dtype)
    leaves = [x.double().requires_grad_() for x in (q, k, v)]
    want = exact(*leaves, None if mask is None else mask.double(), causal)
    grad_out, grad_lse = (torch.randn_like(x).to(dtype) for x in want)
    wanted = torch.autograd.grad(want, leaves, [grad_out.double(), grad_lse.double()])
    out, lse = operator.forward(q, k, v, mask, causal, 0.3)
    grads = operator.backward(q, k, v, out, lse, grad_out, grad_lse, mask, causal, 0.3)
    allowed = 1e-13 if dtype == torch.float64 else 1e-5
    for got, exactly in zip((out, lse, *grads), (*want, *wanted), strict=True):
        torch.testing.assert_close(got.double(), exactly.detach(), rtol=0, atol=allowed)
    for got, x in zip((out, *grads), (q, q, k, v), strict=True):
        assert got.stride() == torch.empty_like(x).stride()
        assert got.dtype == dtype


@pytest.mark.parametrize(("q_len", "kv_len", "batch"), [(0, 5, 2), (5, 0, 2), (5, 5, 0)])
def test_empty_inputs_do_not_reach_the_operator(q_len: int, kv_len: int, batch: int) -> None:
    q, k = torch.randn(batch, 2, q_len, 8), torch.randn(batch, 2, kv_len, 8)
    out, lse = operator.forward(q, k, k, None, False, 1.0)
    assert out.shape == q.shape
    assert not out.any()
    assert bool((lse == -torch.inf).all())
    grads = operator.backward(q, k, k, out, lse, out, lse, None, False, 1.0)
    assert [grad.shape for grad in grads] == [q.shape, k.shape, k.shape]
    assert not any(grad.any() for grad in grads)


def test_a_row_that_takes_no_part_has_no_gradient() -> None:
    q, k, v, upstream = (torch.randn(1, 2, 6, 8) for _ in range(4))
    out, lse = operator.forward(q, k, v, None, False, 1.0)
    lse[:, :, 2] = torch.inf
    first = operator.backward(q, k, v, out, lse, upstream, None, None, False, 1.0)
    assert not first[0][:, :, 2].any()
    upstream[:, :, 2] = 7.0
    again = operator.backward(q, k, v, out, lse, upstream, None, None, False, 1.0)
    for one, other in zip(first, again, strict=True):
        assert torch.equal(one, other)
