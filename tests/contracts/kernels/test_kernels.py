"""The contract of kernels: each, on everything it says it can do, against the float64 oracle.

Kernels that run on the CPU are held to it there; all others on a GPU, by the tests marked `cuda`,
in each type that they have. Only `tiles` and `dense` must serve whatever the algebra says: another
kernel may refuse a case by `why_not`, and the test is then skipped with its reasons.
"""

from __future__ import annotations

import pytest
import torch

import sparse_patterns as sp
from sparse_patterns.kernels.base import Tolerance
from sparse_patterns.kernels.dispatch import KERNELS
from sparse_patterns.spec.base import uses
from tests.contracts.kernels.cases import (
    GLOBALS,
    HARD,
    PADDED,
    SOME,
    make_case,
)
from tests.contracts.kernels.holding import (
    EXACT,
    HEAD_DIM,
    ON_CPU,
    compare,
    everywhere,
    hold,
    hold_random,
    largest,
    make_inputs,
    skip_refused,
    type_for,
)
from tests.contracts.kernels.reference import Result, reference
from tests.random_specs import Case, seeds

RANDOM_SPECS = 320


@everywhere
@pytest.mark.parametrize("seed", seeds(RANDOM_SPECS, every_day=30))
def test_random_specs(kernel: str, device: str, seed: int) -> None:
    hold_random(kernel, device, seed)


@everywhere
@pytest.mark.parametrize(
    "dtype",
    [
        torch.float64,
        torch.bfloat16,
        *(pytest.param(dtype, marks=pytest.mark.long) for dtype in (torch.float32, torch.float16)),
    ],
)
@pytest.mark.parametrize("name", sp.names())
def test_presets(kernel: str, device: str, dtype: torch.dtype, name: str) -> None:
    pattern = sp.get(name)
    marks = torch.zeros(2, 301, dtype=torch.bool)
    marks[0, [0, 7, 300]] = True
    fields = {"global_mask": marks} if uses(pattern, sp.BatchGlobal) else {}
    for layer in (0, 11):
        hold(kernel, make_case(pattern, 301, layer=layer, layers=12, **fields), dtype, device)


LARGE = make_case(sp.Window(9, 9) | sp.Global((0, 50)), 97)


@everywhere
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("factor", [6.0, 40.0])
def test_large_scores_do_not_overflow(
    kernel: str, device: str, factor: float, dtype: torch.dtype
) -> None:
    hold(kernel, LARGE, dtype, device, factor=factor)


def spoiled(inputs: list[torch.Tensor], case: Case, fault: str, *upstream: torch.Tensor) -> Result:
    """Return the exact result but for one pair, the one with the largest weight.

    Args:
        inputs: Queries, keys and values.
        case: What the reference is asked for.
        fault: `dropped` leaves the key out; `heavier` takes 5 % more of its value; `unread` leaves
            the key's part of the row out of the gradient.
        *upstream: Gradients of the output and the log-sum-exp.
    """
    leaves = [x.detach().double().requires_grad_() for x in inputs]
    q, k, v = leaves
    share = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(share, 1), v.repeat_interleave(share, 1)
    mask = sp.dense_mask(case.pattern, case.q_len, case.kv_len, **case.mask_arguments())
    scores = (q @ k.mT / q.shape[-1] ** 0.5).masked_fill(~mask, -torch.inf)
    weights = scores.softmax(-1)
    one = (weights == weights.max()).double()
    if fault == "dropped":
        scores = scores.masked_fill(one.bool(), -torch.inf)
    weights = scores.softmax(-1)
    if fault == "heavier":
        weights = weights * (1 + 0.05 * one)
    if fault == "unread":
        weights = torch.where(one.bool(), weights.detach(), weights)
    out, lse = weights @ v, scores.logsumexp(-1)
    grads = torch.autograd.grad([out, lse], leaves, [x.double() for x in upstream])
    return Result(out.detach(), lse.detach(), grads)


