"""The oracle: the definition of every pattern, on index tensors, and the dense mask made of it.

Nothing here knows of tiles or plans; everything else is tested against this file.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import singledispatch

import torch
from torch import Tensor

from sparse_patterns.spec import arguments, atoms
from sparse_patterns.spec.base import Complement, Full, Intersection, Pattern, Union, uses
from sparse_patterns.spec.binding import BoundRandomBlocks, BoundRule, bind
from sparse_patterns.spec.fields import shown
from sparse_patterns.spec.grids import GridWindow
from sparse_patterns.spec.validation import check_example_tensor, check_lengths, check_pattern


@dataclass(frozen=True)
class ExampleContext:
    """What a bound pattern needs besides the two positions.

    Attributes:
        kv_len: Keys of the sequence.
        global_mask: bool `(kv_len,)` of one example, or None: no token is global.
        segment_ids: int `(kv_len,)` of one example, or None.
    """

    kv_len: int
    global_mask: Tensor | None = None
    segment_ids: Tensor | None = None


@singledispatch
def visible(pattern: Pattern, q: Tensor, k: Tensor, context: ExampleContext) -> Tensor:
    """Return whether query position `q` sees key position `k`.

    Args:
        pattern: A bound pattern (see `binding.bind`).
        q: int64 query positions; may be negative or beyond the keys.
        k: int64 key positions, in `0 .. kv_len - 1`; broadcasts against `q`.
        context: The rest.

    Returns:
        bool tensor that broadcasts to the shape of `q` against `k`.
    """
    raise TypeError(f"{pattern!r} has no definition; write your own as Rule(fn)")


@visible.register
def _(pattern: atoms.Window, q: Tensor, k: Tensor, context: ExampleContext) -> Tensor:
    distance = k - q
    dilation = pattern.dilation
    inside = (distance >= -pattern.left * dilation) & (distance <= pattern.right * dilation)
    return inside if dilation == 1 else inside & (distance % dilation == 0)


@visible.register
def _(pattern: GridWindow, q: Tensor, k: Tensor, context: ExampleContext) -> Tensor:
    return pattern.sees(q, k)


@visible.register
def _(pattern: atoms.Causal, q: Tensor, k: Tensor, context: ExampleContext) -> Tensor:
    return k <= q


@visible.register
def _(pattern: Full, q: Tensor, k: Tensor, context: ExampleContext) -> Tensor:
    return torch.ones((), dtype=torch.bool, device=q.device).expand(
        torch.broadcast_shapes(q.shape, k.shape)
    )


def _among(positions: Tensor, tokens: tuple[int, ...], length: int) -> Tensor:
    marks = torch.zeros(length + 1, dtype=torch.bool, device=positions.device)
    marks[list(tokens)] = True
    return _look_up(marks, positions, length)


def _look_up(marks: Tensor, positions: Tensor, length: int) -> Tensor:
    """Read `marks` at the positions; the last mark is the value outside of the sequence."""
    outside = (positions < 0) | (positions >= length)
    return marks[torch.where(outside, length, positions)]


@visible.register
def _(pattern: atoms.Global, q: Tensor, k: Tensor, context: ExampleContext) -> Tensor:
    tokens = pattern.positions(context.kv_len)
    columns = _among(k, tokens, context.kv_len)
    return columns | _among(q, tokens, context.kv_len) if pattern.rows else columns


@visible.register
def _(pattern: atoms.BatchGlobal, q: Tensor, k: Tensor, context: ExampleContext) -> Tensor:
    marks = torch.zeros(context.kv_len + 1, dtype=torch.bool, device=q.device)
    if context.global_mask is not None:
        marks[:-1] = context.global_mask
    columns = _look_up(marks, k, context.kv_len)
    return columns | _look_up(marks, q, context.kv_len) if pattern.rows else columns


@visible.register
def _(pattern: atoms.Strided, q: Tensor, k: Tensor, context: ExampleContext) -> Tensor:
    return (q - k) % pattern.stride == 0


@visible.register
def _(pattern: atoms.LocalBlock, q: Tensor, k: Tensor, context: ExampleContext) -> Tensor:
    return q // pattern.size == k // pattern.size


@visible.register
def _(pattern: atoms.Summary, q: Tensor, k: Tensor, context: ExampleContext) -> Tensor:
    return k % pattern.size >= pattern.size - pattern.columns


@visible.register
def _(pattern: BoundRandomBlocks, q: Tensor, k: Tensor, context: ExampleContext) -> Tensor:
    from sparse_patterns.spec.block_layouts import draw

    rows, row_of_query = torch.unique(q // pattern.block, return_inverse=True)
    columns = -(-context.kv_len // pattern.block)
    table = torch.zeros(rows.numel(), columns, dtype=torch.bool, device=q.device)
    table.scatter_(1, draw(pattern, rows, columns), True)
    return table[row_of_query, k // pattern.block]


@visible.register
def _(pattern: atoms.BlockTable, q: Tensor, k: Tensor, context: ExampleContext) -> Tensor:
    rows, columns = len(pattern.table), len(pattern.table[0]) if pattern.table else 0
    table = torch.zeros(rows + 1, columns + 1, dtype=torch.bool, device=q.device)
    if rows and columns:
        bits = [[bit == "1" for bit in row] for row in pattern.table]
        table[:-1, :-1] = torch.tensor(bits, device=q.device)
    row, column = q // pattern.block, k // pattern.block
    row = torch.where((row < 0) | (row >= rows), rows, row)
    return table[row, torch.where(column >= columns, columns, column)]


@visible.register
def _(pattern: atoms.SameDocument, q: Tensor, k: Tensor, context: ExampleContext) -> Tensor:
    if context.segment_ids is None:
        raise ValueError("segment_ids must be given to a pattern with SameDocument(), got None")
    inside = (q >= 0) & (q < context.kv_len)
    segments = context.segment_ids
    if not context.kv_len:
        return inside & (k < 0)
    return inside & (segments[q.clamp(0, context.kv_len - 1)] == segments[k])


@visible.register
def _(pattern: BoundRule, q: Tensor, k: Tensor, context: ExampleContext) -> Tensor:
    seen = pattern.fn(q, k, pattern.head)
    if not isinstance(seen, Tensor) or seen.dtype != torch.bool:
        got = f"{seen.dtype} tensor" if isinstance(seen, Tensor) else shown(seen)
        raise TypeError(f"rule {pattern.name!r} must return a bool tensor, got {got}")
    pairs = torch.broadcast_shapes(q.shape, k.shape)
    try:
        fits = torch.broadcast_shapes(seen.shape, pairs) == pairs
    except RuntimeError:
        fits = False
    if not fits:
        raise ValueError(
            f"rule {pattern.name!r} must return a tensor that broadcasts to the shape of q against "
            f"k, {tuple(pairs)}, got shape {tuple(seen.shape)}"
        )
    return seen


@visible.register
def _(pattern: Union, q: Tensor, k: Tensor, context: ExampleContext) -> Tensor:
    first, *rest = pattern.parts
    seen = visible(first, q, k, context)
    for part in rest:
        seen = seen | visible(part, q, k, context)
    return seen


@visible.register
def _(pattern: Intersection, q: Tensor, k: Tensor, context: ExampleContext) -> Tensor:
    first, *rest = pattern.parts
    seen = visible(first, q, k, context)
    for part in rest:
        seen = seen & visible(part, q, k, context)
    return seen


@visible.register
def _(pattern: Complement, q: Tensor, k: Tensor, context: ExampleContext) -> Tensor:
    return ~visible(pattern.part, q, k, context)


def dense_mask(
    pattern: Pattern,
    q_len: int,
    kv_len: int | None = None,
    *,
    heads: int,
    layer: int = 0,
    layers: int = 1,
    q_offset: int | None = None,
    key_mask: Tensor | None = None,
    global_mask: Tensor | None = None,
    segment_ids: Tensor | None = None,
    device: torch.device | str | None = None,
) -> Tensor:
    """Return every visible pair of a pattern, straight from the definitions.

    Args:
        pattern: Any pattern.
        q_len: Number of queries.
        kv_len: Number of keys; `q_len` by default.
        heads: Number of query heads.
        layer: Layer of a pattern that varies over layers.
        layers: Number of layers of the model.
        q_offset: Position of query row 0; `kv_len - q_len` by default.
        key_mask: bool `(batch, kv_len)`, True for a real token. A padded key is invisible and the
            row of a padded query is empty.
        global_mask: bool `(batch, kv_len)`, True for a global token, for `BatchGlobal()`.
        segment_ids: int `(batch, kv_len)`, for `SameDocument()`.
        device: Where the mask is made; that of the given tensors, else the CPU.

    Returns:
        bool `(heads, q_len, kv_len)`, or `(batch, heads, q_len, kv_len)` when a tensor of the batch
        is given or the pattern is one that takes some (batch 1 where none is given). Takes one byte
        a pair.

    Raises:
        ValueError: A number or a shape is not allowed; the message names it.
        TypeError: An argument has another type than stated.
    """
    check_pattern(pattern)
    q_len, kv_len, q_offset = check_lengths(q_len, kv_len, q_offset)
    if device is not None:
        device = arguments.device("device", device)
    given = {"key_mask": key_mask, "global_mask": global_mask, "segment_ids": segment_ids}
    batch = 1
    for name, tensor in given.items():
        if tensor is not None:
            check_example_tensor(name, tensor, pattern, kv_len)
            batch, device = tensor.shape[0], device or tensor.device
    if segment_ids is None and uses(pattern, atoms.SameDocument):
        raise ValueError("segment_ids must be given to a pattern with SameDocument(), got None")
    sizes = {name: tensor.shape[0] for name, tensor in given.items() if tensor is not None}
    if len(set(sizes.values())) > 1:
        raise ValueError(f"masks must have one batch size, got {sizes}")
    q = (torch.arange(q_len, device=device) + q_offset)[:, None]
    k = torch.arange(kv_len, device=device)[None, :]
    bound = bind(pattern, heads=heads, layer=layer, layers=layers)
    per_example = bool(sizes) or uses(pattern, atoms.BatchGlobal, atoms.SameDocument)
    out = torch.empty(batch, heads, q_len, kv_len, dtype=torch.bool, device=device)
    for example in range(batch):
        context = ExampleContext(
            kv_len,
            None if global_mask is None else global_mask[example],
            None if segment_ids is None else segment_ids[example],
        )
        for head, one in enumerate(bound):
            out[example, head] = visible(one, q, k, context)
    if key_mask is not None:
        out &= key_mask[:, None, None, :]
        padded = torch.zeros(batch, q_len, dtype=torch.bool, device=device)
        rows = slice(max(0, -q_offset), max(0, min(q_len, kv_len - q_offset)))
        padded[:, rows] = ~key_mask[:, max(0, q_offset) : max(0, q_offset) + _size(rows)]
        out &= ~padded[:, None, :, None]
    return out if per_example else out[0]


def _size(rows: slice) -> int:
    return max(0, rows.stop - rows.start)
