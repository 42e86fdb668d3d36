"""Attention of texts that are part of a row, as an operator.

Where texts lie is read from masks on the host, which cannot be traced, and only if the pattern
counts from the start of each text: so all of it happens when the operator runs. It is opaque to
`torch.compile` and `torch.export`, with shapes and a backward registered.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from sparse_patterns import functional
from sparse_patterns.config.handles import intern, look_up
from sparse_patterns.functional import Given, count_tensors, schema_of
from sparse_patterns.kernels.base import accumulation_dtype
from sparse_patterns.kernels.transforms import (
    Formula,
    cast,
    map_batch,
    refuse_forward_mode,
    refuse_second,
    run,
    save_nothing,
    scaled,
)
from sparse_patterns.nn.layouts import Part, layout_of
from sparse_patterns.nn.traits import traits
from sparse_patterns.spec.atoms import SameDocument
from sparse_patterns.spec.base import Pattern, uses
from sparse_patterns.spec.validation import check_call

REASON = "\n"
"""What stands between the reasons of refusals in the string that travels with a call."""

_STREAM = 0x9E3779B97F4A7C15
"""Distance of the seeds of two parts of a batch."""


class Texts(NamedTuple):
    """What the operators are given: the tensors of a call, then the numbers and names.

    Attributes:
        q: Queries `(batch, heads, q_len, head_dim)`.
        k: Keys `(batch, kv_heads, kv_len, head_dim)`.
        v: Values, of the shape of `k`.
        global_q: As `global_qkv` of `attention`.
        global_k: The same of the keys.
        global_v: The same of the values.
        real: bool `(batch, kv_offset + kv_len)`, False for padding.
        documents: int `(batch, kv_len)`, the number of each token's document.
        global_mask: bool `(batch, kv_len)`, for `BatchGlobal()`.
        segment_ids: int `(batch, kv_len)`, for `SameDocument()`; `documents` by default.
        start: int64 of one element, the position of query row 0 if it is not known before. Then
            keys behind the last query do not count.
        refused: bool `(reasons,)`, True for a reason why this call is refused.
        seed: int64, of the dropout.
        pattern: From `intern`.
        layer: Layer of a pattern that varies over layers.
        layers: Number of layers of the model.
        q_offset: Position of query row 0, without `start`.
        kv_offset: Position of key 0.
        scale: Factor of the scores.
        dropout_p: Probability of dropping a weight.
        kernel: Name of a kernel, "auto" or "tune".
        needs_grad: Whether a backward pass may follow.
        reasons: The texts of `refused`, with `REASON` between them.
    """

    q: Tensor
    k: Tensor
    v: Tensor
    global_q: Tensor | None
    global_k: Tensor | None
    global_v: Tensor | None
    real: Tensor | None
    documents: Tensor | None
    global_mask: Tensor | None
    segment_ids: Tensor | None
    start: Tensor | None
    refused: Tensor | None
    seed: Tensor | None
    pattern: str
    layer: int
    layers: int
    q_offset: int
    kv_offset: int
    scale: float
    dropout_p: float
    kernel: str
    needs_grad: bool
    reasons: str


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
    own: tuple[Tensor | None, Tensor | None, Tensor | None] = (None, None, None)
    if global_qkv is None:
        factor, (q,) = scaled(scale, q)
    else:
        factor, (q, own_q) = scaled(scale, q, global_qkv[0])
        own = (own_q, *global_qkv[1:])
    refuse_forward_mode(q, k, v, *own)
    given = Texts(
        q,
        k,
        v,
        *own,
        real,
        documents,
        global_mask,
        segment_ids,
        start,
        torch.stack([one.reshape(()) for one in refused.values()]) if refused else None,
        functional.draw_seed() if dropout_p else None,
        intern(pattern) if key is None else key,
        layer,
        layers,
        q_offset,
        kv_offset,
        factor,
        float(dropout_p),
        kernel,
        functional.needs_grad(q, k, v, *own),
        REASON.join(refused or ()),
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
    for call, part in _calls(texts):
        its_out, its_lse, number = functional.compute(call)
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
    inputs = [x for x in texts[:6] if x is not None]
    grads = [torch.zeros_like(x) for x in inputs]
    for call, part in _calls(texts):
        if part is None:
            if not choices.numel():
                break
            found = functional.gradients(call, int(choices[0, 0]), out, lse, grad_out)
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
        found = functional.gradients(call, int(choices[part.first]), its[0], its[1], its[2])
        for number, grad in enumerate(found):
            if number % 3:
                part.put(grads[number], grad, part.keys, part.real)
            else:
                part.put(grads[number], grad, part.queries, part.asked)
    return grads


@_attend_backward.register_fake
def _(out: Tensor, lse: Tensor, choices: Tensor, grad_out: Tensor, *given: Any) -> list[Tensor]:
    return [torch.empty_like(x) for x in given[:6] if x is not None]


def _calls(texts: Texts) -> list[tuple[Given, Part | None]]:
    """Return the calls of attention that a batch is split into; one without a part is the whole."""
    _refuse(texts)
    q_offset = texts.q_offset if texts.start is None else int(texts.start)
    if texts.start is not None:
        texts = _cut(texts, q_offset + texts.q.shape[2])
    q, k = texts.q, texts.k
    q_len, kv_len = q.shape[2], k.shape[2]
    pattern = look_up(texts.pattern)
    depends = traits(pattern, q.shape[1], texts.layer, texts.layers)
    if q_offset:
        check_final(depends.by_length)
    layout = layout_of(texts.documents, texts.real, q.shape[0], q.device)
    real = texts.real if layout.padded else None
    key_mask = None if real is None else real[:, texts.kv_offset :]
    segment_ids = texts.segment_ids
    if layout.several and depends.movable and segment_ids is None:
        key = intern(pattern & SameDocument())
        whole = _call(texts, key, key_mask, texts.documents, q_offset - texts.kv_offset)
        return [(whole, None)]
    if segment_ids is None and uses(pattern, SameDocument):
        segment_ids = texts.documents
    exact = depends.by_length is not None
    if layout.several:
        parts = layout.documents(exact=exact)
    elif depends.movable or (real is None and not texts.kv_offset):
        offset = q_offset - texts.kv_offset
        return [(_call(texts, texts.pattern, key_mask, segment_ids, offset), None)]
    else:
        parts = layout.texts(q_len, kv_len, q_offset, texts.kv_offset, exact=exact)
    return [(_part_of(texts, part, number, segment_ids), part) for number, part in enumerate(parts)]


def check_final(by_length: str | None) -> None:
    """Refuse a pattern that depends on the length where a cache is used.

    Raises:
        ValueError: A part does.
    """
    if by_length:
        raise ValueError(
            f"{by_length}, so that generation with a cache would differ from generation "
            "without; call generate(..., use_cache=False), or leave that part out"
        )


def _refuse(texts: Texts) -> None:
    if texts.refused is None:
        return
    for holds, reason in zip(texts.refused.tolist(), texts.reasons.split(REASON), strict=True):
        if holds:
            raise ValueError(reason)


def _cut(texts: Texts, end: int) -> Texts:
    """Return the same without the room of a cache behind the last query."""
    kept = end - texts.kv_offset

    def tokens(x: Tensor | None, last: int) -> Tensor | None:
        return None if x is None else x[:, :last]

    return texts._replace(
        k=texts.k[:, :, :kept],
        v=texts.v[:, :, :kept],
        real=tokens(texts.real, end),
        documents=tokens(texts.documents, kept),
        global_mask=tokens(texts.global_mask, kept),
        segment_ids=tokens(texts.segment_ids, kept),
    )


def _call(
    texts: Texts,
    pattern: str,
    key_mask: Tensor | None,
    segment_ids: Tensor | None,
    q_offset: int,
) -> Given:
    """Return the call of the whole batch."""
    return Given(
        *texts[:6],
        key_mask=key_mask,
        global_mask=texts.global_mask,
        segment_ids=segment_ids,
        seed=texts.seed,
        pattern=pattern,
        layer=texts.layer,
        layers=texts.layers,
        q_offset=q_offset,
        scale=texts.scale,
        dropout_p=texts.dropout_p,
        kernel=texts.kernel,
        needs_grad=texts.needs_grad,
    )


def _part_of(texts: Texts, part: Part, number: int, segment_ids: Tensor | None) -> Given:
    """Return the call of a part of the batch."""
    seed = texts.seed
    if seed is not None and number:
        seed = torch.tensor((int(seed) + number * _STREAM) % (1 << 62), device="cpu")
    whole = _call(texts, texts.pattern, part.real, part.take_tokens(segment_ids), part.q_offset)
    return whole._replace(
        q=part.take(texts.q, part.queries),
        k=part.take(texts.k, part.keys),
        v=part.take(texts.v, part.keys),
        global_q=None if texts.global_q is None else part.take(texts.global_q, part.queries),
        global_k=None if texts.global_k is None else part.take(texts.global_k, part.keys),
        global_v=None if texts.global_v is None else part.take(texts.global_v, part.keys),
        global_mask=part.take_tokens(texts.global_mask),
        seed=seed,
    )


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    ctx.set_materialize_grads(False)
    ctx.mark_non_differentiable(*output[1:])
    ctx.save_for_backward(*inputs[:_TENSORS], *output)
    ctx.plain = inputs[_TENSORS:]


def _differentiate(ctx: Any, grad_out: Tensor | None, *_: None) -> tuple[Tensor | None, ...]:
    *tensors, out, lse, choices = ctx.saved_tensors
    refuse_forward_mode(*tensors, grad_out)
    nothing = (None,) * len(Texts._fields)
    if grad_out is None:
        return nothing
    grads = run(_BACKWARD, (out, lse, choices, grad_out, *tensors, *ctx.plain))
    return (*grads, *nothing[len(grads) :])


_attend.register_autograd(_differentiate, setup_context=_save)
_attend_backward.register_autograd(refuse_second, setup_context=save_nothing)

_SEED = Texts._fields.index("seed")
_FORWARD = Formula(_attend, _save, _differentiate, _SEED)
_BACKWARD = Formula(_attend_backward, save_nothing, refuse_second, _OUTCOME.count(",") + 1 + _SEED)


@_attend.register_vmap
def _(info: Any, in_dims: tuple[Any, ...], *given: Any) -> Any:
    return map_batch(_FORWARD, info, in_dims, given)


@_attend_backward.register_vmap
def _(info: Any, in_dims: tuple[Any, ...], *given: Any) -> Any:
    return map_batch(_BACKWARD, info, in_dims, given)


@register_flop_formula(torch.ops.sparse_patterns.attend_pieces, get_raw=True)
def _count_flops(*given: Any, out_val: object = None) -> int:
    return sum(functional.flops(call) for call, _ in _calls(Texts(*given)))


@register_flop_formula(torch.ops.sparse_patterns.attend_pieces_backward, get_raw=True)
def _count_backward_flops(*given: Any, out_val: object = None) -> int:
    texts = Texts(*given[-len(Texts._fields) :])
    return sum(functional.flops(call, backward=True) for call, _ in _calls(texts))
