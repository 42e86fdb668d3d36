"""Attention maps: the probabilities of all pairs, computed densely, for inspection."""

from __future__ import annotations

import torch
from torch import Tensor

import sparse_patterns as sp
from lit_modules.nn.encoder.attention import EncoderSelfAttention, Masks
from sparse_patterns.lowering.normal_form import has_batch_rows, row_tokens
from sparse_patterns.nn.layouts import pieces_of
from sparse_patterns.nn.traits import traits
from sparse_patterns.spec.binding import bind

__all__ = ["attention_map"]


def attention_map(attention: EncoderSelfAttention, x: Tensor, masks: Masks) -> Tensor:
    """Return the probabilities of one layer, `(batch, heads, length, length)`.

    Args:
        attention: The attention of the layer.
        x: Its input `(batch, length, width)`.
        masks: What was given with the batch.
    """
    segments = masks.segment_ids
    where = (attention.num_heads, attention.layer, attention.layers)
    if segments is None or traits(attention.pattern, *where).movable:
        return _map(attention, x, masks)
    batch, length, _ = x.shape
    found = x.new_zeros(batch, attention.num_heads, length, length)
    for example, start, stop in pieces_of(segments, masks.key_mask):
        one, part = slice(example, example + 1), slice(start, stop)
        key, marks, ids = (None if mask is None else mask[one, part] for mask in masks[:3])
        found[one, :, part, part] = _map(attention, x[one, part], Masks(key, marks, ids))
    return found


def _map(attention: EncoderSelfAttention, x: Tensor, masks: Masks) -> Tensor:
    """Return the map of texts whose positions count from the start of the row."""
    q, k, own = attention.scores_inputs(x)
    scores = q @ k.mT / attention.head_dim**0.5
    if own is not None:
        rows = _global_rows(attention, x.shape[0], x.shape[1], masks).to(x.device)
        scores = torch.where(rows[..., None], own[0] @ own[1].mT / attention.head_dim**0.5, scores)
    given = {name: mask for name, mask in masks._asdict().items() if mask is not None}
    visible = sp.dense_mask(
        attention.pattern_for(masks.segment_ids),
        x.shape[1],
        heads=attention.num_heads,
        layer=attention.layer,
        layers=attention.layers,
        device=x.device,
        **given,
    )
    probabilities = scores.masked_fill(~visible, -torch.inf).softmax(-1)
    return probabilities.masked_fill(~visible, 0)


def _global_rows(attention: EncoderSelfAttention, batch: int, length: int, masks: Masks) -> Tensor:
    """Return which rows are those of global tokens, bool `(batch, heads, length)`."""
    rows = torch.zeros(batch, attention.num_heads, length, dtype=torch.bool, device="cpu")
    patterns = bind(
        attention.pattern_for(masks.segment_ids),
        heads=attention.num_heads,
        layer=attention.layer,
        layers=attention.layers,
    )
    for head, pattern in enumerate(patterns):
        rows[:, head, list(row_tokens(pattern, length))] = True
        if masks.global_mask is not None and has_batch_rows(pattern):
            rows[:, head] |= masks.global_mask.cpu()
    return rows
