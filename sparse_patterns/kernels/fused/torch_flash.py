"""FlashAttention 2 out of torch itself, on the shapes of partials: no other library is needed.

These are the operators that `torch.nn.attention.varlen` calls, for packed sequences, and
`scaled_dot_product_attention` for batches. The public functions take no log-sum-exp of another's
making for their backward pass, which partials need (see `merge`), and those of torch 2.10 have no
window; the operators have both.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from sparse_patterns.kernels.fused.operator import Shape
from sparse_patterns.lowering.fused.bands import Band, window_sides

NEEDED = ("window_size_left", "window_size_right")
"""Arguments of both operators without which there are no windows."""


@lru_cache(maxsize=1)
def missing_operators() -> str | None:
    """Return what torch lacks, None if nothing; whether there is a GPU is not asked."""
    for name in ("_flash_attention_forward", "_flash_attention_backward"):
        packet = getattr(torch.ops.aten, name, None)
        names = [] if packet is None else [one.name for one in packet.default._schema.arguments]
        if not set(NEEDED) <= set(names):
            return f"torch {torch.__version__} has no FlashAttention 2 with windows"
    if not torch.backends.cuda.is_flash_attention_available():
        return f"torch {torch.__version__} is built without FlashAttention 2"
    return None


class TorchFlashOperator:
    """FlashAttention 2 by torch: half types, CUDA; see `fused.operator.Operator`."""

    def forward(
        self, q: Tensor, k: Tensor, v: Tensor, shape: Shape, scale: float
    ) -> tuple[Tensor, Tensor]:
        """Return output and log-sum-exp."""
        packed, numbers, window = _arguments(shape, q, k)
        inputs = [x[0] for x in (q, k, v)] if packed else [q, k, v]
        causal = window["window_size_left"] < 0 and window["window_size_right"] == 0
        out, lse, *_ = torch.ops.aten._flash_attention_forward(
            *inputs, *numbers, 0.0, causal, False, scale=scale, **window
        )
        return (out[None], lse[None]) if packed else (out, lse)

    def backward(
        self,
        grad: Tensor,
        out: Tensor,
        lse: Tensor,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        shape: Shape,
        scale: float,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return the gradients of `q, k, v`; each query head is given a key head of its own."""
        share = q.shape[2] // k.shape[2]
        if share > 1:
            k, v = (x.repeat_interleave(share, 2) for x in (k, v))
        packed, numbers, window = _arguments(shape, q, k)
        tensors = [grad.contiguous(), q, k, v, out, lse]
        causal = window["window_size_left"] < 0 and window["window_size_right"] == 0
        # State of a random generator, which nothing reads without dropout. Few operators know its
        # type.
        state = torch.zeros(2, dtype=torch.int64, device=q.device).view(torch.uint64)
        grads = torch.ops.aten._flash_attention_backward(
            *([x[0] for x in tensors] if packed else tensors),
            *numbers,
            0.0,
            causal,
            state,
            state,
            scale=scale,
            **window,
        )
        grad_q, grad_k, grad_v = (x[None] for x in grads) if packed else grads
        if share > 1:
            grad_k, grad_v = (x.unflatten(2, (-1, share)).sum(3) for x in (grad_k, grad_v))
        return grad_q, grad_k, grad_v


def _arguments(
    shape: Shape, q: Tensor, k: Tensor
) -> tuple[bool, tuple[Tensor | None, Tensor | None, int, int], dict[str, Any]]:
    """Return whether sequences are packed, where they start and their longest, and the window."""
    starts: tuple[Tensor | None, Tensor | None] = (None, None)
    longest = [q.shape[1], k.shape[1]]
    if shape.lengths is not None:
        starts, longest = packed_starts(shape, q.device)
    sides = (-1, -1) if shape.band == Band(None, None) else window_sides(shape.band, *longest)
    window = dict(zip(NEEDED, sides, strict=True))
    numbers = (starts[0], starts[1], longest[0], longest[1])
    return shape.lengths is not None, numbers, window


def packed_starts(shape: Shape, device: torch.device) -> tuple[tuple[Tensor, Tensor], list[int]]:
    """Return where packed sequences start, int32 `(sequences + 1,)`, and the longest of them.

    Of rows and of keys.
    """
    assert shape.lengths is not None
    rows, keys = (starts_of(counts, device) for counts in shape.lengths)
    return (rows, keys), [max(counts) for counts in shape.lengths]


@lru_cache(maxsize=256)
def starts_of(counts: tuple[int, ...], device: torch.device) -> Tensor:
    """Return where sequences start, kept on the device for all layers and passes of a batch."""
    made = torch.tensor([0, *counts], dtype=torch.int32, device="cpu")
    return made.cumsum(0, dtype=torch.int32).to(device)
