"""Holds a kernel to the float64 reference on one case: output, log-sum-exp and gradients."""

from __future__ import annotations

import pytest
import torch

import sparse_patterns as sp
from sparse_patterns.kernels.base import Request, Tolerance
from sparse_patterns.kernels.dispatch import KERNELS
from sparse_patterns.spec.algebra import has_global_rows
from tests.contracts.kernels.cases import make_case
from tests.contracts.kernels.reference import Result, reference
from tests.random_specs import Case, random_case

HEAD_DIM = 8
EXACT = ("dense", "tiles")
CUDA_ONLY = "runs on CUDA only"


def request_of(case: Case, dtype: torch.dtype, device: str, **fields) -> Request:
    """Return what a call of a case asks for."""
    return case.request(dtype=dtype, device=device, **{"head_dim": HEAD_DIM, **fields})


def runs_on_cpu(kernel: str) -> bool:
    """Return whether a kernel is not for GPUs alone."""
    request = request_of(make_case(sp.Window(1, 1), 8), torch.float32, "cpu")
    return not any(CUDA_ONLY in reason for reason in KERNELS[kernel].why_not(request))


PLACES = [
    pytest.param(name, "cpu", id=name)
    if runs_on_cpu(name)
    else pytest.param(name, "cuda", id=f"{name}-cuda", marks=pytest.mark.cuda)
    for name in sorted(KERNELS)
] + [
    pytest.param(name, "cuda", id=f"{name}-cuda", marks=pytest.mark.cuda)
    for name in sorted(KERNELS)
    if runs_on_cpu(name) and name not in EXACT
]
ON_CPU = [name for name in sorted(KERNELS) if runs_on_cpu(name)]
everywhere = pytest.mark.parametrize(("kernel", "device"), PLACES)


def skip_refused(kernel: str, case: Case, dtype: torch.dtype, device: str, **fields) -> None:
    """Skip a case that a kernel refuses, with its reasons, unless it must not refuse any."""
    reasons = KERNELS[kernel].why_not(request_of(case, dtype, device, **fields))
    if reasons and kernel not in EXACT:
        pytest.skip(f"{kernel}: {'; '.join(reasons)}")


def type_for(kernel: str, device: str, number: int = 0) -> torch.dtype:
    """Return one of the types to test a kernel in, float64 first where it is there."""
    own = KERNELS[kernel].tolerances
    types = (torch.float64, torch.float32, torch.float32)
    if device == "cuda" or not set(types) <= set(own):
        halves = (torch.bfloat16, torch.float16)
        types = tuple(one for one in (*halves, torch.float32) if one in own)
    return types[number % len(types)]


def make_inputs(
    case: Case,
    dtype: torch.dtype,
    *,
    own: bool = False,
    factor: float = 1.0,
    head_dim: int = HEAD_DIM,
):
    """Return `q, k, v`, with `own` also `global_qkv`, and the gradients of output and LSE."""
    generator = torch.Generator().manual_seed(case.seed)

    def draw(heads: int, length: int) -> torch.Tensor:
        shape = (case.batch, heads, length, head_dim)
        return torch.randn(shape, generator=generator).to(dtype)

    triple = (
        (case.heads, case.q_len),
        (case.kv_heads, case.kv_len),
        (case.kv_heads, case.kv_len),
    )
    inputs = [draw(*shape) * factor for shape in triple * (2 if own else 1)]
    grad_lse = torch.randn(case.batch, case.heads, case.q_len, generator=generator)
    return inputs, draw(case.heads, case.q_len), grad_lse


def hold(
    kernel: str,
    case: Case,
    dtype=torch.float32,
    device="cpu",
    *,
    own=False,
    factor=1.0,
    lse=True,
    head_dim=HEAD_DIM,
) -> None:
    """Hold a kernel's output, log-sum-exp and gradients to the reference."""
    skip_refused(kernel, case, dtype, device, global_qkv=own, head_dim=head_dim)
    inputs, grad_out, grad_lse = make_inputs(case, dtype, own=own, factor=factor, head_dim=head_dim)
    context = case.mask_arguments()
    expected = reference(inputs, case.pattern, grad_out, grad_lse if lse else None, **context)
    del context["heads"]
    leaves = [x.to(device, copy=True).requires_grad_() for x in inputs]
    context = {
        name: x.to(device) if isinstance(x, torch.Tensor) else x for name, x in context.items()
    }
    out, logs = sp.attention(
        *leaves[:3],
        case.pattern,
        global_qkv=tuple(leaves[3:]) or None,
        kernel=kernel,
        return_lse=True,
        **context,
    )
    results, upstream = [out], [grad_out.to(device)]
    if lse:
        results, upstream = [out, logs], [*upstream, grad_lse.to(logs)]
    grads = torch.autograd.grad(results, leaves, upstream)
    got = Result(out.detach().cpu(), logs.detach().cpu(), tuple(grad.cpu() for grad in grads))
    compare(got, expected, KERNELS[kernel].tolerances[dtype], case, factor)


def compare(got: Result, want: Result, allowed: Tolerance, case: Case, factor: float = 1.0) -> None:
    """Hold a result to the reference.

    Args:
        got: In the type of the inputs.
        want: In float64.
        allowed: For inputs of unit variance.
        case: Named where it fails.
        factor: What the inputs were multiplied by. Values then have its size and scores that of
            its square. A weight is the exponential of a score, so its rounding errors grow with
            the size of scores. In half types, whose sums are float32, they stay below those of the
            output, which enter the gradients once more.
    """
    seen = want.lse > -torch.inf
    assert torch.equal(got.lse > -torch.inf, seen), case
    assert torch.equal(got.out[~seen], torch.zeros_like(got.out[~seen])), case
    score = max(1.0, factor**2)
    weight = max(1.0, min(score / 4, 2.0 if got.out.dtype.itemsize == 2 else torch.inf))
    assert largest(got.out, want.out) <= allowed.forward * max(1.0, factor) * weight, case
    assert largest(got.lse[seen], want.lse[seen]) <= allowed.forward * score, case
    for one, other in zip(got.grads, want.grads, strict=True):
        scale = max(1.0, float(other.abs().max()) if other.numel() else 0.0)
        assert largest(one, other) <= allowed.gradient * scale * weight, case


def largest(got: torch.Tensor, want: torch.Tensor) -> float:
    """Return the largest difference; NaN where something is NaN, which no comparison passes."""
    return float((got.detach().double() - want).abs().max()) if got.numel() else 0.0


def hold_random(kernel: str, device: str, seed: int) -> None:
    """Hold a kernel to the reference on the random spec of a seed."""
    case = random_case(seed)
    own = bool(seed % 2) and has_global_rows(case.pattern)
    dtype = type_for(kernel, device, seed)
    hold(kernel, case, dtype, device, own=own, lse=seed % 4 > 0)
