"""Attention of rows that hold several documents, each as if it were alone.

A pattern that depends on distances alone needs no more than that documents do not see each other.
Any other one (`Global`, `LocalBlock`, `Summary`, ...) counts from the start of each document, for
which the documents become the examples of a batch of their own.
"""

from __future__ import annotations

from functools import lru_cache
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor

from sparse_patterns.functional import attention
from sparse_patterns.spec import atoms
from sparse_patterns.spec.base import Full, Pattern, uses
from sparse_patterns.spec.binding import bind
from sparse_patterns.spec.lookahead import call_time_parts

_BY_DISTANCE = (atoms.Window, atoms.Causal, Full, atoms.Strided)
_BY_EXAMPLE = (atoms.BatchGlobal, atoms.SameDocument)


class Traits(NamedTuple):
    """What a pattern of one layer depends on.

    Attributes:
        movable: Whether it means the same wherever a text starts.
        by_length: Which part depends on the final length, and why; None if no part does.
    """

    movable: bool
    by_length: str | None


@lru_cache(maxsize=256)
def traits(pattern: Pattern, heads: int, layer: int, layers: int) -> Traits:
    """Return what a pattern of one layer depends on."""
    movable, by_length = True, None
    for one in dict.fromkeys(bind(pattern, heads=heads, layer=layer, layers=layers)):
        leaves = [part for part in one.walk() if not part.children()]
        movable &= all(isinstance(leaf, (*_BY_DISTANCE, *_BY_EXAMPLE)) for leaf in leaves)
        for part, why in call_time_parts(one):
            if not isinstance(part, _BY_EXAMPLE):
                by_length = f"{part!r} depends on {why}"
    return Traits(movable, by_length)


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
    segments = uses(pattern, atoms.SameDocument)
    if segment_ids is not None and not segments:
        raise ValueError(
            "segment_ids were given, but the pattern has no SameDocument() to read them: "
            f"{pattern!r}"
        )
    same: dict[str, Any] = {"layer": layer, "layers": layers, **options}
    own = traits(pattern, q.shape[1], layer, layers)
    pieces = []
    if not own.movable or segment_ids is not None:
        pieces = pieces_of(documents, key_mask)
    if not pieces:
        return _tensor(
            attention(
                q,
                k,
                v,
                pattern & atoms.SameDocument(),
                key_mask=key_mask,
                global_mask=global_mask,
                global_qkv=global_qkv,
                segment_ids=documents,
                **same,
            )
        )
    if segments:
        segment_ids = documents if segment_ids is None else segment_ids
    batch, heads, length, size = q.shape
    found, places = [], []
    for long, group in _grouped(pieces, length, exact=own.by_length is not None).items():
        take = _Taken(group, long, key_mask, q.device)
        out = attention(
            take.heads(q),
            take.heads(k),
            take.heads(v),
            pattern,
            key_mask=take.key_mask,
            global_mask=take.tokens(global_mask),
            segment_ids=take.tokens(segment_ids),
            global_qkv=None if global_qkv is None else tuple(map(take.heads, global_qkv)),  # type: ignore[arg-type]
            **same,
        )
        found.append(_tensor(out).transpose(1, 2)[take.inside])
        places.append((take.row * length + take.column)[take.inside])
    rows = torch.cat(found)
    joined = rows.new_zeros(batch * length, heads, size)
    joined = joined.index_copy(0, torch.cat(places), rows)
    return joined.unflatten(0, (batch, length)).transpose(1, 2)


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


class _Taken:
    """Documents of similar length as the examples of a batch.

    Attributes:
        row: int `(documents, 1)`, the example each is part of.
        column: int `(documents, long)`, where its tokens lie there.
        inside: bool `(documents, long)`, False behind the end of the document.
        key_mask: What `attention` takes; None if all tokens are real.
    """

    def __init__(
        self,
        pieces: list[tuple[int, int, int]],
        long: int,
        key_mask: Tensor | None,
        device: torch.device,
    ) -> None:
        row, start, stop = torch.tensor(pieces, device=device).T[:, :, None]
        column = start + torch.arange(long, device=device)
        self.row, self.inside = row, column < stop
        self.column = torch.minimum(column, stop - 1)
        self.key_mask: Tensor | None = None
        if key_mask is not None:
            self.key_mask = key_mask[row, self.column] & self.inside
        elif any(b - a < long for _, a, b in pieces):
            self.key_mask = self.inside

    def heads(self, x: Tensor) -> Tensor:
        """Take from `(batch, heads, length, head_dim)`."""
        return x.transpose(1, 2)[self.row, self.column].transpose(1, 2)

    def tokens(self, x: Tensor | None) -> Tensor | None:
        """Take from `(batch, length)`."""
        return None if x is None else x[self.row, self.column]


def pieces_of(documents: Tensor, real: Tensor | None = None) -> list[tuple[int, int, int]]:
    """Return `(example, start, stop)` of each document, without padding at its ends.

    Args:
        documents: int `(batch, length)`, the number of each token's document.
        real: bool `(batch, length)`, False for padding.

    Raises:
        ValueError: A document is not in one piece.
    """
    length = documents.shape[1]
    if length == 0:
        return []
    change = documents[:, 1:] != documents[:, :-1]
    found = []
    kept = None if real is None else real.tolist()
    for example, (row, ids) in enumerate(zip(change.tolist(), documents.tolist(), strict=True)):
        cuts = [0, *(place + 1 for place, new in enumerate(row) if new), length]
        names = set()
        for start, stop in pairwise(cuts):
            if kept is not None:
                while start < stop and not kept[example][start]:
                    start += 1
                while start < stop and not kept[example][stop - 1]:
                    stop -= 1
            if start == stop:
                continue
            if ids[start] in names:
                raise ValueError(
                    f"documents must be in one piece where a pattern depends on positions, but "
                    f"document {ids[start]} of example {example} goes on at position {start} "
                    "after another one"
                )
            names.add(ids[start])
            found.append((example, start, stop))
    return found


def _grouped(
    pieces: list[tuple[int, int, int]], length: int, *, exact: bool
) -> dict[int, list[tuple[int, int, int]]]:
    """Return the documents by the length they are brought to.

    Unless exact lengths are needed these are powers of two: few calls, and few shapes to plan.
    """
    groups: dict[int, list[tuple[int, int, int]]] = {}
    for piece in pieces:
        size = piece[2] - piece[1]
        long = size if exact else min(length, 1 << (size - 1).bit_length())
        groups.setdefault(long, []).append(piece)
    return groups


def _tensor(out: Tensor | tuple[Tensor, Tensor]) -> Tensor:
    assert isinstance(out, Tensor)
    return out
