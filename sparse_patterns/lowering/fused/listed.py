"""Listed keys: rows that see the same few keys make a segment, with a list of keys of its own.

Global columns are seen by every query, but those that a window shows already must not be counted
twice. So the rows are cut where what they see of the list changes, which for a window happens at
two rows a key, whatever the length.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from sparse_patterns.lowering.fused.stripes import Stripe, token_edges

MAX_LISTED = 1 << 24
"""Pairs of a segment and a listed key that are evaluated at most."""


@dataclass(frozen=True, eq=False)
class ListedKeys:
    """Segments of query rows with lists of keys, one after the other.

    Attributes:
        rows: int64 `(n,)`, distinct query rows.
        keys: int64 `(m,)`, keys; the same one may stand in several lists.
        row_counts: Rows of each segment.
        key_counts: Keys of each segment, 0 where its rows see nothing.
    """

    rows: Tensor
    keys: Tensor
    row_counts: tuple[int, ...]
    key_counts: tuple[int, ...]


def segment_bound(stripes: list[Stripe], tokens: int, q_len: int) -> int:
    """Return how many segments there are at most, for a number of listed keys."""
    edges = sum(2 + 2 * len(stripe.blocks) for stripe in stripes) * tokens + 1
    step = math.lcm(*(stripe.step for stripe in stripes))
    return min(q_len, edges * step)


def list_columns(
    columns: list[tuple[Stripe, Tensor]],
    tokens: Tensor,
    shown: tuple[Stripe, ...],
    q_len: int,
    q_offset: int,
    documents: Tensor | None,
) -> ListedKeys | None:
    """Return which rows see which of some keys, without what is shown elsewhere.

    Args:
        columns: Stripes that show listed keys, each with the keys it shows: bool `(tokens,)`.
        tokens: int64 `(tokens,)`, the listed keys, sorted.
        shown: Stripes whose pairs are taken out.
        q_len: Number of queries.
        q_offset: Position of query row 0.
        documents: int64 `(kv_len,)`, the document of each key, where a stripe asks for it.

    Returns:
        None where no row sees any.
    """
    if not q_len or not tokens.numel():
        return None
    stripes = [*(stripe for stripe, _ in columns), *shown]
    step = min(q_len, math.lcm(*(stripe.step for stripe in stripes)))
    starts, counts = _cut_rows(stripes, tokens, q_len, q_offset, step, documents)
    q, k = (starts + q_offset)[:, None], tokens[None, :]
    seen = torch.zeros(starts.numel(), tokens.numel(), dtype=torch.bool, device="cpu")
    for stripe, own in columns:
        seen |= stripe.sees(q, k, documents) & own
    for stripe in shown:
        seen &= ~stripe.sees(q, k, documents)
    if not seen.any():
        return None
    starts, counts, seen = _joined(starts, counts, seen, step)
    some = seen.any(1)
    if step > 1 or 2 * int(counts[some].sum()) < q_len:
        starts, counts, seen = starts[some], counts[some], seen[some]
    rank = torch.arange(int(counts.sum()), device="cpu") - torch.repeat_interleave(
        counts.cumsum(0) - counts, counts
    )
    rows = torch.repeat_interleave(starts, counts) + rank * step
    keys = tokens.expand_as(seen)[seen]
    return ListedKeys(rows, keys, tuple(counts.tolist()), tuple(seen.sum(1).tolist()))


def _cut_rows(
    stripes: list[Stripe],
    tokens: Tensor,
    q_len: int,
    q_offset: int,
    step: int,
    documents: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """Cut the rows of each residue modulo `step` where what they see may change.

    Returns:
        First row and number of rows of each segment, int64, by residue and then by row.
    """
    edges = [token_edges(stripe, tokens) for stripe in stripes]
    if documents is not None and any(stripe.documents for stripe in stripes):
        changes = (documents[1:] != documents[:-1]).nonzero().flatten() + 1
        edges += [changes, torch.tensor([0, documents.numel()], device="cpu")]
    cuts = torch.cat(edges) - q_offset
    cuts = torch.cat([cuts[(cuts > 0) & (cuts < q_len)], torch.tensor([0], device="cpu")]).unique()
    residues = torch.arange(step, device="cpu")[:, None]
    starts = cuts + (residues - cuts) % step
    stops = torch.cat([starts[:, 1:], residues + -(-(q_len - residues) // step) * step], 1)
    counts = ((stops - starts) // step).flatten()
    return starts.flatten()[counts > 0], counts[counts > 0]


def _joined(
    starts: Tensor, counts: Tensor, seen: Tensor, step: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Join adjacent segments that see the same keys."""
    follows = starts[1:] == starts[:-1] + counts[:-1] * step
    same = torch.cat(
        [torch.tensor([False], device="cpu"), follows & (seen[1:] == seen[:-1]).all(1)]
    )
    number = (~same).cumsum(0) - 1
    total = torch.zeros(int(number[-1]) + 1, dtype=torch.int64, device="cpu").index_add_(
        0, number, counts
    )
    return starts[~same], total, seen[~same]