# What is not read in the backward pass shows where a row has more than one weight above zero.
FAULTS = [
    (fault, factor)
    for fault in ("none", "dropped", "heavier", "unread")
    for factor in ((1.0,) if fault == "unread" else (1.0, 6.0, 40.0))
]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("fault", "factor"), FAULTS)
def test_one_wrong_pair_does_not_pass(fault: str, factor: float, dtype: torch.dtype) -> None:
    """The widest tolerance is narrow enough for a mistake in one pair, whatever the scores."""
    all_allowed = [own for kernel in KERNELS.values() if (own := kernel.tolerances.get(dtype))]
    allowed = Tolerance(
        max(own.forward for own in all_allowed), max(own.gradient for own in all_allowed)
    )
    inputs, *upstream = make_inputs(LARGE, dtype, factor=factor)
    exact = reference(inputs, LARGE.pattern, *upstream, **LARGE.mask_arguments())
    wrong = spoiled(inputs, LARGE, fault, *upstream)
    # In the type of a kernel's result: its rounding must pass, and must not hide the fault.
    got = Result(wrong.out.to(dtype), wrong.lse, tuple(grad.to(dtype) for grad in wrong.grads))
    if fault == "none":
        compare(got, exact, allowed, LARGE, factor)
        return
    if fault != "unread":
        assert largest(got.out, exact.out) > 0.02 * factor
    with pytest.raises(AssertionError):
        compare(got, exact, allowed, LARGE, factor)


@everywhere
@pytest.mark.parametrize("head_dim", [1, 20, 64, 128])
def test_head_sizes(kernel: str, device: str, head_dim: int) -> None:
    pattern = sp.Window(9, 9) | sp.Global((0, 50))
    case = make_case(pattern, 97)
    hold(kernel, case, type_for(kernel, device), device, head_dim=head_dim)


@everywhere
@pytest.mark.parametrize("name", HARD)
def test_hard_shapes(kernel: str, device: str, name: str) -> None:
    case = HARD[name]
    dtype = type_for(kernel, device)
    hold(kernel, case, dtype, device)
    if uses(case.pattern, sp.Global, sp.BatchGlobal):
        hold(kernel, case, dtype, device, own=True)


@pytest.mark.parametrize("kernel", ON_CPU)
@pytest.mark.slow
def test_gradcheck(kernel: str) -> None:
    pattern = sp.Window(2, 1, (1, 2)) | sp.Global((0,))
    skip_refused(kernel, make_case(pattern, 5), torch.float64, "cpu", global_qkv=True, head_dim=2)
    shapes = [(1, 2, 5, 2), (1, 1, 6, 2), (1, 1, 6, 2)] * 2
    generator = torch.Generator().manual_seed(0)
    inputs = [
        torch.randn(s, generator=generator, dtype=torch.float64, requires_grad=True) for s in shapes
    ]

    def run(*x: torch.Tensor):
        return sp.attention(
            *x[:3], pattern, q_offset=0, global_qkv=x[3:], kernel=kernel, return_lse=True
        )

    assert torch.autograd.gradcheck(run, inputs)


@everywhere
def test_layout_does_not_matter(kernel: str, device: str) -> None:
    dtype = type_for(kernel, device)
    # Fused operators take a layout as it is or copied, and round alike but not in the same order.
    allowed = 1e-14 if dtype == torch.float64 else KERNELS[kernel].tolerances[dtype].forward
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 50, 4, HEAD_DIM, generator=generator, dtype=torch.float64)
    turned = x.to(device, dtype).transpose(1, 2)
    spread = torch.stack([turned, turned], -1)[..., 0]
    shared = turned[:, :1].expand(-1, 4, -1, -1)
    one = sp.Window(6, 6) | sp.Global((3,))
    for view in (turned, spread, shared):
        plain = view.contiguous().requires_grad_()
        leaf = view.detach().requires_grad_()
        results = []
        for source in (plain, leaf):
            out = sp.attention(source, source, source, one, kernel=kernel)
            (grad,) = torch.autograd.grad(out.square().sum(), source)
            results.append((out, grad))
        for got, want in zip(*results, strict=True):
            got, want = got.detach(), want.detach()
            size = max(1.0, float(want.abs().max()))
            torch.testing.assert_close(got, want, rtol=0, atol=allowed * size)


