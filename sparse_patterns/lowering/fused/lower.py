"""One head's pattern in the form of fused operators: disjoint stripes, listed keys, whole rows.

Pure data, made in time and memory that do not grow with the length, but for lists of keys that do.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from sparse_patterns.lowering.fused.listed import MAX_LISTED, segment_bound
from sparse_patterns.lowering.fused.stripes import Stripe, disjoint, to_stripe
from sparse_patterns.lowering.normal_form import Conjunct, has_batch_rows, row_tokens, to_conjuncts
from sparse_patterns.spec.algebra import alternatives
from sparse_patterns.spec.atoms import BatchGlobal, Global, RandomBlocks
from sparse_patterns.spec.base import Full, Pattern, complement


@dataclass(frozen=True, eq=False)
class Column:
    """A stripe cut to a list of keys.

    Attributes:
        stripe: Distances, blocks and documents.
        tokens: int64 `(n,)`, the keys, sorted; None for the global tokens of each example.
    """

    stripe: Stripe
    tokens: Tensor | None


@dataclass(frozen=True, eq=False)
class Fused:
    """The lowering of one head's bound pattern.

    The stripes are disjoint; the columns may overlap each other and the stripes, whose pairs are
    taken out when the rows are cut (see `columns.list_columns`). The rows of global tokens are
    computed separately: what the rest finds there is dropped.

    Attributes:
        pattern: The bound pattern.
        stripes: Disjoint stripes.
        columns: Listed keys.
        row_tokens: Positions of global tokens; a part of its own computes their rows.
        whole_tokens: Those of them that see every key.
        batch_rows: Whether the rows of each example's global tokens are computed separately.
        whole_batch: Whether these see every key.
        reasons: Why fused operators cannot run the pattern; empty if they can.
    """

    pattern: Pattern
    stripes: tuple[Stripe, ...]
    columns: tuple[Column, ...]
    row_tokens: tuple[int, ...]
    whole_tokens: frozenset[int]
    batch_rows: bool
    whole_batch: bool
    reasons: tuple[str, ...]

    @property
    def documents(self) -> bool:
        """Whether some stripe or column is held to documents."""
        return any(s.documents for s in (*self.stripes, *(c.stripe for c in self.columns)))


def lower_fused(pattern: Pattern, q_len: int, kv_len: int) -> Fused:
    """Return the lowering of one head's bound pattern.

    Args:
        pattern: A bound pattern (see `binding.bind`).
        q_len: Number of queries.
        kv_len: Number of keys.
    """
    conjuncts = [
        conjunct for conjunct in to_conjuncts(pattern) if complement(Full()) not in conjunct.rest
    ]
    reasons = [reason for conjunct in conjuncts if (reason := _refusal(conjunct))]
    plain = [
        to_stripe(conjunct) for conjunct in conjuncts if not conjunct.columns and not conjunct.batch
    ]
    stripes = disjoint(plain) if not reasons else []
    if stripes is None:
        stripes = []
        reasons.append(
            "its windows overlap with steps, blocks or documents that do not nest, which leaves no "
            "window to a fused operator; kernel 'xformers_blocks' masks pair by pair"
        )
    columns = tuple(
        Column(to_stripe(conjunct), None if conjunct.batch else conjunct.key_list(kv_len))
        for conjunct in conjuncts
        if not reasons and (conjunct.columns or conjunct.batch)
    )
    listed = sum(0 if c.tokens is None else c.tokens.numel() for c in columns)
    segments = segment_bound([*stripes, *(c.stripe for c in columns)], listed, q_len)
    if listed * segments > MAX_LISTED:
        reasons.append(
            f"{listed} listed keys in up to {segments} segments of rows are too many to list "
            f"(at most {MAX_LISTED} pairs of them); kernel 'xformers_blocks' takes them as blocks"
        )
    lone = [one for one in alternatives(pattern) if isinstance(one, Global | BatchGlobal)]
    known = [one for one in lone if isinstance(one, Global) and one.rows]
    return Fused(
        pattern=pattern,
        stripes=tuple(stripes),
        columns=columns,
        row_tokens=row_tokens(pattern, kv_len),
        whole_tokens=frozenset(token for one in known for token in one.positions(kv_len)),
        batch_rows=has_batch_rows(pattern),
        whole_batch=any(isinstance(one, BatchGlobal) and one.rows for one in lone),
        reasons=tuple(dict.fromkeys(reasons)),
    )


def _refusal(conjunct: Conjunct) -> str | None:
    """Return why a conjunct cannot be run by fused operators."""
    if conjunct.layout is not None:
        kind = "RandomBlocks" if isinstance(conjunct.layout, RandomBlocks) else "BlockTable"
        return f"{kind} is a layout of blocks, which kernel 'xformers_blocks' runs"
    if conjunct.grid is not None:
        return (
            f"{conjunct.grid!r} shows a query several stretches of keys, and a fused operator "
            "takes one; kernel 'xformers_blocks' runs it as blocks"
        )
    if conjunct.rest:
        told = ", ".join(dict.fromkeys(map(repr, conjunct.rest)))
        return f"{told} is to be evaluated pair by pair, which no fused operator does"
    return None
