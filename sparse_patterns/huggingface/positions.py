"""Attention of padded texts with the positions of each text counted from its own first token.

`attention` counts from the first key of a row, padding included. Where texts are padded on the
left, or where a pattern depends on the length, that would make the result of an example depend on
the other examples of its batch.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from sparse_patterns.config.handles import as_constant, intern
from sparse_patterns.functional import attention
from sparse_patterns.huggingface.masks import Limit, ModelMask, pattern_of
from sparse_patterns.nn.pieces import attend_pieces
from sparse_patterns.nn.splitting import check_final
from sparse_patterns.nn.traits import traits
from sparse_patterns.spec.base import Pattern


def attend_texts(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    pattern: Pattern,
    mask: ModelMask,
    *,
    layer: int,
    layers: int,
    global_mask: Tensor | None,
    segment_ids: Tensor | None,
    documents: Tensor | None = None,
    scale: float | None,
    dropout_p: float,
    scores: dict[str, Any] | None = None,
) -> Tensor:
    """Return `attention` of each example's text, from its first real token to its last.

    Args:
        q: Queries `(batch, heads, q_len, head_dim)`.
        k: Keys `(batch, kv_heads, kv_len, head_dim)`.
        v: Values, of the shape of `k`.
        pattern: What attends to what, in positions of the text; less what the mask limits.
        mask: Where queries and keys lie, and which tokens are real.
        layer: Layer of a pattern that varies over layers.
        layers: Number of layers of the model.
        global_mask: bool `(batch, kv_len)`, for `BatchGlobal()`.
        segment_ids: int `(batch, kv_len)`, for `SameDocument()`.
        documents: int `(batch, kv_len)`, texts of their own in one row; None: one text a row. Only
            without a cache.
        scale: Factor of the scores, `1 / sqrt(head_dim)` by default.
        dropout_p: Probability of dropping a weight.
        scores: `softcap`, `sinks` and `distance_bias` of `attention`.

    Returns:
        `(batch, heads, q_len, head_dim)`, zeros in the rows of padding.

    Raises:
        ValueError: The pattern depends on the length, which is not final where a cache is used.
    """
    same: dict[str, Any] = {
        "layer": layer,
        "layers": layers,
        "global_mask": global_mask,
        "segment_ids": segment_ids,
        "scale": scale,
        "dropout_p": dropout_p,
        **(scores or {}),
    }
    if mask.start is None and documents is None and not torch.compiler.is_compiling():
        pattern = pattern & pattern_of(mask.limits)
        depends = traits(pattern, q.shape[1], layer, layers)
        if mask.q_offset:
            check_final(depends.by_length)
        if depends.movable or (mask.real is None and not mask.kv_offset):
            real = None if mask.real is None else mask.real[:, mask.kv_offset :]
            offset = mask.q_offset - mask.kv_offset
            out = attention(q, k, v, pattern, q_offset=offset, key_mask=real, **same)
            assert isinstance(out, Tensor)
            return out
    return attend_pieces(
        q,
        k,
        v,
        pattern,
        real=mask.real,
        documents=documents,
        q_offset=mask.q_offset,
        kv_offset=mask.kv_offset,
        start=mask.start,
        refused=mask.refused,
        key=_intern(pattern, mask.limits),
        **same,
    )


@as_constant
def _intern(pattern: Pattern, limits: tuple[Limit, ...]) -> str:
    """Return the string of the pairs of a pattern that the model allows."""
    return intern(pattern & pattern_of(limits))