@everywhere
def test_examples_do_not_meet(kernel: str, device: str) -> None:
    case = HARD["padding marked global"]
    dtype = torch.float32 if kernel in EXACT else type_for(kernel, device)
    (q, k, v), _, _ = make_inputs(case, dtype)
    q, k, v, padded, some = (x.to(device) for x in (q, k, v, PADDED, SOME))
    together = sp.attention(q, k, v, GLOBALS, key_mask=padded, global_mask=some, kernel=kernel)
    for index in range(2):
        one = slice(index, index + 1)
        alone = sp.attention(
            q[one],
            k[one],
            v[one],
            GLOBALS,
            key_mask=padded[one],
            global_mask=some[one],
            kernel=kernel,
        )
        if kernel in EXACT:
            assert torch.equal(together[one], alone)
        else:
            # What is packed together is cut to tiles together, which changes the order of sums.
            size = KERNELS[kernel].tolerances[dtype].forward
            torch.testing.assert_close(together[one], alone, rtol=0, atol=size)


@pytest.mark.parametrize("kernel", ON_CPU)
class TestDropout:
    """Real dropout: seeded, unbiased, the same in the backward pass."""

    pattern = sp.Window(4, 4) | sp.Global((0,))

    def run(self, kernel: str, p: float, x: torch.Tensor) -> torch.Tensor:
        skip_refused(kernel, make_case(self.pattern, x.shape[2]), x.dtype, "cpu", dropout_p=p)
        out = sp.attention(x, x, x, self.pattern, dropout_p=p, kernel=kernel)
        assert isinstance(out, torch.Tensor)
        return out

    def test_is_seeded(self, kernel: str) -> None:
        x = torch.randn(1, 2, 40, HEAD_DIM, generator=torch.Generator().manual_seed(0))
        torch.manual_seed(3)
        first, second = self.run(kernel, 0.5, x), self.run(kernel, 0.5, x)
        torch.manual_seed(3)
        assert torch.equal(first, self.run(kernel, 0.5, x))
        assert not torch.equal(first, second)

    def test_keeps_the_mean(self, kernel: str) -> None:
        x = torch.randn(1, 2, 40, HEAD_DIM, generator=torch.Generator().manual_seed(0))
        torch.manual_seed(0)
        mean = torch.stack([self.run(kernel, 0.3, x) for _ in range(300)])
        error = (mean.mean(0) - self.run(kernel, 0.0, x)) / (mean.std(0) / 300**0.5 + 1e-9)
        assert error.abs().max() < 5

    def test_all_dropped_is_zero(self, kernel: str) -> None:
        x = torch.randn(1, 1, 9, HEAD_DIM, requires_grad=True)
        out = self.run(kernel, 1.0, x)
        out.sum().backward()
        assert not out.any()
        assert x.grad is not None
        assert not x.grad.any()

    def test_gradient_is_that_of_the_same_draw(self, kernel: str) -> None:
        x = torch.randn(1, 2, 9, 2, dtype=torch.float64, requires_grad=True)

        def run(y: torch.Tensor) -> torch.Tensor:
            torch.manual_seed(1)
            return self.run(kernel, 0.4, y)

        assert torch.autograd.gradcheck(run, (x,))

    def test_survives_checkpointing(self, kernel: str) -> None:
        from torch.utils.checkpoint import checkpoint

        grads = []
        for wrap in (lambda f, y: f(y), lambda f, y: checkpoint(f, y, use_reentrant=False)):
            x = torch.randn(1, 2, 30, HEAD_DIM, generator=torch.Generator().manual_seed(0))
            x.requires_grad_()
            torch.manual_seed(5)
            wrap(lambda y: self.run(kernel, 0.5, y), x).square().sum().backward()
            grads.append(x.grad)
        assert torch.equal(*grads)
