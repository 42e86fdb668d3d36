"""Masks of tiles: evaluated where they must be, shared where they are equal."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from sparse_patterns.lowering.normal_form import Conjunct
from sparse_patterns.lowering.tiles.tiles import (
    Tiles,
    concatenate_tiles,
    select_tiles,
    unique_rows,
)
from sparse_patterns.spec.base import Pattern
from sparse_patterns.spec.oracle import ExampleContext, visible

EVALUATED_AT_ONCE = 1 << 21
"""Pairs evaluated at once, which bounds the memory of lowering."""

STACK_FROM = 8
"""With more different masks than this among tiles of one shape, they are stacked in one run."""


def evaluate_pairs(pattern: Pattern, q: Tensor, k: Tensor, kv_len: int) -> Tensor:
    """Return the visible pairs of tiles, bool `(tiles, rows, keys)`.

    Args:
        pattern: A bound pattern.
        q: int64 `(tiles, rows)`, query positions.
        k: int64 `(tiles, keys)`, key positions.
        kv_len: Number of keys.
    """
    rows = q.shape[1]
    out = torch.empty(q.shape[0], rows, k.shape[1], dtype=torch.bool, device="cpu")
    context = ExampleContext(kv_len)
    at_once = max(1, EVALUATED_AT_ONCE // max(1, rows * k.shape[1]))
    for first in range(0, q.shape[0], at_once):
        some = slice(first, first + at_once)
        out[some] = visible(pattern, q[some, :, None], k[some, None, :], context)
    return out


def may_overlap(
    conjunct: Conjunct,
    q_first: Tensor,
    q_last: Tensor,
    k_first: Tensor,
    k_last: Tensor,
    kv_len: int,
) -> Tensor:
    """Return, for each tile, whether a conjunct may see a pair of it; never False where it does."""
    low, _ = conjunct.bounds(q_first, kv_len)
    _, high = conjunct.bounds(q_last, kv_len)
    low, high = torch.maximum(low, k_first), torch.minimum(high, k_last)
    listed = conjunct.key_list(kv_len)
    if listed is None:
        return low <= high
    return torch.searchsorted(listed, low) < torch.searchsorted(listed, high, right=True)


def share_masks(tiles: Tiles, first: Tensor, last: Tensor) -> None:
    """Set kinds and masks from the first and last column each row sees; both -1 for no row."""
    if not tiles.q_start.numel():
        return
    height = first.shape[1]
    full = ((first <= 0) & ((last == tiles.keys[:, None] - 1) | (first < 0))).all(1)
    generator = torch.Generator(device="cpu").manual_seed(0)
    odd = torch.randint(1, 1 << 62, (2, height), generator=generator, device="cpu") * 2 + 1
    digest = ((first + 2) * odd[0]).sum(1) + ((last + 2) * odd[1]).sum(1)
    digest = digest * 31 + tiles.keys
    digest = torch.where(full, 0, digest)
    _, kind = torch.unique(digest, return_inverse=True)
    tiles.kind = kind
    tiles.masks = [None] * (int(kind.max()) + 1)
    example = torch.full((len(tiles.masks),), -1, device="cpu")
    example[kind] = torch.arange(kind.numel(), device="cpu")
    for number, tile in enumerate(example.tolist()):
        if full[tile]:
            continue
        rows, column = int(tiles.rows[tile]), torch.arange(int(tiles.keys[tile]), device="cpu")
        a, b = first[tile, :rows, None], last[tile, :rows, None]
        assert torch.equal(first[kind == number], first[tile].expand_as(first[kind == number]))
        tiles.masks[number] = ((column >= a) & (column <= b))[None]


def evaluate_tiles(
    tiles: Tiles, evaluate: Tensor, pattern: Pattern, q: Tensor, listed: Tensor | None, kv_len: int
) -> Tiles:
    """Replace the masks of some tiles by exact ones; drop those that see nothing."""
    kept = [select_tiles(tiles, ~evaluate)]
    shapes, _ = unique_rows(tiles.rows[evaluate], tiles.keys[evaluate])
    for rows, keys in torch.stack(shapes, 1).tolist():
        chosen = evaluate & (tiles.rows == rows) & (tiles.keys == keys)
        some = select_tiles(tiles, chosen)
        at = some.q_start[:, None] + torch.arange(rows, device="cpu") * some.step
        key = some.k_start[:, None] + torch.arange(keys, device="cpu") * some.step
        mask = evaluate_pairs(pattern, q[at], key if listed is None else listed[key], kv_len)
        kept.append(with_masks(some, mask))
    return concatenate_tiles(kept)


def with_masks(tiles: Tiles, mask: Tensor) -> Tiles:
    """Give tiles of one shape their masks: none where full, shared where only few differ.

    Tiles that see nothing are dropped.
    """
    count = tiles.q_start.numel()
    if mask.shape[1] == 1:
        # All rows are equal: one is stored and broadcast, and runs that differ in it become one.
        seen = mask.any(2)[:, 0]
        tiles.kind = torch.zeros_like(tiles.kind)
        equal = bool((mask == mask[:1]).all())
        tiles.masks = [mask[:1] if equal else mask[seen]]
        if equal and bool(mask[:1].all()):
            tiles.masks = [None]
        return select_tiles(tiles, seen)
    flat = mask.reshape(count, -1)
    digest = _digest(flat)
    seen = flat.any(1)
    full = flat.all(1)
    digest = torch.where(full, -1, digest)
    values, kind = torch.unique(digest, return_inverse=True)
    if values.numel() > 1 and bool((mask == mask[:, :1]).all()):
        # All rows are equal: one is stored and broadcast, and runs that differ in it become one.
        tiles.kind = torch.zeros_like(kind)
        tiles.masks = [mask[seen, :1]]
    elif values.numel() <= STACK_FROM:
        tiles.masks = []
        for number in range(values.numel()):
            tile = int((kind == number).nonzero()[0])
            same = flat[kind == number]
            assert torch.equal(same, flat[tile].expand_as(same))
            tiles.masks.append(None if full[tile] else mask[tile : tile + 1])
        tiles.kind = kind
    else:
        tiles.kind = full.long()
        tiles.masks = [mask[seen & ~full], None]
    return select_tiles(tiles, seen)


def _digest(rows: Tensor) -> Tensor:
    """Return a number for each row of bool `(rows, n)`: equal ones have equal numbers."""
    eights = functional.pad(rows, (0, -rows.shape[1] % 8)).view(torch.int64)
    # The product has the lowest bits of the eight bytes in its highest byte.
    small = (eights * 0x0102040810204080 >> 56) & 0xFF
    generator = torch.Generator(device="cpu").manual_seed(1)
    odd = torch.randint(1, 1 << 62, (small.shape[1],), generator=generator, device="cpu") * 2 + 1
    at_once = max(1, EVALUATED_AT_ONCE // max(1, small.shape[1]))
    return torch.cat([(part * odd).sum(1) for part in small.split(at_once)])
