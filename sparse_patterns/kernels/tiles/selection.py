"""What one example adds to a plan: its global tokens, padded keys and documents."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from itertools import accumulate

import torch
from torch import Tensor

from sparse_patterns.kernels.base import Call
from sparse_patterns.kernels.examples import Examples
from sparse_patterns.kernels.tiles.listed import gathered, lists_of
from sparse_patterns.lowering.plan import Group
from sparse_patterns.lowering.tiles.rows import row_part
from sparse_patterns.lowering.tiles.runs import PlanPart, TileRun
from sparse_patterns.spec.algebra import alternatives
from sparse_patterns.spec.atoms import BatchGlobal
from sparse_patterns.spec.base import Pattern
from sparse_patterns.spec.oracle import ExampleContext, visible


@dataclass
class Selection:
    """The parts of a group for one example, and the masks that hold for it.

    Attributes:
        parts: Disjoint parts over all query rows.
        row_parts: Parts that compute the rows of global tokens.
        overwritten: int64, the rows that the row parts compute: what the other parts find there is
            dropped.
        padded: int64, the rows of padded queries.
        q_offset: Position of query row 0.
        context: The tensors of the example, for patterns evaluated at the call.
        key_mask: bool `(kv_len,)` or None where no key is padded.
        documents: Documents of the keys, int64 `(kv_len,)` counted from 0, or None.
    """

    parts: list[PlanPart]
    row_parts: list[PlanPart]
    overwritten: Tensor
    padded: Tensor
    q_offset: int
    context: ExampleContext
    key_mask: Tensor | None
    documents: Tensor | None
    _real: dict[int, tuple[Tensor, list[int]]] = field(default_factory=dict)
    _changes: list[int] = field(default_factory=list)

    def factors(
        self, shape: torch.Size, part: PlanPart, run: TileRun, tile: int, row: int
    ) -> Iterator[Tensor]:
        """Yield factors of 1 and 0 for the pairs that the example's tensors hide.

        Args:
            shape: `(C, T, L)`: `C` tiles from `tile` on and `T` of their rows from `row` on.
            part: The part.
            run: The run.
            tile: First tile.
            row: First row in each tile.

        Yields:
            Floating-point tensors that broadcast to `shape`, none where nothing is hidden.
        """
        tiles, rows, keys = shape
        start = run.k_start + tile * run.k_tile
        stop = start + (tiles - 1) * run.k_tile + (keys - 1) * run.k_step + 1
        if self.key_mask is not None:
            real, hidden = self._real_keys(part)
            if hidden[stop] > hidden[start]:
                yield real.as_strided((tiles, 1, keys), (run.k_tile, 0, run.k_step), start)
        if not part.documents and part.dynamic is None:
            return
        device = self.padded.device
        tile_index = torch.arange(tile, tile + tiles, device=device)
        q = run.q_start + tile_index[:, None] * run.q_tile
        q = q + (row + torch.arange(rows, device=device)) * run.q_step
        q = self.q_offset + (q if part.queries is None else part.queries.to(q.device)[q])
        k = run.k_start + tile_index[:, None] * run.k_tile
        k = k + torch.arange(keys, device=device) * run.k_step
        k = k if part.keys is None else part.keys.to(k.device)[k]
        if part.dynamic is not None:
            yield visible(part.dynamic, q[:, :, None], k[:, None, :], self.context).float()
        elif self._one_document(q, k) is False:
            assert self.documents is not None
            length = self.context.kv_len
            own = torch.where((q < 0) | (q >= length), -1, self.documents[q.clamp(0, length - 1)])
            yield (own[:, :, None] == self.documents[k][:, None, :]).float()

    def _real_keys(self, part: PlanPart) -> tuple[Tensor, list[int]]:
        """Return 1 or 0 for each key a part indexes, and how many are hidden before each."""
        if id(part) not in self._real:
            assert self.key_mask is not None
            real = gathered(self.key_mask[None], lists_of(part)[1])[0]
            self._real[id(part)] = (real.float(), [0, *accumulate((~real).int().tolist())])
        return self._real[id(part)]

    def _one_document(self, q: Tensor, k: Tensor) -> bool:
        """Return whether all positions lie in one unbroken stretch of one document."""
        assert self.documents is not None
        if not self._changes:
            changed = (self.documents[1:] != self.documents[:-1]).int().tolist()
            self._changes = [0, *accumulate(changed)]
        low, high = min(int(q.min()), int(k.min())), max(int(q.max()), int(k.max()))
        if low < 0 or high >= self.context.kv_len:
            return False
        return self._changes[low] == self._changes[high]


def select(call: Call, group: Group, example: int) -> Selection:
    """Return a group's parts for one example, with everything filled in that the call brings."""
    examples = call.examples
    return examples.keep(("tiles", group.forms, example), lambda: _select(examples, group, example))


def _select(examples: Examples, group: Group, example: int) -> Selection:
    context, positions = examples.context(example), examples.positions
    marks = context.global_mask
    parts, row_parts = [], []
    for part in group.parts:
        if part.name == "batch columns":
            tokens = None if marks is None else marks.nonzero().flatten()
            if tokens is not None and tokens.numel():
                runs = tuple(replace(run, keys=tokens.numel()) for run in part.runs)
                parts.append(_settle(replace(part, keys=tokens, runs=runs), positions, context))
        elif part.whole_rows:
            row_parts.append(_settle(part, positions, context))
        else:
            parts.append(part)
    fixed = [token - examples.q_offset for token in group.row_tokens]
    fixed = [row for row in fixed if 0 <= row < examples.q_len]
    overwritten = torch.tensor(fixed, dtype=torch.int64, device=examples.device)
    own = group.batch_rows and examples.global_mask is not None
    every = examples.global_rows(group) if own else None
    if every is not None:
        marked = every[example].clone()
        marked[overwritten] = False
        rows = marked.nonzero().flatten()
        if rows.numel():
            whole = any(
                isinstance(atom, BatchGlobal) and atom.rows for atom in alternatives(group.pattern)
            )
            shape = (examples.kv_len, examples.q_offset)
            part = row_part(group.pattern, rows.cpu(), *shape, whole, evaluate=False)
            row_parts.append(_settle(part, positions, context))
            overwritten = torch.cat([overwritten, rows]).sort().values
    padded = examples.padded_rows
    return Selection(
        parts,
        row_parts,
        overwritten,
        overwritten.new_zeros(0) if padded is None else padded[example].nonzero().flatten(),
        examples.q_offset,
        context,
        None if examples.key_mask is None else examples.key_mask[example],
        context.segment_ids,
    )


def _settle(part: PlanPart, positions: Tensor, context: ExampleContext) -> PlanPart:
    """Evaluate a part's dynamic pattern once, as masks of its runs."""
    if part.dynamic is None:
        return part
    runs = tuple(_masked(part, run, part.dynamic, positions, context) for run in part.runs)
    return replace(part, runs=runs, dynamic=None)


def _masked(
    part: PlanPart, run: TileRun, pattern: Pattern, positions: Tensor, context: ExampleContext
) -> TileRun:
    rows, keys = run.query_rows().to(positions.device), run.key_indices().to(positions.device)
    rows = rows if part.queries is None else part.queries.to(rows.device)[rows]
    keys = keys if part.keys is None else part.keys[keys]
    seen = visible(pattern, positions[rows][:, :, None], keys[:, None, :], context)
    return replace(run, mask=None if bool(seen.all()) else seen)
