"""Terms given by a table of blocks: each tile gathers the key blocks that its row names."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from sparse_patterns.lowering.normal_form import Conjunct, without
from sparse_patterns.lowering.tiles.masks import evaluate_pairs, may_overlap, with_masks
from sparse_patterns.lowering.tiles.runs import PlanPart
from sparse_patterns.lowering.tiles.tiles import MAX_ROWS, RUN_PAIRS, Tiles, unique_rows
from sparse_patterns.spec.atoms import BlockTable
from sparse_patterns.spec.base import Full, Intersection, Pattern, intersection
from sparse_patterns.spec.binding import BoundRandomBlocks
from sparse_patterns.spec.block_layouts import table_pairs

MAX_GATHERED = 1 << 16
"""Keys that a part gathers; more are split over several parts."""


def layout_parts(
    conjunct: Conjunct, earlier: list[Conjunct], q: Tensor, kv_len: int
) -> list[PlanPart]:
    """Lower a conjunct given by a table of blocks; each tile gathers the key blocks of its row."""
    layout = conjunct.layout
    assert isinstance(layout, BoundRandomBlocks | BlockTable)
    block = layout.block
    width = min(block, kv_len)  # a block longer than the sequence is cut to its keys
    height = -(-block // -(-block // MAX_ROWS))
    starts = (q % block % height == 0).nonzero().flatten()
    if not starts.numel() or starts[0] != 0:
        starts = torch.cat([torch.zeros(1, dtype=torch.int64, device="cpu"), starts])
    rows = torch.cat([starts[1:], torch.tensor([q.numel()], device="cpu")]) - starts
    block_row = torch.div(q[starts], block, rounding_mode="floor")
    tile, column = table_pairs(layout, block_row, -(-kv_len // block))

    # A pair of a tile and a key block: fully visible, not visible, or to be evaluated.
    q_first = q[starts][tile]
    q_last = q_first + rows[tile] - 1
    k_first = column * block
    k_last = (k_first + block - 1).clamp(max=kv_len - 1)
    low_first, high_first = conjunct.bounds(q_first, kv_len)
    low_last, high_last = conjunct.bounds(q_last, kv_len)
    keep = (low_first <= k_last) & (high_last >= k_first)
    exact = (k_last - k_first < block - 1) | (low_last > k_first) | (high_first < k_last)
    if conjunct.rest or conjunct.columns or conjunct.dilation > 1:
        exact |= True
    for other in earlier:
        exact |= may_overlap(other, q_first, q_last, k_first, k_last, kv_len)
    tile, exact, k_first = tile[keep], exact[keep], k_first[keep]
    # All pairs of a block that is not to be evaluated are visible: masks are made of the others.
    key = k_first[exact][:, None] + torch.arange(width, device="cpu")
    row = torch.arange(int(rows.max()) if rows.numel() else 0, device="cpu")
    inside = (row < rows[tile[exact]][:, None])[:, :, None]
    masks = inside & (key < kv_len)[:, None, :]
    if masks.numel() and not conjunct.dynamic:
        position = (q[starts][:, None] + row)[tile[exact]]
        pattern = _beside_layout(conjunct, earlier)
        masks &= evaluate_pairs(pattern, position, key.clamp(max=kv_len - 1), kv_len)
    seen = torch.ones_like(exact)
    seen[exact] = masks.flatten(1).any(1)
    # Blocks that a window cuts along a diagonal are kept separate: they are few, and any tile with
    # one would cut the runs of the others. All rows of the others see the same keys.
    slanted = torch.zeros_like(exact)
    slanted[exact] = ((masks != masks[:, :1]) & inside).flatten(1).any(1)
    level = torch.ones(tile.numel(), 1, width, dtype=torch.bool, device="cpu")
    level[exact] = masks[:, :1]
    dynamic = without(conjunct, earlier) if conjunct.dynamic else None
    parts = []
    for some, of_some in (
        (seen & ~slanted, level[seen & ~slanted]),
        (slanted, masks[slanted[exact]]),
    ):
        found = _gathered_parts(
            conjunct, starts, rows, tile[some], k_first[some], of_some, kv_len, dynamic
        )
        parts.extend(found)
    return parts


def _beside_layout(conjunct: Conjunct, earlier: list[Conjunct]) -> Pattern:
    """Return what a conjunct says of the blocks that its table names, less earlier conjuncts."""
    static = conjunct.static
    literals = static.parts if isinstance(static, Intersection) else (static,)
    own = intersection(Full(), *(one for one in literals if one != conjunct.layout))
    return without(replace(conjunct, static=own), earlier)


def _gathered_parts(
    conjunct: Conjunct,
    starts: Tensor,
    rows: Tensor,
    tile: Tensor,
    k_first: Tensor,
    masks: Tensor,
    kv_len: int,
    dynamic: Pattern | None,
) -> list[PlanPart]:
    """Make parts whose key list holds the key blocks of one tile after those of another.

    Args:
        conjunct: The conjunct.
        starts: int64 `(tiles,)`, first query row.
        rows: int64 `(tiles,)`, number of rows.
        tile: int64 `(blocks,)`, sorted: which tile sees the key block.
        k_first: int64 `(blocks,)`, first key.
        masks: bool `(blocks, 1 or rows, keys)`.
        kv_len: Number of keys.
        dynamic: See `PlanPart`.
    """
    parts, width = [], masks.shape[2]
    if not tile.numel():
        return []
    place, count = torch.unique_consecutive(tile, return_counts=True)
    starts, rows = starts[place], rows[place]
    filled = _fill_up(place, count, rows, width)
    first_pair = count.cumsum(0) - count
    whole = masks.flatten(1).all(1)
    shapes, _ = unique_rows(rows, filled)
    for height, blocks in torch.stack(shapes, 1).tolist():
        chosen = ((rows == height) & (filled == blocks)).nonzero().flatten()
        keys = blocks * width
        for some in chosen.split(max(1, MAX_GATHERED // keys)):
            number = torch.arange(blocks, device="cpu")
            own = number < count[some][:, None]
            pair = first_pair[some][:, None] + torch.minimum(number, count[some][:, None] - 1)
            listed = k_first[pair][:, :, None] + torch.arange(width, device="cpu")
            listed.clamp_(max=kv_len - 1)
            tiles = Tiles(
                starts[some],
                torch.full_like(some, height),
                torch.arange(some.numel(), device="cpu") * keys,
                torch.full_like(some, keys),
                torch.zeros_like(some),
                [None],
                1,
            )
            if not bool((own & whole[pair]).all()):
                mask = masks[pair][:, :, :height] & own[:, :, None, None]
                mask = mask.transpose(1, 2).reshape(some.numel(), mask.shape[2], keys)
                tiles = with_masks(tiles, mask)
            parts.append(
                PlanPart(
                    "blocks",
                    tiles.to_runs(),
                    listed.flatten(),
                    documents=conjunct.documents,
                    dynamic=dynamic,
                )
            )
    return parts


def _fill_up(place: Tensor, count: Tensor, rows: Tensor, block: int) -> Tensor:
    """Return how many key blocks each tile computes, some of them hidden.

    Tiles that see fewer blocks than those around them would be runs of their own, and cut the runs
    of the others.

    Args:
        place: int64 `(tiles,)`, ascending: which tiles of the sequence they are.
        count: int64 `(tiles,)`, the key blocks of each tile, at least 1.
        rows: int64 `(tiles,)`, number of rows.
        block: Keys of a block.
    """
    if bool((count == count[0]).all()):
        return count
    filled = count.clone()
    for height in torch.unique(rows).tolist():
        of_height = rows == height
        most = 0
        for blocks in torch.unique(count[of_height]).flip(0).tolist():
            chosen = of_height & (count == blocks)
            index = place[chosen]
            stretches = int((index.diff() > 1).sum()) + 1
            hidden = index.numel() * height * block * (most - blocks)
            if most and hidden <= 2 * stretches * RUN_PAIRS:
                filled[chosen] = most
            else:
                most = blocks
    return filled
