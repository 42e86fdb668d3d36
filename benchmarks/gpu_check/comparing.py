"""Holding a kernel to the float64 reference of the tests, with the differences as numbers."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

import sparse_patterns as sp
from benchmarks.gpu_check.cases import reference
from sparse_patterns.kernels.base import Tolerance
from sparse_patterns.kernels.dispatch import KERNELS


@dataclass(frozen=True)
class Difference:
    """The largest differences from the reference, on inputs of unit variance.

    Attributes:
        forward: Of the output and the log-sum-exp.
        gradient: Of the gradients, each relative to its largest element, or to 1 where that is
            larger.
        problem: What is wrong whatever the numbers are.
    """

    forward: float = 0.0
    gradient: float = 0.0
    problem: str = ""

    def share(self, allowed: Tolerance) -> float:
        """How much of the tolerance is used; above 1, or NaN, it is wrong."""
        if self.problem or math.isnan(self.forward + self.gradient):
            return math.nan
        return max(self.forward / allowed.forward, self.gradient / allowed.gradient)

    def worse(self, other: Difference) -> Difference:
        """The larger of each difference of two; NaN stays."""
        return Difference(
            _larger(self.forward, other.forward),
            _larger(self.gradient, other.gradient),
            self.problem or other.problem,
        )


def _larger(a: float, b: float) -> float:
    return math.nan if math.isnan(a) or math.isnan(b) else max(a, b)


def refusal(kernel: str, case: Any, dtype: torch.dtype, device: str, head_dim: int) -> list[str]:
    """Return why a kernel does not serve a case, nothing if it does."""
    request = case.request(dtype=dtype, device=device, head_dim=head_dim)
    return KERNELS[kernel].why_not(request)


def difference(
    kernel: str, case: Any, dtype: torch.dtype, device: str, head_dim: int
) -> Difference:
    """Run a kernel forward and backward on a case, and compare with float64 on the CPU."""
    generator = torch.Generator().manual_seed(case.seed)

    def draw(heads: int, length: int) -> Tensor:
        return torch.randn(case.batch, heads, length, head_dim, generator=generator).to(dtype)

    keys = (case.kv_heads, case.kv_len)
    inputs = [draw(case.heads, case.q_len), draw(*keys), draw(*keys)]
    grad_out = draw(case.heads, case.q_len)
    grad_lse = torch.randn(case.batch, case.heads, case.q_len, generator=generator)
    context: dict[str, Any] = case.mask_arguments()
    want = reference(inputs, case.pattern, grad_out, grad_lse, **context)
    del context["heads"]
    context = {
        name: one.to(device) if isinstance(one, Tensor) else one for name, one in context.items()
    }
    leaves = [x.to(device, copy=True).requires_grad_() for x in inputs]
    out, lse = sp.attention(*leaves, case.pattern, kernel=kernel, return_lse=True, **context)
    grads = torch.autograd.grad([out, lse], leaves, [grad_out.to(device), grad_lse.to(lse)])
    out, lse, *found = (x.detach().cpu() for x in (out, lse, *grads))
    seen = want.lse > -torch.inf
    if not torch.equal(lse > -torch.inf, seen):
        return Difference(problem="rows see keys that should see none, or the other way round")
    if bool(out[~seen].any()):
        return Difference(problem="a row without keys is not zeros")
    forward = _larger(largest(out, want.out), largest(lse[seen], want.lse[seen]))
    gradient = 0.0
    for one, other in zip(found, want.grads, strict=True):
        size = max(1.0, float(other.abs().max()) if other.numel() else 0.0)
        gradient = _larger(gradient, largest(one, other) / size)
    return Difference(forward, gradient)


def largest(got: Tensor, want: Tensor) -> float:
    """Return the largest difference, NaN where something is NaN."""
    return float((got.double() - want).abs().max()) if got.numel() else 0.0
