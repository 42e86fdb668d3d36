"""Normal form of a bound pattern: a union of conjuncts, each an intersection of literals.

A conjunct whose literals speak of the distance, of blocks or of fixed keys has *bounds*: each query
sees an interval of a sorted list of keys. Whatever else a conjunct says is kept as its `rest`, to
be evaluated exactly inside the tiles that the bounds leave.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from sparse_patterns.spec.atoms import (
    BatchGlobal,
    BlockTable,
    Causal,
    Global,
    LocalBlock,
    SameDocument,
    Strided,
    Summary,
    Window,
)
from sparse_patterns.spec.base import (
    Complement,
    Full,
    Intersection,
    Pattern,
    Union,
    complement,
    intersection,
    union,
    uses,
)
from sparse_patterns.spec.binding import BoundRandomBlocks
from sparse_patterns.spec.grids import GridWindow

MAX_CONJUNCTS = 16
"""A pattern with more conjuncts is lowered as one that is evaluated pair by pair."""

UNLIMITED = 1 << 40
"""A distance beyond any sequence."""


@dataclass(frozen=True)
class Conjunct:
    """An intersection of literals, sorted by what can be done with them.

    Attributes:
        pattern: The conjunct itself; rows of global tokens are left out (see `row_tokens`).
        static: The conjunct without `SameDocument`.
        left: Largest distance back, in tokens.
        right: Largest distance forward, in tokens; negative where keys must lie before the query.
        dilation: Distances are multiples of it.
        blocks: Sizes of `LocalBlock`s.
        columns: Atoms that fix the keys: `Summary`, `Global` without rows.
        layout: The one atom that gives a table of blocks, if any.
        grid: The one window over a grid that is lowered as such, if any: it takes no columns, no
            layout and no batch.
        batch: Whether the keys are the global tokens of each example.
        documents: Whether pairs must share a document.
        rest: Literals to be evaluated pair by pair.
    """

    pattern: Pattern
    static: Pattern
    left: int
    right: int
    dilation: int
    blocks: tuple[int, ...]
    columns: tuple[Pattern, ...]
    layout: Pattern | None
    grid: GridWindow | None
    batch: bool
    documents: bool
    rest: tuple[Pattern, ...]

    @property
    def dynamic(self) -> bool:
        """Whether the rest depends on tensors given at call time."""
        return any(uses(part, BatchGlobal, SameDocument) for part in self.rest)

    @property
    def limited(self) -> bool:
        """Whether distances, a dilation or blocks leave each query some of the keys only."""
        return min(self.left, self.right) < UNLIMITED or self.dilation > 1 or bool(self.blocks)

    @property
    def plain(self) -> bool:
        """Whether the conjunct is an interval of distances and nothing else."""
        special = self.blocks or self.columns or self.layout or self.grid or self.batch or self.rest
        return self.dilation == 1 and not special

    def contains(self, other: Conjunct) -> bool:
        """Return whether every pair of `other` is one of this conjunct; False when not obvious."""
        return (
            self.plain
            and self.documents <= other.documents
            and self.left >= other.left
            and self.right >= other.right
        )

    def bounds(self, q: Tensor, kv_len: int) -> tuple[Tensor, Tensor]:
        """Return the first and last key that each query may see, by distance and blocks alone.

        Of a window over a grid, by its largest distance: between them are keys that it hides.

        Args:
            q: int64 query positions.
            kv_len: Number of keys.

        Returns:
            Two int64 tensors of the shape of `q`; the first is above the second where nothing is
            seen.
        """
        low, high = q - self.left, q + self.right
        for size in self.blocks:
            start = q // size * size
            low, high = torch.maximum(low, start), torch.minimum(high, start + size - 1)
        if self.grid is not None:
            low, high = low.clamp(min=self.grid.prefix), high.clamp(max=self.grid.stop - 1)
        return low.clamp(min=0), high.clamp(max=kv_len - 1)

    def key_list(self, kv_len: int) -> Tensor | None:
        """Return the sorted keys that the columns leave, or None for all of them."""
        if not self.columns:
            return None
        fixed = [set(atom.positions(kv_len)) for atom in self.columns if isinstance(atom, Global)]
        if len(fixed) == len(self.columns):
            both = sorted(set.intersection(*fixed))
            return torch.tensor(both, dtype=torch.int64, device="cpu")
        seen = torch.ones(kv_len, dtype=torch.bool, device="cpu")
        for atom in self.columns:
            if isinstance(atom, Summary):
                seen &= torch.arange(kv_len, device="cpu") % atom.size >= atom.size - atom.columns
            else:
                assert isinstance(atom, Global)
                marks = torch.zeros(kv_len, dtype=torch.bool, device="cpu")
                marks[list(atom.positions(kv_len))] = True
                seen &= marks
        return seen.nonzero().flatten()


def row_tokens(pattern: Pattern, kv_len: int) -> tuple[int, ...]:
    """Return the fixed tokens whose rows a bound pattern names as global, sorted."""
    tokens: set[int] = set()
    for atom in _positive(pattern):
        if isinstance(atom, Global) and atom.rows:
            tokens.update(atom.positions(kv_len))
    return tuple(sorted(tokens))


def has_batch_rows(pattern: Pattern) -> bool:
    """Return whether the rows of each example's global tokens are named as global."""
    return any(isinstance(atom, BatchGlobal) and atom.rows for atom in _positive(pattern))


