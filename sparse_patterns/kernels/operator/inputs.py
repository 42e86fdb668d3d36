"""The arguments of a call as the operators take them."""

from __future__ import annotations

import torch
from torch import Tensor

from sparse_patterns.kernels.base import accumulation_dtype
from sparse_patterns.kernels.transforms import in_torch_func, refuse_forward_mode


def draw_seed() -> Tensor:
    """Draw the seed of a call's dropout from torch's global generator, int64 on the CPU."""
    return torch.randint(1 << 62, (), dtype=torch.int64, device="cpu")


def needs_grad(*tensors: Tensor | None) -> bool:
    """Return whether a backward pass may follow, which some kernels cannot run."""
    return torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in tensors)


def score_tensors(
    q: Tensor, sinks: Tensor | None, distance_bias: Tensor | None
) -> tuple[Tensor | None, Tensor | None]:
    """Return sinks and bias as the operators take them: for each example, as sums are held.

    Raises:
        NotImplementedError: One of them carries a forward-mode derivative.
    """
    refuse_forward_mode(sinks, distance_bias)
    dtype = accumulation_dtype(q.dtype)
    spread = [
        None if x is None else x.to(dtype).expand(q.shape[0], *x.shape)
        for x in (sinks, distance_bias)
    ]
    return spread[0], spread[1]


def wants_grad(bias: Tensor | None) -> bool:
    """Return whether the gradient of a bias may be asked for; inside `torch.func` none can say."""
    return bias is not None and (needs_grad(bias) or in_torch_func())
