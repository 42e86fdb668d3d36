"""The plan: what a kernel has to compute for a pattern and a shape, as frozen data."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from threading import Lock

import torch
from torch import Tensor

from sparse_patterns.lowering.normal_form import has_batch_rows, row_tokens
from sparse_patterns.lowering.tiles.lower import lower
from sparse_patterns.lowering.tiles.runs import PlanPart, TileRun
from sparse_patterns.spec.base import Pattern
from sparse_patterns.spec.binding import bind
from sparse_patterns.spec.oracle import ExampleContext, visible
from sparse_patterns.spec.validation import check_lengths, check_pattern

CACHE_SIZE = 128
"""Plans kept; the one not used for longest goes first."""

LISTED_AT_ONCE = 1 << 19
"""Rows and keys listed at once while a plan is measured."""


@dataclass(frozen=True, eq=False)
class Group:
    """Heads that see the same pairs.

    Attributes:
        heads: Indices of the query heads.
        pattern: Their bound pattern.
        parts: Disjoint parts that together are the pattern.
        row_tokens: Tokens whose rows are computed apart (see `lowering.lower`), as positions.
        batch_rows: Whether the rows of each example's global tokens are computed apart.
        visible: Visible pairs of one head. Tensors of the batch are not known to the plan:
            documents count as one, and per-example global tokens as none.
        receptive_field: How far back and how far forward a query sees, in tokens.
    """

    heads: tuple[int, ...]
    pattern: Pattern
    parts: tuple[PlanPart, ...]
    row_tokens: tuple[int, ...]
    batch_rows: bool
    visible: int
    receptive_field: tuple[int, int]

    @property
    def order(self) -> tuple[int, ...]:
        """Dilation of the token order of each part.

        Part `p` takes tokens by residue modulo `order[p]`.
        """
        return tuple(part.step for part in self.parts)

    @property
    def computed(self) -> int:
        """Pairs that the tiles compute, visible or not."""
        return sum(part.pairs for part in self.parts)


@dataclass(frozen=True, eq=False)
class Plan:
    """What a kernel has to compute for one layer.

    Attributes:
        pattern: The pattern the plan was made of.
        q_len: Number of queries.
        kv_len: Number of keys.
        q_offset: Position of query row 0.
        heads: Number of query heads.
        head_dim: Size of a head.
        groups: Heads that see the same pairs, with their parts.
    """

    pattern: Pattern
    q_len: int
    kv_len: int
    q_offset: int
    heads: int
    head_dim: int
    groups: tuple[Group, ...]

    @cached_property
    def visible(self) -> int:
        """Visible (query, key) pairs over all heads of one example, as far as the plan knows."""
        return sum(len(group.heads) * group.visible for group in self.groups)

    @cached_property
    def computed(self) -> int:
        """Pairs that the tiles compute over all heads of one example, visible or not."""
        return sum(len(group.heads) * group.computed for group in self.groups)

    @property
    def density(self) -> float:
        """Share of all pairs that is visible, 0 where there is no pair."""
        pairs = self.heads * self.q_len * self.kv_len
        return self.visible / pairs if pairs else 0.0

    @property
    def flops(self) -> int:
        """Floating-point operations of one example's forward pass on visible pairs.

        A pair takes part in two products.
        """
        return 4 * self.head_dim * self.visible

    @property
    def backward_flops(self) -> int:
        """Floating-point operations of the backward pass of one example on visible pairs.

        A pair takes part in five products, one of which the forward pass computed before.
        """
        return 10 * self.head_dim * self.visible

    def bytes(self, element_size: int = 4) -> int:
        """Bytes read and written by one example's forward pass.

        Every tile reads its queries, keys and values, and writes its output.

        Args:
            element_size: Bytes of an element.
        """
        elements = 0
        for group in self.groups:
            for part in group.parts:
                moved = sum(run.tiles * 2 * (run.rows + run.keys) for run in part.runs)
                elements += len(group.heads) * moved * self.head_dim
        return elements * element_size

    @property
    def tiles(self) -> int:
        """Number of tiles over all heads of one example."""
        return sum(
            len(group.heads) * run.tiles
            for group in self.groups
            for part in group.parts
            for run in part.runs
        )

    @property
    def receptive_field(self) -> tuple[int, int]:
        """The receptive field of the layer: how far back and forward some head sees, in tokens."""
        reaches = [group.receptive_field for group in self.groups]
        return max(back for back, _ in reaches), max(forward for _, forward in reaches)

    def __repr__(self) -> str:
        return (
            f"Plan({self.pattern!r}, q_len={self.q_len}, kv_len={self.kv_len}, "
            f"q_offset={self.q_offset}, heads={self.heads} in {len(self.groups)} groups, "
            f"tiles={self.tiles}, density={self.density:.4g}, flops={self.flops:.3g}, "
            f"receptive_field={self.receptive_field})"
        )


_cache: OrderedDict[tuple[object, ...], Plan] = OrderedDict()
_lock = Lock()


def plan(
    pattern: Pattern,
    q_len: int,
    kv_len: int | None = None,
    *,
    heads: int,
    head_dim: int = 64,
    layer: int = 0,
    layers: int = 1,
    q_offset: int | None = None,
) -> Plan:
    """Return the plan of a pattern for a shape, from the cache where it was made before.

    Time and memory grow with the visible blocks; pairs of a `Rule` are evaluated one by one
    wherever the rest of the pattern leaves some.

    Args:
        pattern: Any pattern.
        q_len: Number of queries.
        kv_len: Number of keys; `q_len` by default.
        heads: Number of query heads.
        head_dim: Size of a head, for FLOPs and bytes.
        layer: Layer of a pattern that varies over layers.
        layers: Number of layers of the model.
        q_offset: Position of query row 0; `kv_len - q_len` by default.

    Raises:
        TypeError: `pattern` is not a pattern.
        ValueError: A number is not allowed, or the pattern does not fit the heads or layers.
    """
    check_pattern(pattern)
    q_len, kv_len, q_offset = check_lengths(q_len, kv_len, q_offset)
    if head_dim < 1:
        raise ValueError(f"head_dim must be >= 1, got {head_dim}")
    key = (pattern, q_len, kv_len, q_offset, heads, head_dim, layer, layers)
    with _lock:
        if key in _cache:
            _cache.move_to_end(key)
            return _cache[key]
    made = _make(pattern, q_len, kv_len, q_offset, heads, head_dim, layer, layers)
    with _lock:
        _cache[key] = made
        while len(_cache) > CACHE_SIZE:
            _cache.popitem(last=False)
    return made


def _make(
    pattern: Pattern,
    q_len: int,
    kv_len: int,
    q_offset: int,
    heads: int,
    head_dim: int,
    layer: int,
    layers: int,
) -> Plan:
    members: dict[Pattern, list[int]] = {}
    for head, one in enumerate(bind(pattern, heads=heads, layer=layer, layers=layers)):
        members.setdefault(one, []).append(head)
    groups = []
    with torch.no_grad():
        for bound, of_group in members.items():
            parts = lower(bound, q_len, kv_len, q_offset)
            tokens = row_tokens(bound, kv_len)
            seen, receptive_field = _measure(parts, q_len, kv_len, q_offset)
            groups.append(
                Group(
                    tuple(of_group),
                    bound,
                    parts,
                    tokens,
                    has_batch_rows(bound),
                    seen,
                    receptive_field,
                )
            )
    return Plan(pattern, q_len, kv_len, q_offset, heads, head_dim, tuple(groups))


def _measure(
    parts: tuple[PlanPart, ...], q_len: int, kv_len: int, q_offset: int
) -> tuple[int, tuple[int, int]]:
    """Return the visible pairs and the receptive field of one head, each pair counted once."""
    counts = torch.zeros(q_len, dtype=torch.int64)
    back = torch.zeros(q_len, dtype=torch.int64)
    forward = torch.zeros(q_len, dtype=torch.int64)
    for part in parts:
        if part.queries is not None:
            for values in (counts, back, forward):
                values[part.queries] = 0
        for run in _short(part):
            rows = run.query_rows()
            rows = rows if part.queries is None else part.queries[rows]
            keys = run.key_indices()
            keys = keys if part.keys is None else part.keys[keys]
            mask = run.mask
            if part.dynamic is not None:
                q, k = rows[:, :, None] + q_offset, keys[:, None, :]
                seen = visible(part.dynamic, q, k, _one_document(kv_len))
                mask = seen.expand(run.tiles, run.rows, run.keys)
                mask = mask if run.mask is None else mask & run.mask
            first, last, number = _row_extent(mask, keys)
            position = (rows + q_offset).flatten()
            rows = rows.flatten()
            number = number.expand(run.tiles, run.rows).flatten()
            seen = number > 0
            counts.index_add_(0, rows, number)
            for values, distance in (
                (back, position - first.expand(run.tiles, run.rows).flatten()),
                (forward, last.expand(run.tiles, run.rows).flatten() - position),
            ):
                far = torch.where(seen, distance, 0)
                values[rows] = torch.maximum(values[rows], far)
    receptive_field = (int(back.max()), int(forward.max())) if q_len else (0, 0)
    return int(counts.sum()), receptive_field


def _one_document(kv_len: int) -> ExampleContext:
    """Return a batch's tensors where none are known: one document, no global token."""
    return ExampleContext(kv_len, None, torch.zeros(kv_len, dtype=torch.int64))


