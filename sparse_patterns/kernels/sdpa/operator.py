"""Torch's fused attention operators for the CPU, in any layout, with gradients of the log-sum-exp.

What the operators do not do is done here: empty inputs (which end the process), key heads that
several query heads share, the log-sum-exp of rows that see nothing, and results laid out like the
inputs. A mask must be of the type of the queries, or its bytes are misread.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from sparse_patterns.kernels.base import accumulation_dtype

NATIVE = (torch.float64, torch.float32, torch.bfloat16)
"""Types that the forward operator is given as they are; float16 is slower than float32 there."""


def forward(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, causal: bool, scale: float
) -> tuple[Tensor, Tensor]:
    """Return the output, laid out like `q`, and the log-sum-exp `(batch, heads, q_len)`.

    Rows that see nothing give zeros and any log-sum-exp.

    Args:
        q: `(batch, heads, q_len, head_dim)`.
        k: `(batch, kv_heads, kv_len, head_dim)`; `kv_heads` divides `heads`.
        v: Of the shape of `k`.
        mask: 0 where visible, else -inf, in the accumulation type; broadcasts to
            `(batch, heads, q_len, kv_len)`. None hides nothing.
        causal: Whether keys after the query are hidden too, row 0 standing at key 0.
        scale: Factor of the scores.
    """
    if q.dtype not in NATIVE:
        precise_q, precise_k, precise_v = _precise(q, k, v)
        out, lse = forward(precise_q, precise_k, precise_v, mask, causal, scale)
        return _like(out, q), lse
    if not q.numel() or not k.numel():
        lse = q.new_full(q.shape[:3], -torch.inf, dtype=accumulation_dtype(q.dtype))
        return torch.zeros_like(q), lse
    share = q.shape[1] // k.shape[1]
    inputs, mask = _folded((q, _repeated(k, share), _repeated(v, share)), mask)
    out, lse = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
        *inputs, is_causal=causal, attn_mask=mask, scale=scale
    )
    return _like(out.view(q.shape), q), lse.reshape(q.shape[:3])


def backward(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    lse: Tensor,
    grad_out: Tensor,
    grad_lse: Tensor | None,
    mask: Tensor | None,
    causal: bool,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of `q, k, v`, each laid out like its input.

    Half types are computed in float32: products of the operator in half types are far slower on
    most processors.

    Args:
        q: As for `forward`; so are `k`, `v`, `mask`, `causal` and `scale`.
        k: The keys.
        v: The values.
        out: The output.
        lse: The log-sum-exp, +inf for a row that takes no part.
        grad_out: Gradient of the output.
        grad_lse: Gradient of the log-sum-exp, or None.
        mask: What is hidden.
        causal: Whether keys after the query are hidden too.
        scale: Factor of the scores.
    """
    if not q.numel() or not k.numel():
        return torch.zeros_like(q), torch.zeros_like(k), torch.zeros_like(v)
    share, head_dim = q.shape[1] // k.shape[1], q.shape[3]
    precise = _precise(q, _repeated(k, share), _repeated(v, share), out, grad_out)
    if grad_lse is not None:
        # The operator subtracts sum(out * grad_out) in each row. One more column makes it subtract
        # the gradient of the log-sum-exp less, and changes no score and no other product.
        columns = [x.new_zeros(*x.shape[:3], 1) for x in precise[:3]]
        columns += [torch.ones_like(columns[0]), -grad_lse.to(columns[0].dtype)[..., None]]
        precise = [torch.cat(pair, -1) for pair in zip(precise, columns, strict=True)]
    inputs, mask = _folded(precise, mask)
    grads = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward(
        inputs[4],
        *inputs[:4],
        lse.reshape(inputs[0].shape[:3]),
        0.0,
        causal,
        attn_mask=mask,
        scale=scale,
    )
    grads = [grad.reshape(x.shape)[..., :head_dim] for grad, x in zip(grads, precise, strict=False)]
    if share > 1:
        grads[1:] = [grad.unflatten(1, (-1, share)).sum(2) for grad in grads[1:]]
    grad_q, grad_k, grad_v = (_like(grad, x) for grad, x in zip(grads, (q, k, v), strict=True))
    return grad_q, grad_k, grad_v


def _precise(*inputs: Tensor) -> list[Tensor]:
    """Return tensors in the accumulation type of the first."""
    dtype = accumulation_dtype(inputs[0].dtype)
    return [x.to(dtype) for x in inputs]


def _repeated(x: Tensor, share: int) -> Tensor:
    """Repeat key heads for their query heads."""
    return x.repeat_interleave(share, 1) if share > 1 else x


def _folded(inputs: Sequence[Tensor], mask: Tensor | None) -> tuple[list[Tensor], Tensor | None]:
    """Return contiguous heads as examples of one head, whose gradients come out contiguous.

    Inputs in another layout, as projections leave them, are taken as they are: their gradients come
    out with the heads inside the length. So are those whose masks vary over the batch.
    """
    if mask is not None:
        mask = mask.to(inputs[0].dtype)
    batch = inputs[0].shape[0]
    if all(x.is_contiguous() for x in inputs) and (mask is None or 1 in (batch, mask.shape[0])):
        if mask is None or mask.shape[1] == 1:
            return [x.flatten(0, 1)[:, None] for x in inputs], mask
        if batch == 1:
            return [x.flatten(0, 1)[:, None] for x in inputs], mask.transpose(0, 1)
    inputs = [x if x.stride(-1) == 1 else x.contiguous() for x in inputs]
    return inputs, mask


def _like(result: Tensor, x: Tensor) -> Tensor:
    """Return a result in the type and layout of an input."""
    target = torch.empty_like(x)
    if result.dtype == x.dtype and result.stride() == target.stride():
        return result
    return target.copy_(result)
