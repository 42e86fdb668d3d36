"""Both passes of FlexAttention, on a `BlockMask` made of the plan's blocks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from sparse_patterns.kernels.flex.terms import FlexTerms, score_grad, score_mod
from sparse_patterns.lowering.blocks.lists import INTERVALS, PAGE, SIZE

if TYPE_CHECKING:
    from torch.nn.attention.flex_attention import BlockMask

OPTIONS = {
    "BACKEND": "TRITON",
    "PRESCALE_QK": False,
    "ROWS_GUARANTEED_SAFE": False,
    "BLOCKS_ARE_CONTIGUOUS": False,
    "WRITE_DQ": True,
    # Torch's own default follows a global switch, and TF32 is too coarse for a float32 result.
    "FLOAT32_PRECISION": "'ieee'",
}
"""Options of the operator."""


def forward_pass(
    inputs: tuple[Tensor, ...],
    lists: tuple[Tensor, ...],
    scale: float,
    bits: bool,
    flash: bool = False,
    terms: FlexTerms | None = None,
) -> tuple[Tensor, ...]:
    """Return output and log-sum-exp.

    Args:
        inputs: Queries, keys and values.
        lists: The tensors of `BlockLists`.
        scale: Factor of the scores.
        bits: Whether masks are looked up as bits too.
        flash: Whether torch's backend FLASH is asked for.
        terms: What changes the scores, or None.
    """
    from torch.nn.attention.flex_attention import AuxRequest, flex_attention

    q, k, v = inputs
    options: Any = {"BACKEND": "FLASH"} if flash else dict(OPTIONS)
    out, aux = flex_attention(
        q,
        k,
        v,
        score_mod=None if terms is None else score_mod(terms),
        block_mask=block_mask(lists, q.shape[2], k.shape[2], bits),
        scale=scale,
        enable_gqa=q.shape[1] != k.shape[1],
        kernel_options=options,
        return_aux=AuxRequest(lse=True),
    )
    assert aux.lse is not None
    # Of the backend FLASH it has no gradient.
    return out, aux.lse.detach() if flash else aux.lse


def backward_pass(
    inputs: tuple[Tensor, ...],
    lists: tuple[Tensor, ...],
    scale: float,
    bits: bool,
    flash: bool = False,
    terms: FlexTerms | None = None,
) -> tuple[Tensor, ...]:
    """Return the gradients of queries, keys and values.

    Args:
        inputs: Queries, keys, values, the output, its log-sum-exp in base 2, and their gradients.
        lists: The tensors of `BlockLists`.
        scale: Factor of the scores.
        bits: Whether masks are looked up as bits too.
        flash: Never: the backend FLASH is left to autograd.
        terms: What changes the scores, or None.
    """
    from torch._higher_order_ops.flex_attention import flex_attention_backward

    q, k, v, out, logs, grad_out, grad_logs = inputs
    mask = block_mask(lists, q.shape[2], k.shape[2], bits)
    options = {**OPTIONS, "OUTPUT_LOGSUMEXP": True, "OUTPUT_MAX": False}
    # The compiler handles the call only with all of its arguments given.
    given = (q, k, v, out, logs, grad_out, grad_logs)
    joint: Any = None  # the compiler derives it
    if terms is not None and not torch.compiler.is_compiling():
        joint = score_grad(terms)
    change = _score if terms is None else score_mod(terms)
    rest = (joint, mask.as_tuple(), scale, options, (), ())
    with torch.set_grad_enabled(terms is not None):
        grads = flex_attention_backward(*given, change, *rest)
    return tuple(grads[:3])


def _score(score: Tensor, b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
    return score


def block_mask(lists: tuple[Tensor, ...], q_len: int, kv_len: int, bits: bool) -> BlockMask:
    """Return the lists as a `BlockMask`, key and query side, and the mask that reads them."""
    from torch.nn.attention.flex_attention import BlockMask

    entry, interval, page_of, pages, table, real = lists[8:]
    several = real.shape[0] > 1

    def mask(b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
        at = entry[b, h]
        seen = (k >= interval[at, 0, 0, q]) & (k <= interval[at, 1, 0, q])
        for number in range(1, INTERVALS):
            seen = seen | ((k >= interval[at, 0, number, q]) & (k <= interval[at, 1, number, q]))
        if bits:
            page = page_of[at, q // SIZE, k // (SIZE * PAGE)]
            kind = pages[page, k // SIZE % PAGE]
            seen = seen | table[kind, q % SIZE, k % SIZE]
        return seen & (real[b, k] if several else real[0, k])

    a, b, c, d, e, f, g, h = lists[:8]
    size = (SIZE, SIZE)
    return BlockMask((q_len, kv_len), a, b, c, d, e, f, g, h, BLOCK_SIZE=size, mask_mod=mask)
