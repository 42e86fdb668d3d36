"""Attention of texts that are part of a row, as an operator.

Where texts lie is read from masks on the host, which cannot be traced, and only if the pattern
counts from the start of each text: so all of it happens when the operator runs. It is opaque to
`torch.compile` and `torch.export`, with shapes and a backward registered.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from sparse_patterns.config.handles import intern
from sparse_patterns.kernels.base import accumulation_dtype
from sparse_patterns.kernels.operator.attend import compute, flops, gradients
from sparse_patterns.kernels.operator.given import count_tensors, differentiable, schema_of
from sparse_patterns.kernels.operator.inputs import (
    draw_seed,
    needs_grad,
    score_tensors,
    wants_grad,
)
from sparse_patterns.kernels.transforms import (
    cast,
    refuse_batches,
    refuse_forward_mode,
    register,
    run,
    scaled_inputs,
)
from sparse_patterns.nn.splitting import REASON, Texts, calls_of
from sparse_patterns.spec.atoms import SameDocument
from sparse_patterns.spec.base import Pattern, uses
from sparse_patterns.spec.scores import check_devices, check_scores
from sparse_patterns.spec.validation import check_call


def attend_pieces(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    pattern: Pattern,
    *,
    layer: int = 0,
    layers: int = 1,
    real: Tensor | None = None,
    documents: Tensor | None = None,
    global_mask: Tensor | None = None,
    global_qkv: tuple[Tensor, Tensor, Tensor] | None = None,
    segment_ids: Tensor | None = None,
    q_offset: int = 0,
    kv_offset: int = 0,
    start: Tensor | None = None,
    refused: dict[str, Tensor] | None = None,
    scale: float | Tensor | None = None,
    dropout_p: float = 0.0,
    kernel: str = "auto",
    key: str | None = None,
    softcap: float | None = None,
    sinks: Tensor | None = None,
    distance_bias: Tensor | None = None,
) -> Tensor:
    """Return `attention` of each text, in positions of its own; see `Texts` for the arguments.

    Args:
        q: As in `Texts`, like those that are not named here.
        k: The keys.
        v: The values.
        pattern: What attends to what, in positions of the text.
        layer: Layer of a pattern that varies over layers.
        layers: Number of layers of the model.
        real: False for padding.
        documents: The number of each token's document.
        global_mask: For `BatchGlobal()`.
        global_qkv: As in `attention`; only where queries and keys are of the same tokens.
        segment_ids: For `SameDocument()`.
        q_offset: Position of query row 0.
        kv_offset: Position of key 0.
        start: Position of query row 0, in place of `q_offset`.
        refused: Reasons why a call is refused, with bool tensors of one element, which are looked
            at when the operator runs.
        scale: Factor of the scores, `1 / sqrt(head_dim)` by default.
        dropout_p: Probability of dropping a weight.
        kernel: Name of a kernel, "auto" or "tune".
        key: The string of a pattern that is made of `pattern` and limits of places, which is used
            in its place.
        softcap: As in `attention`.
        sinks: As in `attention`.
        distance_bias: As in `attention`.

    Returns:
        `(batch, heads, q_len, head_dim)`, zeros in the rows of padding.

    Raises:
        ValueError: A reason of `refused` holds; a document is not in one piece and the pattern
            depends on positions; the pattern depends on the length, which is not final where a
            cache is used; or `attention` refuses an argument.
    """
    q, k, v = cast(q, k, v)
    if global_qkv is not None:
        global_qkv = cast(*global_qkv)
    segments = segment_ids
    if segments is None and uses(pattern, SameDocument):
        segments = documents
    check_call(
        q,
        k,
        v,
        pattern,
        None if real is None else real[:, kv_offset:],
        global_mask,
        global_qkv,
        segments,
        dropout_p,
        layer,
        layers,
        None,
    )
    cap = check_scores(softcap, sinks, distance_bias, q.shape[1])
    check_devices(q, sinks, distance_bias)
    factor, inputs = scaled_inputs(scale, q, k, v, global_qkv)
    added = score_tensors(q, sinks, distance_bias)
    given = Texts(
        *inputs,
        *added,
        real,
        documents,
        global_mask,
        segment_ids,
        start,
        torch.stack([one.reshape(()) for one in refused.values()]) if refused else None,
        draw_seed() if dropout_p else None,
        intern(pattern) if key is None else key,
        layer,
        layers,
        q_offset,
        kv_offset,
        factor,
        float(dropout_p),
        kernel,
        needs_grad(*inputs, *added),
        REASON.join(refused or ()),
        cap,
        wants_grad(added[1]),
    )
    out: Tensor = run(_FORWARD, given)[0]
    return out


_TENSORS, _ARGUMENTS = count_tensors(Texts), schema_of(Texts)
_OUTCOME = "Tensor out, Tensor lse, Tensor choices, Tensor grad_out"


@torch.library.custom_op(
    "sparse_patterns::attend_pieces",
    mutates_args=(),
    schema=f"({_ARGUMENTS}) -> (Tensor, Tensor, Tensor)",
)
def _attend(*given: Any) -> tuple[Tensor, Tensor, Tensor]:
    """Return output, log-sum-exp, and at the first query of each part the number of its kernel."""
    texts = Texts(*given)
    q = texts.q
    choices = torch.zeros(q.shape[0], q.shape[2], dtype=torch.uint8, device="cpu")
    out = lse = None
    for call, part in calls_of(texts):
        its_out, its_lse, number = compute(call)
        if part is None:
            choices[:1, :1] = number
            return its_out, its_lse, choices
        if out is None or lse is None:
            out = torch.zeros_like(q)
            lse = its_lse.new_full(q.shape[:3], -torch.inf)
        choices[part.first] = number
        part.put(out, its_out, part.queries, part.asked)
        part.put(lse, its_lse, part.queries, part.asked)
    if out is None or lse is None:
        dtype = accumulation_dtype(q.dtype)
        return torch.zeros_like(q), q.new_full(q.shape[:3], -torch.inf, dtype=dtype), choices
    return out, lse, choices


@_attend.register_fake
def _(q: Tensor, *rest: object) -> tuple[Tensor, Tensor, Tensor]:
    lse = q.new_empty(q.shape[:3], dtype=accumulation_dtype(q.dtype))
    choices = torch.empty(q.shape[0], q.shape[2], dtype=torch.uint8, device="cpu")
    return torch.empty_like(q), lse, choices


@torch.library.custom_op(
    "sparse_patterns::attend_pieces_backward",
    mutates_args=(),
    schema=f"({_OUTCOME}, {_ARGUMENTS}) -> Tensor[]",
)
def _attend_backward(
    out: Tensor, lse: Tensor, choices: Tensor, grad_out: Tensor, *given: Any
) -> list[Tensor]:
    """Return the gradients by the kernels of the forward pass."""
    texts = Texts(*given)
    tensors = (*texts[:6], texts.sinks, texts.distance_bias)
    at = differentiable(tensors, texts.bias_grad)
    inputs = [x for n, x in enumerate(tensors) if n in at and x is not None]
    grads = [torch.zeros_like(x) for x in inputs]
    for call, part in calls_of(texts):
        if part is None:
            if not choices.numel():
                break
            found = gradients(call, int(choices[0, 0]), out, lse, grad_out)
            for number, grad in enumerate(found):
                # A cache has room behind the last token, whose gradients stay zeros.
                if grad.shape == inputs[number].shape:
                    grads[number] = grad
                else:
                    grads[number][:, :, : grad.shape[2]] = grad
            break
        its = [part.take(x, part.queries) for x in (out, lse, grad_out)]
        if part.asked is not None:
            its[2] = its[2].masked_fill(~part.asked[:, None, :, None], 0)
        found = gradients(call, int(choices[part.first]), its[0], its[1], its[2])
        for number, grad in enumerate(found):
            if at[number] >= 6:
                grads[number].index_add_(0, part.rows[:, 0], grad)
            elif number % 3:
                part.put(grads[number], grad, part.keys, part.real)
            else:
                part.put(grads[number], grad, part.queries, part.asked)
    return grads


@_attend_backward.register_fake
def _(out: Tensor, lse: Tensor, choices: Tensor, grad_out: Tensor, *given: Any) -> list[Tensor]:
    return [torch.empty_like(given[n]) for n in differentiable(given, given[-1])]


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    ctx.set_materialize_grads(False)
    ctx.mark_non_differentiable(*output[1:])
    ctx.save_for_backward(*inputs[:_TENSORS], *output)
    ctx.plain = inputs[_TENSORS:]


def _differentiate(ctx: Any, grad_out: Tensor | None, *_: None) -> tuple[Tensor | None, ...]:
    *tensors, out, lse, choices = ctx.saved_tensors
    refuse_forward_mode(*tensors, grad_out)
    refuse_batches(grad_out)
    nothing = (None,) * len(Texts._fields)
    if grad_out is None:
        return nothing
    grads = iter(run(_BACKWARD, (out, lse, choices, grad_out, *tensors, *ctx.plain)))
    wanted = differentiable(tensors, ctx.plain[-1])
    return tuple(next(grads) if n in wanted else None for n in range(len(nothing)))


_FORWARD, _BACKWARD = register(
    _attend,
    _attend_backward,
    _save,
    _differentiate,
    seed=Texts._fields.index("seed"),
    outcome=_OUTCOME.count(",") + 1,
)


@register_flop_formula(torch.ops.sparse_patterns.attend_pieces, get_raw=True)
def _count_flops(*given: Any, out_val: object = None) -> int:
    return sum(flops(call) for call, _ in calls_of(Texts(*given)))


@register_flop_formula(torch.ops.sparse_patterns.attend_pieces_backward, get_raw=True)
def _count_backward_flops(*given: Any, out_val: object = None) -> int:
    texts = Texts(*given[-len(Texts._fields) :])
    return sum(flops(call, backward=True) for call, _ in calls_of(texts))
