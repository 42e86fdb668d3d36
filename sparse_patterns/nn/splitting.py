"""A batch of rows that hold several texts, split into calls of attention."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from sparse_patterns.config.handles import intern, look_up
from sparse_patterns.kernels.operator.given import Given
from sparse_patterns.nn.layouts import Part, layout_of
from sparse_patterns.nn.traits import traits
from sparse_patterns.spec.atoms import SameDocument
from sparse_patterns.spec.base import uses

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
        sinks: `(batch, heads)`, from `score_tensors`.
        distance_bias: `(batch, heads, 2 * m + 1)`, from `score_tensors`.
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
        softcap: As in `attention`.
        bias_grad: Whether the gradient of the bias may be asked for.
    """

    q: Tensor
    k: Tensor
    v: Tensor
    global_q: Tensor | None
    global_k: Tensor | None
    global_v: Tensor | None
    sinks: Tensor | None
    distance_bias: Tensor | None
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
    softcap: float | None
    bias_grad: bool


def calls_of(texts: Texts) -> list[tuple[Given, Part | None]]:
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
        *texts[:8],
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
        softcap=texts.softcap,
        bias_grad=texts.bias_grad,
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
        sinks=part.take_examples(texts.sinks),
        distance_bias=part.take_examples(texts.distance_bias),
        global_mask=part.take_tokens(texts.global_mask),
        seed=seed,
    )
