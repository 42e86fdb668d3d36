"""Attention of padded texts with the positions of each text counted from its own first token.

`attention` counts from the first key of a row, padding included. Where texts are padded on the
left, or where a pattern depends on the length, that would make the result of an example depend on
the other examples of its batch.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from sparse_patterns.functional import attention
from sparse_patterns.huggingface.masks import ModelMask
from sparse_patterns.nn.documents import attend_documents, traits
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
) -> Tensor:
    """Return `attention` of each example's text, from its first real token to its last.

    Args:
        q: Queries `(batch, heads, q_len, head_dim)`.
        k: Keys `(batch, kv_heads, kv_len, head_dim)`.
        v: Values, of the shape of `k`.
        pattern: What attends to what, in positions of the text.
        mask: Where queries and keys lie, and which tokens are real.
        layer: Layer of a pattern that varies over layers.
        layers: Number of layers of the model.
        global_mask: bool `(batch, kv_len)`, for `BatchGlobal()`.
        segment_ids: int `(batch, kv_len)`, for `SameDocument()`.
        documents: int `(batch, kv_len)`, texts of their own in one row; None: one text a row. Only
            without a cache.
        scale: Factor of the scores, `1 / sqrt(head_dim)` by default.
        dropout_p: Probability of dropping a weight.

    Returns:
        `(batch, heads, q_len, head_dim)`, zeros in the rows of padding.

    Raises:
        ValueError: The pattern depends on the length, which is not final where a cache is used.
    """
    depends = traits(pattern, q.shape[1], layer, layers)
    if mask.q_offset and depends.by_length:
        raise ValueError(
            f"{depends.by_length}, so that generation with a cache would differ from generation "
            "without; call generate(..., use_cache=False), or leave that part out"
        )
    same: dict[str, Any] = {
        "pattern": pattern,
        "layer": layer,
        "layers": layers,
        "scale": scale,
        "dropout_p": dropout_p,
    }
    if documents is not None:
        return attend_documents(
            q,
            k,
            v,
            documents=documents,
            key_mask=mask.real,
            global_mask=global_mask,
            segment_ids=segment_ids,
            **same,
        )
    whole = mask.real is None and not mask.kv_offset
    if whole or depends.movable:
        real = None if mask.real is None else mask.real[:, mask.kv_offset :]
        offset = mask.q_offset - mask.kv_offset
        same |= {"key_mask": real, "global_mask": global_mask, "segment_ids": segment_ids}
        return _tensor(attention(q, k, v, q_offset=offset, **same))

    end = mask.kv_offset + mask.kv_len
    groups: dict[tuple[int, int], list[int]] = {}
    for example in range(q.shape[0]):
        start, stop = mask.texts[example] if mask.texts else (0, end)
        groups.setdefault((start, stop if depends.by_length else end), []).append(example)
    outs = []
    for (start, stop), examples in groups.items():
        rows = torch.tensor(examples, device=q.device)
        # Keys that a cache has dropped are put back as invisible ones, to keep the places.
        dropped = max(0, mask.kv_offset - start)
        kept = slice(max(0, start - mask.kv_offset), max(0, stop - mask.kv_offset))
        key_mask = None
        if mask.real is not None:
            key_mask = mask.real[rows, start:stop].clone()
        elif dropped:
            key_mask = torch.ones(len(examples), stop - start, dtype=torch.bool, device=q.device)
        if key_mask is not None:
            key_mask[:, :dropped] = False
        first = min(max(0, start - mask.q_offset), mask.q_len)
        last = min(max(first, stop - mask.q_offset), mask.q_len)
        out = attention(
            q[rows, :, first:last],
            F.pad(k[rows, :, kept], (0, 0, dropped, 0)),
            F.pad(v[rows, :, kept], (0, 0, dropped, 0)),
            q_offset=mask.q_offset + first - start,
            key_mask=key_mask,
            global_mask=_part_of(global_mask, rows, kept, dropped),
            segment_ids=_part_of(segment_ids, rows, kept, dropped),
            **same,
        )
        outs.append(F.pad(_tensor(out), (0, 0, first, mask.q_len - last)))
    order = torch.tensor([e for examples in groups.values() for e in examples], device=q.device)
    return torch.cat(outs)[order.argsort()]


def _part_of(x: Tensor | None, rows: Tensor, kept: slice, dropped: int) -> Tensor | None:
    return None if x is None else F.pad(x[rows, kept], (dropped, 0))


def _tensor(out: Tensor | tuple[Tensor, Tensor]) -> Tensor:
    assert isinstance(out, Tensor)
    return out
