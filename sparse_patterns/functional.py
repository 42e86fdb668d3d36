"""Attention with a pattern: the public function, and the operator behind it.

The operator is opaque to `torch.compile` and `torch.export`, with shapes and a backward
registered; the pattern travels as a string, and everything that depends on it happens when the
operator runs.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from sparse_patterns.config.handles import intern, look_up
from sparse_patterns.kernels.base import Call, Kernel, Request, accumulation_dtype
from sparse_patterns.kernels.dispatch import choose
from sparse_patterns.lowering.plan import Plan, plan
from sparse_patterns.spec.base import Pattern
from sparse_patterns.spec.validation import check_call


def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    pattern: Pattern,
    layer: int = 0,
    layers: int = 1,
    key_mask: Tensor | None = None,
    global_mask: Tensor | None = None,
    global_qkv: tuple[Tensor, Tensor, Tensor] | None = None,
    segment_ids: Tensor | None = None,
    q_offset: int | None = None,
    scale: float | None = None,
    dropout_p: float = 0.0,
    kernel: str = "auto",
    return_lse: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """Softmax attention over the pairs that a pattern makes visible.

        out[i] = sum_j softmax_j(scale * q[i] . k[j]) v[j]    over the visible j

    A query that sees no key gives zeros, with zero gradients. Softmax accumulates in float32
    (float64 for float64 inputs). Under `torch.compile`, make the pattern outside the compiled
    function.

    Args:
        q: Queries `(batch, heads, q_len, head_dim)`.
        k: Keys `(batch, kv_heads, kv_len, head_dim)`; `kv_heads` divides `heads`, and query head
            `h` uses key head `h // (heads // kv_heads)`.
        v: Values, of the shape of `k`.
        pattern: What attends to what.
        layer: Layer of a pattern that varies over layers.
        layers: Number of layers of the model.
        key_mask: bool `(batch, kv_len)`, True for a real token. A padded key is invisible; the row
            of a padded query is zeros.
        global_mask: bool `(batch, kv_len)`, True for a global token, for patterns with
            `BatchGlobal()`.
        global_qkv: Queries, keys and values of separate projections, of the shapes of `q, k, v`,
            that the rows of global tokens are computed from. All other rows use `q, k, v`, also for
            the columns of global keys.
        segment_ids: int `(batch, kv_len)`, for patterns with `SameDocument()`.
        q_offset: Position of query row 0; by default the queries are the last `q_len` positions.
        scale: Factor of the scores, `1 / sqrt(head_dim)` by default.
        dropout_p: Probability of dropping a weight; seeded from torch's global generator.
        kernel: Name of a kernel, which is used or refused; "auto", the fastest by declared rates;
            or "tune", the fastest by measurement, made once for each case and kept on disk.
        return_lse: Also return the log-sum-exp of each row's scores.

    Returns:
        The output, of the shape and layout of `q`; with `return_lse` also `(batch, heads, q_len)`
        in the accumulation type, -inf for a query that sees no key.

    Raises:
        TypeError: An argument has the wrong type.
        ValueError: A shape or a number is not allowed, a mask is given to a pattern that does not
            read it, the pattern does not fit the heads or layers, or a named kernel cannot serve
            the call.
    """
    check_call(
        q, k, v, pattern, key_mask, global_mask, global_qkv, segment_ids, dropout_p, layer, layers
    )
    offset = k.shape[2] - q.shape[2] if q_offset is None else q_offset
    factor = 1 / math.sqrt(max(1, q.shape[3])) if scale is None else float(scale)
    seed = torch.randint(1 << 62, (), dtype=torch.int64) if dropout_p else None
    own = global_qkv or (None, None, None)
    out, lse = _attend(
        q,
        k,
        v,
        *own,
        key_mask,
        global_mask,
        segment_ids,
        seed,
        intern(pattern),
        layer,
        layers,
        offset,
        factor,
        float(dropout_p),
        kernel,
        _needs_grad(q, k, v, *own),
    )
    return (out, lse) if return_lse else out


def _needs_grad(*tensors: Tensor | None) -> bool:
    """Return whether a backward pass may follow, which some kernels cannot run."""
    return torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in tensors)


@torch.library.custom_op("sparse_patterns::attend", mutates_args=())
def _attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    global_q: Tensor | None,
    global_k: Tensor | None,
    global_v: Tensor | None,
    key_mask: Tensor | None,
    global_mask: Tensor | None,
    segment_ids: Tensor | None,
    seed: Tensor | None,
    pattern: str,
    layer: int,
    layers: int,
    q_offset: int,
    scale: float,
    dropout_p: float,
    kernel: str,
    needs_grad: bool,
) -> tuple[Tensor, Tensor]:
    call, made, chosen = _prepare(
        q,
        k,
        v,
        global_q,
        global_k,
        global_v,
        key_mask,
        global_mask,
        segment_ids,
        seed,
        pattern,
        layer,
        layers,
        q_offset,
        scale,
        dropout_p,
        kernel,
        needs_grad,
    )
    return chosen.forward(call, made)


@_attend.register_fake
def _(q: Tensor, *rest: object) -> tuple[Tensor, Tensor]:
    return torch.empty_like(q), q.new_empty(q.shape[:3], dtype=accumulation_dtype(q.dtype))


@torch.library.custom_op("sparse_patterns::attend_backward", mutates_args=())
def _attend_backward(
    out: Tensor,
    lse: Tensor,
    grad_out: Tensor,
    grad_lse: Tensor | None,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    global_q: Tensor | None,
    global_k: Tensor | None,
    global_v: Tensor | None,
    key_mask: Tensor | None,
    global_mask: Tensor | None,
    segment_ids: Tensor | None,
    seed: Tensor | None,
    pattern: str,
    layer: int,
    layers: int,
    q_offset: int,
    scale: float,
    dropout_p: float,
    kernel: str,
    needs_grad: bool,
) -> list[Tensor]:
    call, made, chosen = _prepare(
        q,
        k,
        v,
        global_q,
        global_k,
        global_v,
        key_mask,
        global_mask,
        segment_ids,
        seed,
        pattern,
        layer,
        layers,
        q_offset,
        scale,
        dropout_p,
        kernel,
        needs_grad,
    )
    return list(chosen.backward(call, made, out, lse, grad_out, grad_lse))


@_attend_backward.register_fake
def _(
    out: Tensor,
    lse: Tensor,
    grad_out: Tensor,
    grad_lse: Tensor | None,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    global_q: Tensor | None,
    global_k: Tensor | None,
    global_v: Tensor | None,
    *rest: object,
) -> list[Tensor]:
    inputs = (q, k, v, global_q, global_k, global_v)
    return [torch.empty_like(x) for x in inputs if x is not None]


def _save(ctx, inputs, output) -> None:  # type: ignore[no-untyped-def]
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*inputs[:10], *output)
    ctx.plain = inputs[10:]


def _differentiate(ctx, grad_out, grad_lse):  # type: ignore[no-untyped-def]
    *tensors, out, lse = ctx.saved_tensors
    nothing = (None,) * (10 + len(ctx.plain))
    if grad_out is None and grad_lse is None:
        return nothing
    if grad_out is None:
        grad_out = torch.zeros_like(out)
    grads = _attend_backward(out, lse, grad_out, grad_lse, *tensors, *ctx.plain)
    return (*grads, *nothing[len(grads) :])


_attend.register_autograd(_differentiate, setup_context=_save)


def _prepare(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    global_q: Tensor | None,
    global_k: Tensor | None,
    global_v: Tensor | None,
    key_mask: Tensor | None,
    global_mask: Tensor | None,
    segment_ids: Tensor | None,
    seed: Tensor | None,
    pattern: str,
    layer: int,
    layers: int,
    q_offset: int,
    scale: float,
    dropout_p: float,
    kernel: str,
    needs_grad: bool,
) -> tuple[Call, Plan, Kernel]:
    batch, heads, q_len, head_dim = q.shape
    spec = look_up(pattern)
    request = Request(
        pattern=spec,
        layer=layer,
        layers=layers,
        batch=batch,
        heads=heads,
        kv_heads=k.shape[1],
        q_len=q_len,
        kv_len=k.shape[2],
        q_offset=q_offset,
        head_dim=head_dim,
        dtype=q.dtype,
        device=q.device.type,
        key_mask=key_mask is not None,
        global_mask=global_mask is not None,
        global_qkv=global_q is not None,
        segment_ids=segment_ids is not None,
        dropout_p=dropout_p,
        needs_grad=needs_grad,
    )
    made = plan(
        spec,
        q_len,
        k.shape[2],
        heads=heads,
        head_dim=head_dim,
        layer=layer,
        layers=layers,
        q_offset=q_offset,
    )
    own = None
    if global_q is not None and global_k is not None and global_v is not None:
        own = (global_q, global_k, global_v)
    number = 0 if seed is None else int(seed)
    call = Call(request, q, k, v, own, key_mask, global_mask, segment_ids, float(scale), number)
    return call, made, choose(request, made, kernel, call)
