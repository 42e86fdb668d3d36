"""xformers' FlashAttention 2 operator on the shapes of partials.

The masks are xformers' own attention biases, all but one: it has none for a window on both sides
in packed sequences that its backward takes, so there the registered operator underneath is given
the window as two numbers.

The operator's own `apply` is called, not `memory_efficient_attention_forward`: that asks whether
xformers' compiled extension was loaded, which FlashAttention 2 out of torch does not need. What
else it asks holds for every partial, as the tests show. Nothing of xformers is imported before the
first call.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from sparse_patterns.kernels.fused.operator import Shape
from sparse_patterns.kernels.fused.torch_flash import packed_starts
from sparse_patterns.lowering.fused.bands import Band, window_sides

OLDEST = (0, 0, 35)
"""The first release of xformers that this was written for."""

REINSTALL = "pip install the release made for this torch (see python -m xformers.info)"
"""What to do about an operator that is not there."""


XFORMERS, MSLK = "xformers", "mslk"
"""The libraries that have the operators."""


@lru_cache(maxsize=2)
def missing_library(library: str = XFORMERS) -> str | None:
    """Return what a library lacks and how to get it; None if nothing.

    Args:
        library: "xformers" or "mslk".
    """
    if importlib.util.find_spec(library) is None:
        return f"{library} is not installed: pip install {library}"
    version = importlib.metadata.version(library)
    if library == XFORMERS:
        parts = [int(part) for part in version.split("+")[0].split(".")[:3] if part.isdigit()]
        if tuple(parts) < OLDEST:
            oldest = ".".join(map(str, OLDEST))
            return f"xformers {version} is older than {oldest}: pip install -U 'xformers>={oldest}'"
    if not torch.cuda.is_available():
        return None  # what is compiled is only loaded where there is a GPU
    try:
        flash = _fmha(library).flash
        ready = flash.FwOp.is_available() and flash.BwOp.is_available()
    except (ImportError, AttributeError, RuntimeError) as error:
        return f"{library} {version} does not offer FlashAttention 2 here ({error}): {REINSTALL}"
    if not ready:
        return f"{library} {version} found no FlashAttention 2 in this torch: {REINSTALL}"
    return None


def make_bias(
    shape: Shape, rows: int, keys: int, device: torch.device | str, library: str = XFORMERS
) -> Any:
    """Return xformers' attention bias of a shape, or None where nothing is masked.

    Args:
        shape: What is to be masked.
        rows: Rows of an example, where the shape has no lengths.
        keys: Keys of an example, likewise.
        device: Where the bias keeps its lengths.
        library: Whose bias.

    Raises:
        LookupError: xformers has none (see `has_bias`).
    """
    biases = _fmha(library).attn_bias
    band = shape.band
    if shape.lengths is None:
        if band == Band(None, None):
            return None
        if band == Band(None, 0):
            return biases.LowerTriangularFromBottomRightMask()
        return biases.LocalAttentionFromBottomRightMask(*window_sides(band, rows, keys))
    counts = [list(part) for part in shape.lengths]
    device = torch.device(device)
    if band == Band(None, None):
        return biases.BlockDiagonalMask.from_seqlens(*counts, device=device)
    if not has_bias(shape):
        raise LookupError(f"xformers has no bias with a backward for {band} and packed sequences")
    causal = biases.BlockDiagonalCausalFromBottomRightMask.from_seqlens(*counts, device=device)
    if band.left is None:
        return causal
    return causal.make_local_attention_from_bottomright(band.left + 1)


@lru_cache(maxsize=256)
def kept_bias(shape: Shape, rows: int, keys: int, device: torch.device, library: str) -> Any:
    """Return the same as `make_bias`, made once for the layers and passes of a batch.

    Its lengths are copied to the device then, which waits for it.
    """
    return make_bias(shape, rows, keys, device, library)


def has_bias(shape: Shape) -> bool:
    """Return whether xformers has a bias of a shape that its backward takes."""
    return shape.lengths is None or shape.band == Band(None, None) or shape.band.right == 0


class XformersOperator:
    """FlashAttention 2 by xformers: half types, CUDA; see `fused.operator.Operator`.

    Args:
        library: "xformers", or "mslk", where its operators have moved.
    """

    def __init__(self, library: str = XFORMERS) -> None:
        self.library = library

    def forward(
        self, q: Tensor, k: Tensor, v: Tensor, shape: Shape, scale: float
    ) -> tuple[Tensor, Tensor]:
        """Return output and log-sum-exp."""
        fmha = _fmha(self.library)
        if not has_bias(shape):
            starts, longest, window = _packed_window(shape, q.device)
            out, lse, _ = fmha.flash.FwOp.OPERATOR(
                *(x[0] for x in (q, k, v)),
                *starts,
                None,
                *longest,
                0.0,
                scale,
                False,
                window_left=window[0],
                window_right=window[1],
                return_softmax=False,
                block_tables=None,
            )
            return out[None], lse[None]
        share = q.shape[2] // k.shape[2]
        bias = kept_bias(shape, q.shape[1], k.shape[1], q.device, self.library)
        if share > 1:
            q = q.unflatten(2, (k.shape[2], share))
            k, v = (x[:, :, :, None].expand(*x.shape[:3], share, -1) for x in (k, v))
        inputs = fmha.Inputs(query=q, key=k, value=v, attn_bias=bias, scale=scale)
        out, context = fmha.flash.FwOp.apply(inputs, needs_gradient=True)
        lse = context.lse
        return (out.flatten(2, 3), lse.flatten(1, 2)) if share > 1 else (out, lse)

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
        """Return the gradients of `q, k, v`; the backward operator has no grouped heads."""
        fmha = _fmha(self.library)
        share = q.shape[2] // k.shape[2]
        if share > 1:
            k, v = (x.repeat_interleave(share, 2) for x in (k, v))
        if has_bias(shape):
            bias = kept_bias(shape, q.shape[1], k.shape[1], q.device, self.library)
            inputs = fmha.Inputs(query=q, key=k, value=v, attn_bias=bias, scale=scale)
            grads = fmha.flash.BwOp.apply(fmha.Context(out=out, lse=lse), inputs, grad)
            grad_q, grad_k, grad_v = grads.dq, grads.dk, grads.dv
        else:
            starts, longest, window = _packed_window(shape, q.device)
            raw = fmha.flash.BwOp.OPERATOR(
                False,
                grad[0].contiguous(),
                *(x[0] for x in (q, k, v, out, lse)),
                *starts,
                *longest,
                0.0,
                scale,
                False,
                window_left=window[0],
                window_right=window[1],
                rng_state=None,
            )
            grad_q, grad_k, grad_v = (x[None] for x in raw)
        if share > 1:
            grad_k, grad_v = (x.unflatten(2, (-1, share)).sum(3) for x in (grad_k, grad_v))
        return grad_q, grad_k, grad_v


def _packed_window(
    shape: Shape, device: torch.device
) -> tuple[tuple[Tensor, Tensor], list[int], tuple[int, int]]:
    """Return where sequences start, the longest of them, and the window, for rows and keys."""
    starts, longest = packed_starts(shape, device)
    return starts, longest, window_sides(shape.band, *longest)


@lru_cache(maxsize=2)
def _fmha(library: str) -> Any:
    if library == MSLK:
        from mslk.attention import fmha as moved

        return moved
    from xformers.ops import fmha

    return fmha
