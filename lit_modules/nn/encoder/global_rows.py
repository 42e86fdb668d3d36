"""Rows of few global tokens, without projecting every key and value for them.

The paper (section 3.1) gives the rows of global tokens projections of their own. Projecting all
tokens by them costs as much as the local keys and values do, for a row or two that read the result.
Applied to the few rows instead, the same products cost almost nothing:

    q . (W_k x_j + b_k)         = (W_k^T q) . x_j + q . b_k
    sum_j p_j (W_v x_j + b_v)   = W_v (sum_j p_j x_j) + b_v sum_j p_j

Shapes: B batch, G rows of global tokens, H heads, D head_dim, L tokens, W width.
"""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import sparse_patterns as sp

__all__ = ["GlobalRows", "find", "global_rows", "without_rows"]


@dataclasses.dataclass(frozen=True)
class GlobalRows:
    """Where the rows of global tokens are.

    Attributes:
        index: int64 (B, G), the tokens; 0 where an example has fewer.
        real: bool (B, G), whether there is one.
    """

    index: Tensor
    real: Tensor


def without_rows(pattern: sp.Pattern) -> sp.Pattern | None:
    """Return the pattern with the columns of global tokens only, to compute their rows separately.

    Only a union that contains `BatchGlobal()` and no other global part has such a form: its
    global rows are exactly those in `global_mask`. Any other pattern gives None.
    """
    if not isinstance(pattern, sp.Union) or sp.BatchGlobal() not in pattern.parts:
        return None
    others = [part for part in pattern.parts if part != sp.BatchGlobal()]
    atoms = [atom for part in others for atom in part.walk()]
    if any(isinstance(atom, sp.Global | sp.BatchGlobal | sp.Rule) for atom in atoms):
        return None
    return pattern.with_children([*others, sp.BatchGlobal(rows=False)])


def find(global_mask: Tensor | None, key_mask: Tensor | None, x: Tensor) -> GlobalRows:
    """Return the rows of the marked tokens that are not padding.

    Args:
        global_mask: bool (B, L) or None.
        key_mask: bool (B, L) or None.
        x: (B, L, W), for sizes and the device.
    """
    if global_mask is None:
        none = torch.zeros(x.shape[0], 0, dtype=torch.int64, device=x.device)
        return GlobalRows(none, none.bool())
    marks = global_mask if key_mask is None else global_mask & key_mask
    counts = marks.sum(1)
    most = int(counts.max()) if counts.numel() else 0
    # Sorting is stable: the marked ones come first, in order.
    index = marks.to(torch.int8).argsort(dim=1, descending=True, stable=True)[:, :most]
    real = torch.arange(most, device=x.device) < counts[:, None]
    return GlobalRows(index.masked_fill(~real, 0), real)


def global_rows(
    x: Tensor,
    rows: GlobalRows,
    projections: tuple[nn.Linear, nn.Linear, nn.Linear],
    *,
    heads: int,
    key_mask: Tensor | None,
    segment_ids: Tensor | None,
    dropout_p: float,
) -> Tensor:
    """Return what global tokens read from all tokens, (B, G, W).

    Args:
        x: (B, L, W), the input of the layer.
        rows: The global tokens.
        projections: Of their queries, and of keys and values for them.
        heads: Number of heads.
        key_mask: bool (B, L), False for padding, or None.
        segment_ids: int (B, L) or None; other segments are not seen.
        dropout_p: Share of probabilities that is dropped.
    """
    query, key, value = projections
    index = rows.index[..., None].expand(-1, -1, x.shape[2])
    q = query(x.gather(1, index)).unflatten(2, (heads, -1))
    q = q * q.shape[3] ** -0.5
    towards = torch.einsum("bghd,hdw->bghw", q, key.weight.unflatten(0, (heads, -1)))
    offset = torch.einsum("bghd,hd->bgh", q, key.bias.unflatten(0, (heads, -1)))
    scores = (towards.flatten(1, 2) @ x.mT).unflatten(1, (-1, heads)) + offset[..., None]
    hidden = _hidden(rows, key_mask, segment_ids)
    if hidden is not None:
        # Finite, so that rows that are not real do not make gradients NaN.
        scores = scores.masked_fill(hidden[:, :, None], torch.finfo(scores.dtype).min)
    exact = torch.float64 if x.dtype == torch.float64 else torch.float32
    weights = scores.softmax(-1, dtype=exact).to(x.dtype)
    weights = F.dropout(weights, dropout_p)
    mixed = (weights.flatten(1, 2) @ x).unflatten(1, (-1, heads))
    out = torch.einsum("bghw,hdw->bghd", mixed, value.weight.unflatten(0, (heads, -1)))
    bias = value.bias.unflatten(0, (heads, -1)) * weights.sum(-1, keepdim=True)
    return (out + bias).flatten(2)


def _hidden(rows: GlobalRows, key_mask: Tensor | None, segment_ids: Tensor | None) -> Tensor | None:
    """Return which tokens each row does not see, bool (B, G or 1, L)."""
    hidden = None if key_mask is None else ~key_mask[:, None]
    if segment_ids is None:
        return hidden
    other = segment_ids.gather(1, rows.index)[..., None] != segment_ids[:, None]
    return other if hidden is None else hidden | other