def _positive(pattern: Pattern, sign: bool = True) -> list[Pattern]:
    """Return the atoms that stand under an even number of complements."""
    if isinstance(pattern, Complement):
        return _positive(pattern.part, not sign)
    children = pattern.children()
    if children:
        return [atom for child in children for atom in _positive(child, sign)]
    return [pattern] if sign else []


def to_conjuncts(pattern: Pattern) -> list[Conjunct]:
    """Return the conjuncts of a bound pattern, sorted.

    Those known before the call come first, and among them the wider ones.

    The rows of global tokens are not part of any conjunct, since they are computed separately: a
    row-global atom counts as its columns.
    """
    literals = _conjuncts(pattern, positive=True)
    if literals is None:
        conjuncts = [_sort_literals((pattern,), opaque=True)]
    else:
        conjuncts = [_sort_literals(conjunct) for conjunct in dict.fromkeys(literals)]
    conjuncts.sort(key=_order)
    kept: list[Conjunct] = []
    for conjunct in conjuncts:
        if not any(other.contains(conjunct) for other in kept if not conjunct.batch):
            kept.append(conjunct)
    return kept


def _order(conjunct: Conjunct) -> tuple[bool | float, ...]:
    """Sort key: each conjunct loses the pairs of earlier ones, so regular ones come first."""
    width = (conjunct.left + conjunct.right) / conjunct.dilation
    irregular = (conjunct.layout is not None, bool(conjunct.columns), bool(conjunct.rest))
    regular = (conjunct.grid is not None, conjunct.dilation > 1)
    return (
        conjunct.batch,
        conjunct.dynamic,
        conjunct.documents,
        *irregular,
        *regular,
        -width,
    )


def _conjuncts(pattern: Pattern, positive: bool) -> list[tuple[Pattern, ...]] | None:
    """Distribute intersections over unions, with complements pushed down to the atoms."""
    if isinstance(pattern, Complement):
        return _conjuncts(pattern.part, not positive)
    if not isinstance(pattern, Union | Intersection):
        return [(pattern if positive else complement(pattern),)]
    parts = [_conjuncts(part, positive) for part in pattern.parts]
    if any(part is None for part in parts):
        return None
    lists = [part for part in parts if part is not None]
    if isinstance(pattern, Union) == positive:
        out = [conjunct for part in lists for conjunct in part]
    else:
        out = [()]
        for part in lists:
            out = [tuple(dict.fromkeys(a + b)) for a in out for b in part]
            if len(out) > MAX_CONJUNCTS:
                return None
    return out if len(out) <= MAX_CONJUNCTS else None


def _sort_literals(literals: tuple[Pattern, ...], opaque: bool = False) -> Conjunct:
    left = right = UNLIMITED
    dilation, documents, batch = 1, False, False
    blocks: list[int] = []
    columns: list[Pattern] = []
    rest: list[Pattern] = []
    layout: Pattern | None = None
    grid: GridWindow | None = None
    kept: list[Pattern] = []
    for atom in literals:
        if isinstance(atom, Global) and atom.rows:
            atom = Global(atom.tokens, rows=False)
        elif isinstance(atom, BatchGlobal) and atom.rows:
            atom = BatchGlobal(rows=False)
        kept.append(atom)
        if opaque:
            rest.append(atom)
        elif isinstance(atom, Window):
            left = min(left, atom.left * atom.dilation)
            right = min(right, atom.right * atom.dilation)
            dilation = math.lcm(dilation, atom.dilation)
        elif isinstance(atom, GridWindow):
            left, right = min(left, atom.reach), min(right, atom.reach)
            if grid is None:
                grid = atom
            else:
                rest.append(atom)
        elif isinstance(atom, Causal):
            right = min(right, 0)
        elif atom == Complement(Causal()):
            left = min(left, -1)
        elif isinstance(atom, Strided):
            dilation = math.lcm(dilation, atom.stride)
        elif isinstance(atom, LocalBlock):
            blocks.append(atom.size)
        elif isinstance(atom, Summary | Global):
            columns.append(atom)
        elif isinstance(atom, SameDocument):
            documents = True
        elif isinstance(atom, BatchGlobal) and not batch:
            batch = True
        elif isinstance(atom, BoundRandomBlocks | BlockTable) and layout is None:
            layout = atom
        elif not isinstance(atom, Full):
            rest.append(atom)
    if batch and (layout is not None or columns):
        # The keys are known at the call only: what fixes them before is evaluated pair by pair.
        rest += [*columns, *([] if layout is None else [layout])]
        columns, layout = [], None
    if grid is not None and (batch or layout is not None or columns):
        rest.append(grid)
        grid = None
    return Conjunct(
        pattern=intersection(*kept),
        static=intersection(Full(), *(a for a in kept if not isinstance(a, SameDocument))),
        left=left,
        right=right,
        dilation=dilation,
        blocks=tuple(blocks),
        columns=tuple(columns),
        layout=layout,
        grid=grid,
        batch=batch,
        documents=documents,
        rest=tuple(rest),
    )


def without(conjunct: Conjunct, earlier: list[Conjunct]) -> Pattern:
    """Return the pairs of a conjunct that no earlier conjunct names.

    For a conjunct known before the call, documents are left out: the earlier conjuncts are then
    known too, and one that is held to documents comes only before others that are.
    """
    kind = "pattern" if conjunct.dynamic or conjunct.batch else "static"
    own = getattr(conjunct, kind)
    return own & ~union(*(getattr(other, kind) for other in earlier)) if earlier else own
