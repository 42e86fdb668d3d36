"""FlexAttention through its public function alone: for an older torch, and for its backend FLASH.

The operator of the backward pass can be compiled by itself from torch 2.13 on. Before, only
autograd calls it: the forward pass is run once more with gradients, and autograd asked for them.
That costs a forward pass more, and nothing else.

Attention is an operator itself, and inside an operator torch records nothing for autograd, whatever
`torch.enable_grad` says; `recording` takes that back.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from sparse_patterns.kernels.flex.terms import recording

DIRECT = (2, 13)
"""The first torch whose compiler takes a direct call of the backward operator."""

OLDEST = (2, 10)
"""The first torch whose public function returns the log-sum-exp with `AuxRequest`."""

HOPPER, MOST_FLASH = 9, 128
"""Compute capability, and largest head size, for which the backend FLASH is asked."""


def version() -> tuple[int, int]:
    """Return the version of torch, as far as it decides."""
    major, minor = torch.__version__.split(".")[:2]
    return int(major), int(minor)


def is_direct() -> bool:
    """Return whether the backward operator can be called by itself."""
    return version() >= DIRECT


def gradients(
    forward: Callable[..., tuple[Tensor, ...]],
    inputs: tuple[Tensor, ...],
    arguments: tuple[Any, ...],
    upstream: tuple[Tensor, Tensor | None],
    bias: Tensor | None = None,
) -> tuple[Tensor, ...]:
    """Return the gradients of queries, keys and values by autograd, and of a bias if there is one.

    That of a bias is `(batch or 1, heads, distances)`.

    Args:
        forward: The forward pass, compiled or not: output and log-sum-exp.
        inputs: Queries, keys and values.
        arguments: The other arguments of the forward pass.
        upstream: Gradients of the output and of the log-sum-exp, the second None for a forward pass
            that has none.
        bias: That of the last of the arguments (see `terms`), or None.
    """
    with recording():
        leaves = tuple(x.detach().requires_grad_() for x in inputs)
        wanted = leaves
        if bias is not None:
            own = bias.detach().requires_grad_()
            *first, terms = arguments
            arguments = (*first, (own, *terms[1:]))
            wanted = (*leaves, own)
        results = forward(leaves, *arguments)
        given = [grad for grad in upstream if grad is not None]
        grads = torch.autograd.grad(results[: len(given)], wanted, given)
    if bias is None or bias.ndim == 3:
        return grads
    return (*grads[:3], grads[3][None])


def before_sinks(
    sinks: Tensor, out: Tensor, lse: Tensor, grad_out: Tensor, grad_lse: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Return the gradients of output and log-sum-exp as they were before sinks corrected them.

    The forward pass is run once more without sinks (see `scores.sinks`), so its results are not
    those that the gradients are of. In rows that see no key the numbers mean nothing.

    Args:
        sinks: `(batch, heads)`.
        out: The corrected output.
        lse: The corrected log-sum-exp.
        grad_out: Gradient of the corrected output.
        grad_lse: Gradient of the corrected log-sum-exp, or None.
    """
    logits = sinks[..., None].to(lse.dtype) - lse
    of_sink, of_keys = logits.exp(), -logits.expm1()  # their shares of the weight, together 1
    before = (grad_out.to(lse.dtype) * out).sum(-1) * of_sink
    if grad_lse is not None:
        before = before + grad_lse * of_keys
    return (grad_out * of_keys[..., None]).to(grad_out.dtype), before


def why_not_flash(dtype: torch.dtype, head_dim: int) -> list[str]:
    """Return why FlexAttention's backend FLASH cannot serve, none if it can.

    A `BlockMask` of ours always comes with the mask that it stands for: under a trivial one the
    backend would be silently wrong (pytorch#188322).

    Args:
        dtype: Of queries, keys and values.
        head_dim: Size of a head.
    """
    reasons = []
    if version() < DIRECT:
        least = ".".join(map(str, DIRECT))
        reasons.append(
            f"torch {torch.__version__} has no backend FLASH that takes block masks in both "
            f"passes: pip install 'torch>={least}'"
        )
    if not _installed("flash_attn.cute"):
        reasons.append(
            "FlashAttention 4 (flash_attn.cute) is not installed: pip install --pre flash-attn-4"
        )
    if dtype not in (torch.bfloat16, torch.float16):
        reasons.append(f"FlashAttention 4 takes bfloat16 and float16, not {dtype}")
    if head_dim > MOST_FLASH:
        reasons.append(f"head_dim must be <= {MOST_FLASH} for FlashAttention 4, got {head_dim}")
    if torch.cuda.is_available() and torch.cuda.get_device_capability()[0] != HOPPER:
        found = ".".join(map(str, torch.cuda.get_device_capability()))
        reasons.append(
            f"the GPU has compute capability {found}: only 9.x takes blocks of 128 queries in both "
            "passes (10.x asks for 256, pytorch#195563; 12.x has no backward with block masks)"
        )
    return reasons


def _installed(name: str) -> bool:
    try:
        return find_spec(name) is not None
    except ModuleNotFoundError:  # of the package around it
        return False