def _short(part: PlanPart) -> Iterator[TileRun]:
    """Yield runs that have keys, none with so many that listing them takes much memory."""
    for run in part.runs:
        if run.keys:
            listed = run.rows + run.keys if part.dynamic is None else run.rows * run.keys
            yield from run.split(max(1, LISTED_AT_ONCE // listed))


def _row_extent(mask: Tensor | None, keys: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the first key, the last key and the number of keys that each row sees.

    Each is int64 `(tiles or 1, rows or 1)`, to be broadcast to all tiles and rows.
    """
    if mask is None:
        number = torch.tensor([[keys.shape[1]]])
        return keys.amin(1, keepdim=True), keys.amax(1, keepdim=True), number
    keys = keys[:, None, :]
    if mask.shape[0] == 1 and keys.shape[0] > 1:
        # Equal tiles: the first and last column seen are the same in each.
        columns = torch.arange(mask.shape[2])
        first = torch.where(mask[0], columns, mask.shape[2] - 1).amin(1)
        last = torch.where(mask[0], columns, 0).amax(1)
        ordered = bool((keys[..., 1:] >= keys[..., :-1]).all())
        if ordered:
            return keys[:, 0, :][:, first], keys[:, 0, :][:, last], mask.sum(2)
    far = 1 << 50
    first = torch.where(mask, keys, far).amin(2)
    last = torch.where(mask, keys, -far).amax(2)
    return first, last, mask.sum(2)
