"""The contents of pictures: why a pair is visible, and how far information flows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from sparse_patterns.spec import atoms
from sparse_patterns.spec.base import Complement, Full, Pattern, uses
from sparse_patterns.spec.grids import GridWindow
from sparse_patterns.spec.oracle import ExampleContext, visible
from sparse_patterns.spec.validation import check_example_type

KINDS = (
    "global row",
    "global column",
    "window",
    "grid window",
    "local block",
    "strided",
    "summary column",
    "random block",
    "block table",
    "rule",
    "same document",
    "all keys",
    "other",
)
"""Why a pair is visible. Where several hold, the first one is shown."""

_KIND_OF: dict[type[Pattern], str] = {
    atoms.Window: "window",
    GridWindow: "grid window",
    atoms.LocalBlock: "local block",
    atoms.Strided: "strided",
    atoms.Summary: "summary column",
    atoms.RandomBlocks: "random block",
    atoms.BlockTable: "block table",
    atoms.Rule: "rule",
    atoms.SameDocument: "same document",
    atoms.Causal: "all keys",
    Full: "all keys",
}


def example_context(
    pattern: Pattern,
    length: int,
    global_mask: Tensor | None = None,
    segment_ids: Tensor | None = None,
) -> tuple[ExampleContext, list[str]]:
    """Return what a picture of one example needs, and a note for everything that was made up.

    Args:
        pattern: The pattern.
        length: Tokens.
        global_mask: bool `(length,)`; a token at the start and one in the middle if None.
        segment_ids: Integers `(length,)`; three documents if None.

    Raises:
        TypeError: Something is no tensor, or one of another type.
        ValueError: A tensor has another shape.
    """
    for name, tensor in (("global_mask", global_mask), ("segment_ids", segment_ids)):
        if tensor is None:
            continue
        check_example_type(name, tensor)
        if tensor.shape != (length,):
            raise ValueError(
                f"{name} must have shape (length,) = ({length},), got {tuple(tensor.shape)}"
            )
    notes = []
    if uses(pattern, atoms.BatchGlobal) and global_mask is None:
        at = torch.arange(length, device="cpu")
        global_mask = (at == 0) | (at == length * 5 // 8)
        notes.append("global tokens are an example")
    if uses(pattern, atoms.SameDocument) and segment_ids is None:
        at = torch.arange(length, device="cpu")
        segment_ids = (at >= length * 3 // 8).long() + (at >= length * 6 // 8)
        notes.append("documents are an example")
    return ExampleContext(length, global_mask, segment_ids), notes


def seen_rows(
    pattern: Pattern, context: ExampleContext, start: int = 0, stop: int | None = None
) -> Tensor:
    """Return which keys the queries `start .. stop - 1` see, bool `(queries, length)`."""
    q, k = _positions(context, start, stop)
    return visible(pattern, q, k, context).expand(q.shape[0], k.shape[1])


def _positions(
    context: ExampleContext, start: int = 0, stop: int | None = None
) -> tuple[Tensor, Tensor]:
    k = torch.arange(context.kv_len, device="cpu")
    return k[start:stop, None], k[None]


def reasons(
    pattern: Pattern, context: ExampleContext, start: int = 0, stop: int | None = None
) -> Tensor:
    """Return why each pair of the queries `start .. stop - 1` is visible.

    Returns:
        An index into `KINDS`, or -1; `(queries, length)`.
    """
    seen = seen_rows(pattern, context, start, stop)
    why = torch.where(seen, KINDS.index("other"), -1)
    for kind in reversed(KINDS[:-1]):
        for atom in _named(pattern):
            for name, pairs in _by_kind(atom, context, start, stop):
                if name == kind:
                    why = torch.where(seen & pairs, KINDS.index(kind), why)
    return why


def _named(pattern: Pattern) -> list[Pattern]:
    """Return the atoms that make pairs visible; a complement only takes some away."""
    if isinstance(pattern, Complement):
        return []
    parts = pattern.children()
    return [atom for part in parts for atom in _named(part)] if parts else [pattern]


def _by_kind(
    atom: Pattern, context: ExampleContext, start: int, stop: int | None
) -> list[tuple[str, Tensor]]:
    """Return the pairs of an atom by kind; rows and columns of global tokens are two kinds."""
    if not isinstance(atom, atoms.Global | atoms.BatchGlobal):
        kinds = (kind for type_, kind in _KIND_OF.items() if isinstance(atom, type_))
        return [(next(kinds, "other"), seen_rows(atom, context, start, stop))]
    columns = seen_rows(replace(atom, rows=False), context, start, stop)
    # Every query sees the same columns, those of the global tokens.
    tokens = columns[0] if len(columns) else columns.new_zeros(context.kv_len)
    rows = (tokens & atom.rows)[start:stop, None].expand_as(columns)
    return [("global column", columns), ("global row", rows)]


def receptive_field(masks: Sequence[Tensor], position: int) -> Tensor:
    """Return which inputs reach a position after one layer, two, and so on.

    It is the row of `position` in the boolean products `M1`, `M2 M1`, ..., each layer with its
    residual.

    Args:
        masks: What the heads of each layer see together, bool `(length, length)`, from the first.
        position: The position.

    Returns:
        bool `(layers, length)`.
    """
    rows = []
    for depth in range(1, len(masks) + 1):
        reached = torch.zeros(masks[0].shape[0], dtype=torch.bool, device="cpu")
        reached[position] = True
        for mask in reversed(masks[:depth]):
            reached = reached | mask[reached].any(0)
        rows.append(reached)
    return torch.stack(rows)
