"""Keys that every query sees, as those of global tokens: tiles by arithmetic."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor

from sparse_patterns.lowering.normal_form import Conjunct
from sparse_patterns.lowering.tiles.joining import join_runs
from sparse_patterns.lowering.tiles.known_masks import column_mask, depends_on_distance
from sparse_patterns.lowering.tiles.masks import STACK_FROM
from sparse_patterns.lowering.tiles.queries import cheapest_height
from sparse_patterns.lowering.tiles.runs import PlanPart, TileRun
from sparse_patterns.lowering.tiles.tiles import MAX_KEYS
from sparse_patterns.spec.base import complement, union

NAME = "columns"


def column_part(
    conjunct: Conjunct, earlier: list[Conjunct], q_len: int, kv_len: int, q_offset: int
) -> PlanPart | None:
    """Lower a conjunct whose keys every query sees; None where something else limits them.

    Args:
        conjunct: The conjunct.
        earlier: Conjuncts whose pairs are taken out.
        q_len: Number of queries, at least 1.
        kv_len: Number of keys, at least 1.
        q_offset: Position of query row 0.
    """
    if not conjunct.columns or conjunct.limited or conjunct.rest:
        return None
    if not all(depends_on_distance(other.static) for other in earlier):
        return None
    listed = conjunct.key_list(kv_len)
    assert listed is not None
    if not listed.numel():
        return PlanPart(NAME, ())
    height = cheapest_height(q_len, lambda rows: -(-q_len // rows) * rows * listed.numel())
    if q_len <= 2 * height:
        height = q_len
    pattern = complement(union(*(other.static for other in earlier))) if earlier else None
    runs: list[TileRun] = []
    for first in range(0, listed.numel(), MAX_KEYS):
        tokens = listed[first : first + MAX_KEYS].tolist()
        shared = _seen_before(tokens, earlier, q_len, q_offset, height)
        if shared is None:
            return None
        for tile, count in _stretches(q_len // height, shared):
            start = tile * height
            rows = min(height, q_len - start)
            mask: Tensor | None = None
            if tile in shared:
                assert pattern is not None
                at = tuple(token - q_offset - start for token in tokens)
                sees, mask = column_mask(pattern, rows, at)
                if not sees:
                    continue
            if rows:
                far = height if count > 1 else 0
                runs.append(TileRun(count, rows, len(tokens), start, 1, far, first, 1, 0, mask))
    return PlanPart(NAME, join_runs(runs), listed, documents=conjunct.documents)


def _stretches(whole: int, alone: set[int]) -> Iterator[tuple[int, int]]:
    """Yield tiles and how many are alike from each on: `whole` tiles, and one of what is left."""
    first = 0
    for stop in sorted({*alone, whole}):
        if stop > first:
            yield first, stop - first
        yield stop, 1
        first = stop + 1


def _seen_before(
    tokens: list[int], earlier: list[Conjunct], q_len: int, q_offset: int, height: int
) -> set[int] | None:
    """Return the tiles in which earlier conjuncts may see a token; None where there are many.

    Args:
        tokens: Positions of keys.
        earlier: Conjuncts that depend on the distance alone.
        q_len: Number of queries.
        q_offset: Position of query row 0.
        height: Rows of a tile.
    """
    tiles: set[int] = set()
    for other in earlier:
        for token in tokens:
            first = max(0, token - other.right - q_offset)
            last = min(q_len - 1, token + other.left - q_offset)
            if first <= last:
                some = range(first // height, last // height + 1)
                if len(some) > STACK_FROM:
                    return None
                tiles.update(some)
                if len(tiles) > STACK_FROM:
                    return None
    return tiles
