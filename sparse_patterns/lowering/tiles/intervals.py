"""Terms whose queries each see an interval of keys: windows, local blocks and fixed columns."""

from __future__ import annotations

import torch
from torch import Tensor

from sparse_patterns.lowering.normal_form import Conjunct, without
from sparse_patterns.lowering.tiles.masks import evaluate_tiles, may_overlap, share_masks
from sparse_patterns.lowering.tiles.queries import column_rows, cut_queries, tile_rows
from sparse_patterns.lowering.tiles.runs import PlanPart
from sparse_patterns.lowering.tiles.tiles import MAX_KEYS, Tiles, concatenate_tiles


def interval_part(conjunct: Conjunct, earlier: list[Conjunct], q: Tensor, kv_len: int) -> PlanPart:
    """Lower a conjunct whose queries each see an interval: of each dilation-th key, or a list."""
    listed = conjunct.key_list(kv_len)
    step = 1 if listed is not None else conjunct.dilation
    low, high = conjunct.bounds(q, kv_len)
    if listed is None:
        low, high = low + (q - low) % step, high - (high - q) % step
    else:
        low = torch.searchsorted(listed, low)
        high = torch.searchsorted(listed, high, right=True) - 1
    seen = high >= low
    name = "columns" if listed is not None else "blocks" if conjunct.blocks else "window"
    empty = PlanPart(name, ())
    if not seen.any():
        return empty
    if listed is None:
        width = float(((high - low) // step + 1)[seen].float().mean())
        height = tile_rows(width, slides=not conjunct.blocks)
    else:
        height = column_rows(low, high)
    starts, rows = cut_queries(conjunct, q, kv_len, step, height)

    groups = [
        _interval_tiles(conjunct, earlier, q, low, high, listed, kv_len, starts[some], rows[some])
        for some in (rows <= height, rows > height)
        if some.any()
    ]
    runs = concatenate_tiles(groups).to_runs()
    dynamic = without(conjunct, earlier) if conjunct.dynamic else None
    documents = conjunct.documents and not conjunct.dynamic
    return PlanPart(name, runs, listed, step=step, documents=documents, dynamic=dynamic)


def _interval_tiles(
    conjunct: Conjunct,
    earlier: list[Conjunct],
    q: Tensor,
    low: Tensor,
    high: Tensor,
    listed: Tensor | None,
    kv_len: int,
    starts: Tensor,
    rows: Tensor,
) -> Tiles:
    """Return tiles of about one height, with exact masks where they are known before the call.

    Args:
        conjunct: The conjunct.
        earlier: Conjuncts whose pairs are taken out.
        q: int64 query positions.
        low: int64, the first key that each query sees, in the order of the keys or the list.
        high: int64, the last key.
        listed: The list of keys, or None.
        kv_len: Number of keys.
        starts: int64 `(tiles,)`, first query row.
        rows: int64 `(tiles,)`, number of rows.
    """
    step = 1 if listed is not None else conjunct.dilation
    # Rows of every tile, padded to the tallest: the first and last key each sees.
    offset = torch.arange(int(rows.max()), device="cpu")
    index = (starts[:, None] + offset * step).clamp(max=q.numel() - 1)
    inside = offset < rows[:, None]
    # In place from here on: these are the largest tensors of a plan.
    low = low[index].masked_fill_(~inside, 1 << 50)
    high = high[index].masked_fill_(~inside, -1)
    del index
    unseen = low > high
    k_first = low.masked_fill_(unseen, 1 << 50).amin(1)
    k_last = high.masked_fill_(unseen, -1).amax(1)
    keep = ~unseen.all(1)
    count = ((k_last - k_first) // step + 1).clamp(min=0)
    pieces = torch.where(keep, -(-count // MAX_KEYS), 0)
    source = keep.nonzero().flatten()
    if int(pieces.max()) > 1:
        source = torch.repeat_interleave(torch.arange(starts.numel(), device="cpu"), pieces)
    number = torch.arange(source.numel(), device="cpu") - (pieces.cumsum(0) - pieces)[source]
    k_start = k_first[source] + number * MAX_KEYS * step
    keys = (count[source] - number * MAX_KEYS).clamp(max=MAX_KEYS)
    tiles = Tiles(
        starts[source], rows[source], k_start, keys, torch.zeros_like(source), [None], step
    )
    inside = inside[source]
    first = low[source].sub_(k_start[:, None]).floor_divide_(step).clamp_(min=0)
    last = high[source].sub_(k_start[:, None]).floor_divide_(step).clamp_(max=keys[:, None] - 1)
    del low, high
    some = first <= last
    first = torch.where(some, first, keys[:, None]).masked_fill_(~inside, -1)
    last.masked_fill_(~(some & inside), -1)

    exact = bool(conjunct.rest) or (listed is not None and conjunct.dilation > 1)
    evaluate = torch.full_like(keep[source], exact)
    k_stop = k_start + (keys - 1) * step
    token_first, token_last = (
        (k_start, k_stop) if listed is None else (listed[k_start], listed[k_stop])
    )
    for other in earlier:
        evaluate |= may_overlap(
            other, q[tiles.q_start], _last(q, tiles), token_first, token_last, kv_len
        )
    if conjunct.dynamic or not evaluate.any():
        share_masks(tiles, first, last)
        return tiles
    if not evaluate.all():
        share_masks(tiles, first, last)
    return evaluate_tiles(tiles, evaluate, without(conjunct, earlier), q, listed, kv_len)


def _last(q: Tensor, tiles: Tiles) -> Tensor:
    return q[tiles.q_start] + (tiles.rows - 1) * tiles.step
