"""The way from one head's bound pattern to its parts, conjunct by conjunct."""

from __future__ import annotations

from functools import lru_cache

import torch

from sparse_patterns.lowering.normal_form import Conjunct, row_tokens, to_conjuncts, without
from sparse_patterns.lowering.tiles.columns import column_part
from sparse_patterns.lowering.tiles.grids.part import grid_part
from sparse_patterns.lowering.tiles.intervals import interval_part
from sparse_patterns.lowering.tiles.layouts import layout_parts
from sparse_patterns.lowering.tiles.rows import row_part
from sparse_patterns.lowering.tiles.runs import PlanPart, TileRun
from sparse_patterns.lowering.tiles.tiles import MAX_ROWS
from sparse_patterns.lowering.tiles.windows import window_part
from sparse_patterns.spec.algebra import alternatives
from sparse_patterns.spec.atoms import Global
from sparse_patterns.spec.base import Pattern


def lower(pattern: Pattern, q_len: int, kv_len: int, q_offset: int) -> tuple[PlanPart, ...]:
    """Return the parts of one head's bound pattern for one shape.

    The rows of global tokens known before the call are a part of their own, last, with `queries`
    set; the other parts may compute these rows too, and what they find is to be dropped.
    Per-example global columns are a part with `dynamic` set whose keys are filled in at the call.
    Per-example rows are not listed here; they are made at the call.
    """
    if not q_len or not kv_len:
        return ()
    parts: list[PlanPart] = []
    conjuncts = to_conjuncts(pattern)
    q = torch.arange(q_len, device="cpu") + q_offset
    for index, conjunct in enumerate(conjuncts):
        earlier = conjuncts[:index]
        if conjunct.batch:
            parts.append(_batch_columns(conjunct, earlier, q_len))
        elif conjunct.layout is not None:
            parts.extend(layout_parts(conjunct, earlier, q, kv_len))
        else:
            parts.append(_interval_part(conjunct, tuple(earlier), q_len, kv_len, q_offset))
    tokens = [token - q_offset for token in row_tokens(pattern, kv_len)]
    tokens = [row for row in tokens if 0 <= row < q_len]
    if tokens:
        lone = [atom for atom in alternatives(pattern) if isinstance(atom, Global) and atom.rows]
        known = {token - q_offset for atom in lone for token in atom.positions(kv_len)}
        whole = known.issuperset(tokens)
        parts.append(row_part(pattern, torch.tensor(tokens, device="cpu"), kv_len, q_offset, whole))
    return tuple(part for part in parts if part.runs)


@lru_cache(maxsize=64)
def _interval_part(
    conjunct: Conjunct, earlier: tuple[Conjunct, ...], q_len: int, kv_len: int, q_offset: int
) -> PlanPart:
    """Return the part of an interval: the same object for heads that differ in other conjuncts."""
    others = list(earlier)
    make = grid_part
    if conjunct.grid is None:
        for by_arithmetic in (window_part, column_part):
            part = by_arithmetic(conjunct, others, q_len, kv_len, q_offset)
            if part is not None:
                return part
        make = interval_part
    return make(conjunct, others, torch.arange(q_len, device="cpu") + q_offset, kv_len)


def _batch_columns(conjunct: Conjunct, earlier: list[Conjunct], q_len: int) -> PlanPart:
    """Return the part whose keys are each example's global tokens; its runs have 0 keys so far."""
    tiles, left = divmod(q_len, MAX_ROWS)
    whole = (
        TileRun(tiles, MAX_ROWS, 0, 0, 1, MAX_ROWS, 0, 1, 0),
        TileRun(1, left, 0, tiles * MAX_ROWS, 1, 0, 0, 1, 0),
    )
    runs = tuple(run for run in whole if run.tiles and run.rows)
    return PlanPart("batch columns", runs, dynamic=without(conjunct, earlier))
