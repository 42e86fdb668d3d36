"""Attention with a pattern: the public function."""

from __future__ import annotations

import torch
from torch import Tensor

from sparse_patterns.config.handles import intern
from sparse_patterns.kernels.dispatch import check_kernel
from sparse_patterns.kernels.examples import give
from sparse_patterns.kernels.operator.attend import attend
from sparse_patterns.kernels.operator.given import Given
from sparse_patterns.kernels.operator.inputs import (
    draw_seed,
    needs_grad,
    score_tensors,
    wants_grad,
)
from sparse_patterns.kernels.transforms import cast, scaled_inputs
from sparse_patterns.spec.base import Pattern
from sparse_patterns.spec.fields import boolean
from sparse_patterns.spec.scores import check_devices, check_scores
from sparse_patterns.spec.validation import check_call, is_three_tensors


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
    scale: float | Tensor | None = None,
    dropout_p: float = 0.0,
    kernel: str = "auto",
    return_lse: bool = False,
    softcap: float | None = None,
    sinks: Tensor | None = None,
    distance_bias: Tensor | None = None,
) -> Tensor | tuple[Tensor, Tensor]:
    """Softmax attention over the pairs that a pattern makes visible.

        out[i] = sum_j softmax_j(scale * q[i] . k[j]) v[j]    over the visible j

    A query that sees no key gives zeros, with zero gradients. Softmax accumulates in float32
    (float64 for float64 inputs). Under autocast floating-point inputs are cast as by torch's
    `scaled_dot_product_attention`. Under `torch.compile`, make the pattern outside the compiled
    function; under `torch.export`, a `Rule` needs a function that can be imported by name.

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
        scale: Factor of the scores, `1 / sqrt(head_dim)` by default. A tensor of one element is a
            factor of `q` in the type of `q`, and gets its gradient.
        dropout_p: Probability of dropping a weight; seeded from torch's global generator.
        kernel: Name of a kernel, which is used or refused; "auto", the fastest by declared rates;
            or "tune", the fastest by measurement, made once for each case and kept on disk.
        return_lse: Also return the log-sum-exp of each row's scores.
        softcap: Scores become `softcap * tanh(score / softcap)`, after `distance_bias` is added.
        sinks: `(heads,)`, a logit of each head that takes weight in every row and has no value; the
            log-sum-exp counts it. A row that sees no key is zeros with it too.
        distance_bias: `(heads, 2 * m + 1)`: entry `clip(j - i, -m, m) + m` is added to the scaled
            score of query position `i` and key position `j`; see `alibi` and `t5_bias`.

    Returns:
        The output, of the shape and layout of `q`; with `return_lse` also `(batch, heads, q_len)`
        in the accumulation type, -inf (with `sinks`: the sink) for a query that sees no key.

    Raises:
        TypeError: An argument has the wrong type.
        NotImplementedError: A forward-mode derivative is asked for, a second derivative, or
            `torch.vmap` with the same dropout for all examples.
        ValueError: A shape or a number is not allowed, a mask is given to a pattern that does not
            read it, the pattern does not fit the heads or layers, or a named kernel cannot serve
            the call.
    """
    check_kernel(kernel)
    boolean("return_lse", return_lse)
    if isinstance(q, Tensor) and isinstance(k, Tensor) and isinstance(v, Tensor):
        q, k, v = cast(q, k, v)
        if is_three_tensors(global_qkv):
            global_qkv = cast(*global_qkv)
    check_call(
        q,
        k,
        v,
        pattern,
        key_mask,
        global_mask,
        global_qkv,
        segment_ids,
        dropout_p,
        layer,
        layers,
        q_offset,
    )
    cap = check_scores(softcap, sinks, distance_bias, q.shape[1])
    check_devices(q, sinks, distance_bias)
    factor, inputs = scaled_inputs(scale, q, k, v, global_qkv)
    added = score_tensors(q, sinks, distance_bias)
    offset = k.shape[2] - q.shape[2] if q_offset is None else q_offset
    seed = draw_seed() if dropout_p else None
    if not torch.compiler.is_compiling():
        give(key_mask, global_mask, segment_ids)
    given = Given(
        *inputs,
        *added,
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
        needs_grad(*inputs, *added),
        cap,
        wants_grad(added[1]),
    )
    out, lse = attend(given)
    if not return_lse:
        return out
    if added[0] is not None:
        lse = torch.where(lse == -torch.inf, added[0][..., None], lse)
    return out, lse
