"""The fused kernel on the CPU, with torch in place of the one operator that needs a GPU.

It is held to the contract of all kernels. What needs the xformers library is in
`test_fused_xformers`; whose operator is called is in the tests of `engines`.
"""

from __future__ import annotations

import re
from collections import Counter

import pytest
import torch

import sparse_patterns as sp
from sparse_patterns.kernels.base import Call
from sparse_patterns.kernels.dispatch import KERNELS
from sparse_patterns.kernels.fused.kernel import XformersFusedKernel
from sparse_patterns.spec.algebra import has_global_rows
from tests.contracts.kernels import test_kernels
from tests.contracts.kernels.cases import make_case
from tests.contracts.kernels.emulated import fused
from tests.contracts.kernels.fused_cases import (
    FIXED,
    REFUSALS,
    SEEDS,
    SERVED,
    SERVED_AT_LEAST,
    SLOW,
    refusals,
)
from tests.contracts.kernels.holding import hold, request_of
from tests.random_specs import random_case, seeds

NAME = XformersFusedKernel.name


def test_random_specs_are_refused_for_known_reasons_only() -> None:
    counts: Counter[str] = Counter()
    for seed in range(SEEDS):
        for reason in set(refusals(random_case(seed))):
            (known,) = [one for one in REFUSALS if re.fullmatch(one, reason)]
            counts[known] += 1
    assert len(SERVED) >= SERVED_AT_LEAST
    assert set(counts) == set(REFUSALS)


@pytest.fixture
def emulated(monkeypatch: pytest.MonkeyPatch) -> str:
    """The kernel with the torch operator in place of xformers'."""
    monkeypatch.setitem(KERNELS, NAME, fused.EmulatedFused())
    return NAME


@pytest.mark.parametrize("part", seeds(4, every_day=1))
@pytest.mark.slow
def test_random_specs(emulated: str, part: int) -> None:
    for seed in SERVED[part::4]:
        case = random_case(seed)
        own = bool(seed % 2) and has_global_rows(case.pattern)
        dtype = torch.float64 if seed % 3 == 0 else torch.float32
        hold(emulated, case, dtype, own=own, lse=seed % 4 > 0)


@pytest.mark.parametrize("name", FIXED)
def test_presets_and_hard_shapes(emulated: str, name: str) -> None:
    case = FIXED[name]
    if not refusals(case):
        hold(emulated, case, torch.float64, own=has_global_rows(case.pattern))


@pytest.mark.parametrize(
    "dtype", [torch.bfloat16, pytest.param(torch.float16, marks=pytest.mark.long)]
)
@pytest.mark.parametrize("name", [name for name in FIXED if name not in SLOW])
def test_half_types(emulated: str, name: str, dtype: torch.dtype) -> None:
    case = FIXED[name]
    if not refusals(case):
        hold(emulated, case, dtype, own=has_global_rows(case.pattern))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_large_scores_do_not_overflow(emulated: str, dtype: torch.dtype) -> None:
    test_kernels.test_large_scores_do_not_overflow(emulated, "cpu", 40.0, dtype)


def test_layout_does_not_matter(emulated: str) -> None:
    test_kernels.test_layout_does_not_matter(emulated, "cpu")


def test_examples_do_not_meet(emulated: str) -> None:
    test_kernels.test_examples_do_not_meet(emulated, "cpu")


@pytest.mark.parametrize("head_dim", [1, 8, 20, 64])
@pytest.mark.parametrize("scale", [-0.7, 0.0, 0.3])
def test_head_sizes_and_scales(emulated: str, head_dim: int, scale: float) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(3, 1, 2, 40, head_dim, generator=generator, dtype=torch.float64)
    pattern = sp.Window(6, 3) | sp.Global((0, 20))
    results = []
    for kernel in (emulated, "dense"):
        leaves = [one.clone().requires_grad_() for one in x]
        out, lse = sp.attention(*leaves, pattern, kernel=kernel, scale=scale, return_lse=True)
        (out.square().sum() + lse.sin().sum()).backward()
        results.append([out, lse, *(leaf.grad for leaf in leaves)])
    for got, want in zip(*results, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("pattern", [sp.Window(6, 3), sp.Window(6, (3, 0)) | sp.Global((0,))])
@pytest.mark.parametrize("inside", [False, True])
def test_results_are_laid_out_as_compiled_programs_expect(pattern, inside: bool) -> None:
    x = torch.randn(3, 2, 30, 2, 8) if inside else torch.randn(3, 2, 2, 30, 8)
    q, k, v = (one.transpose(1, 2) if inside else one for one in x)
    call = Call(
        request_of(make_case(pattern, 30, heads=2), torch.float32, "cpu"),
        *(q, k, v, None, None, None, None, 0.3, 0),
    )
    plan = sp.plan(pattern, 30, heads=2, head_dim=8)
    kernel = fused.EmulatedFused()
    out, lse = kernel.forward(call, plan)
    assert out.stride() == torch.empty_like(q).stride()
    assert lse.is_contiguous()
    for grad, one in zip(kernel.backward(call, plan, out, lse, out, None), (q, k, v), strict=True):
        assert grad.stride() == torch.empty_like(one).stride()


@pytest.mark.slow
def test_a_model_compiles_around_it(emulated: str) -> None:
    from tests.contracts.kernels.test_compiled_training import step

    torch._dynamo.reset()
    assert all(grad is not None for grad in step(emulated, "cpu", "aot_eager"))


def test_reasons_name_what_is_missing() -> None:
    def reasons(pattern: sp.Pattern | None = None, **fields) -> str:
        pattern, dtype = pattern or sp.Window(3, 3), fields.pop("dtype", torch.bfloat16)
        device = fields.pop("device", "cuda")
        request = request_of(make_case(pattern, 40), dtype, device, **fields)
        return "; ".join(XformersFusedKernel().why_not(request))

    assert "runs on CUDA only, device is cpu" in reasons(device="cpu")
    if not torch.cuda.is_available():
        assert "no CUDA device is there" in reasons()
    assert "xformers has no fused operator with a backward for windows in float32" in reasons(
        dtype=torch.float32
    )
    assert "dropout (dropout_p=0.1) is drawn inside" in reasons(dropout_p=0.1)
    assert "head_dim must be <= 256, got 264" in reasons(head_dim=264)
    assert "RandomBlocks is a layout of blocks" in reasons(sp.get("bigbird"))
    assert "every_third" in reasons(sp.Rule(lambda q, k, head: q > k, name="every_third"))
    torch.use_deterministic_algorithms(True)
    try:
        assert "its backward is not deterministic" in reasons()
        assert "not deterministic" not in reasons(needs_grad=False)
    finally:
        torch.use_deterministic_algorithms(False)


def test_a_gradient_of_the_log_sum_exp_needs_room(emulated: str) -> None:
    x = torch.randn(1, 1, 4, 256, requires_grad=True)
    out, lse = sp.attention(x, x, x, sp.Window(1, 1), kernel=emulated, return_lse=True)
    out.sum().backward()
    out, lse = sp.attention(x, x, x, sp.Window(1, 1), kernel=emulated, return_lse=True)
    with pytest.raises(ValueError, match="no gradient of the log-sum-exp with head_dim 256"):
        lse.sum().backward()
