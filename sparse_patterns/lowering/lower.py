"""The way from one head's bound pattern to its parts, term by term."""

from __future__ import annotations

import torch

from sparse_patterns.lowering.intervals import interval_part
from sparse_patterns.lowering.layouts import layout_parts
from sparse_patterns.lowering.rows import alternatives, row_part
from sparse_patterns.lowering.tiles import MAX_ROWS
from sparse_patterns.patterns import Global, Pattern
from sparse_patterns.runs import Part, Run
from sparse_patterns.terms import Term, row_tokens, to_terms, without


def lower(pattern: Pattern, q_len: int, kv_len: int, q_offset: int) -> tuple[Part, ...]:
    """Return the parts of one head's bound pattern for one shape.

    The rows of global tokens known before the call are a part of their own, last, with `queries`
    set; the other parts may compute these rows too, and what they find is to be dropped.
    Per-example global columns are a part with `dynamic` set whose keys are filled in at the call.
    Per-example rows are not listed here; they are made at the call.
    """
    if not q_len or not kv_len:
        return ()
    parts: list[Part] = []
    terms = to_terms(pattern)
    q = torch.arange(q_len) + q_offset
    for index, term in enumerate(terms):
        earlier = terms[:index]
        if term.batch:
            parts.append(_batch_columns(term, earlier, q_len))
        elif term.layout is not None:
            parts.extend(layout_parts(term, earlier, q, kv_len))
        else:
            parts.append(interval_part(term, earlier, q, kv_len))
    tokens = [token - q_offset for token in row_tokens(pattern, kv_len)]
    tokens = [row for row in tokens if 0 <= row < q_len]
    if tokens:
        lone = [atom for atom in alternatives(pattern) if isinstance(atom, Global) and atom.rows]
        known = {token - q_offset for atom in lone for token in atom.positions(kv_len)}
        whole = known.issuperset(tokens)
        parts.append(row_part(pattern, torch.tensor(tokens), kv_len, q_offset, whole))
    return tuple(part for part in parts if part.runs)


def _batch_columns(term: Term, earlier: list[Term], q_len: int) -> Part:
    """Return the part whose keys are each example's global tokens; its runs have 0 keys so far."""
    tiles, left = divmod(q_len, MAX_ROWS)
    whole = (
        Run(tiles, MAX_ROWS, 0, 0, 1, MAX_ROWS, 0, 1, 0),
        Run(1, left, 0, tiles * MAX_ROWS, 1, 0, 0, 1, 0),
    )
    runs = tuple(run for run in whole if run.tiles and run.rows)
    return Part("batch columns", runs, dynamic=without(term, earlier))
