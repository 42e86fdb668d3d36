"""Attention of rows that hold several documents, each as if it were alone.

A pattern that depends on distances alone needs no more than that documents do not see each other.
Any other one (`Global`, `LocalBlock`, `Summary`, ...) counts from the start of each document; see
`pieces`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from sparse_patterns.distributed.context.dispatch import attend
from sparse_patterns.distributed.context.split import current_split, refuse_in_split
from sparse_patterns.nn.pieces import attend_pieces
from sparse_patterns.nn.traits import traits
from sparse_patterns.spec import atoms
from sparse_patterns.spec.base import Pattern, uses
from sparse_patterns.spec.validation import check_example_type


def attend_documents(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    pattern: Pattern,
    documents: Tensor,
    *,
    layer: int = 0,
    layers: int = 1,
    key_mask: Tensor | None = None,
    global_mask: Tensor | None = None,
    global_qkv: tuple[Tensor, Tensor, Tensor] | None = None,
    segment_ids: Tensor | None = None,
    **options: Any,
) -> Tensor:
    """Return `attention` of each document, as if it were an example of its own.

    Positions of the pattern count from the first real token of each document, and its length is
    that from the first to the last one.

    Args:
        q: Queries `(batch, heads, length, head_dim)`.
        k: Keys `(batch, kv_heads, length, head_dim)`.
        v: Values, of the shape of `k`.
        pattern: What attends to what, in positions of the document.
        documents: int `(batch, length)`, the same number for all tokens of a document.
        layer: Layer of a pattern that varies over layers.
        layers: Number of layers of the model.
        key_mask: bool `(batch, length)`, True for a real token.
        global_mask: bool `(batch, length)`, for `BatchGlobal()`.
        global_qkv: As in `attention`.
        segment_ids: int `(batch, length)`, for `SameDocument()`; `documents` by default.
        **options: `scale`, `dropout_p` and `kernel` of `attention`.

    Returns:
        `(batch, heads, length, head_dim)`, zeros in the rows of padding.

    Raises:
        ValueError: A document is not in one piece and the pattern depends on positions, or
            `attention` refuses an argument.
    """
    if segment_ids is not None and not uses(pattern, atoms.SameDocument):
        raise ValueError(
            "segment_ids were given, but the pattern has no SameDocument() to read them: "
            f"{pattern!r}"
        )
    check_example_type("segment_ids", documents)
    if documents.shape != (q.shape[0], q.shape[2]):
        raise ValueError(
            f"documents must have shape (batch, length) = ({q.shape[0]}, {q.shape[2]}), "
            f"got {tuple(documents.shape)}"
        )
    same: dict[str, Any] = {"layer": layer, "layers": layers, **options}
    same |= {"global_mask": global_mask, "global_qkv": global_qkv}
    # Inside of a compiled program, where documents lie is looked at when it runs.
    by_distance = (not torch.compiler.is_compiling() or current_split() is not None) and (
        segment_ids is None and traits(pattern, q.shape[1], layer, layers).movable
    )
    if by_distance:
        alone = pattern & atoms.SameDocument()
        return attend(q, k, v, alone, key_mask=key_mask, segment_ids=documents, **same)
    refuse_in_split(f"documents of a pattern that counts from the start of each, {pattern!r},")
    same |= {"documents": documents, "segment_ids": segment_ids}
    return attend_pieces(q, k, v, pattern, real=key_mask, **same)


def positions_in(documents: Tensor, counted: Tensor | None = None) -> Tensor:
    """Return how many tokens lie before each one in its document, int64 `(batch, length)`.

    Args:
        documents: int `(batch, length)`, the number of each token's document.
        counted: bool `(batch, length)`, which tokens count; all of them if None.
    """
    ones = torch.ones_like(documents, dtype=torch.int64) if counted is None else counted.long()
    before = ones.cumsum(1) - ones
    new = torch.zeros_like(documents, dtype=torch.bool)
    new[:, 1:] = documents[:, 1:] != documents[:, :-1]
    return before - before.masked_fill(~new, 0).cummax(1).values if before.numel() else before
