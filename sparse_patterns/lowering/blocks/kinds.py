"""What makes two blocks of pairs alike under a pattern: the same signature, the same mask.

A signature says of a block what an atom can tell about it: the distance for a window, the remainder
for a stride, the marks inside it for fixed keys. Two blocks with equal signatures have equal masks;
equal masks may have different signatures, which costs one more evaluation and nothing else.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import singledispatch

import torch
from torch import Tensor

from sparse_patterns.spec import atoms
from sparse_patterns.spec.base import Full, Pattern
from sparse_patterns.spec.binding import BoundRandomBlocks
from sparse_patterns.spec.block_layouts import draw
from sparse_patterns.spec.grids import GridWindow
from sparse_patterns.spec.oracle import ExampleContext

MAX_PACKED = 62
"""Bits of a signature that fit one number."""

MAX_CELLS = 64
"""Cells of a layout around a block up to which they are compared; beyond, each block is a kind."""


@dataclass(frozen=True, eq=False)
class Places:
    """Where the blocks lie.

    Attributes:
        row: int64 `(blocks,)`, query block of each.
        column: int64 `(blocks,)`, key block of each.
        block: Queries, and keys, of a block.
        q_len: Number of queries.
        q_offset: Position of query row 0.
        context: Length and tensors of the example.
        key_mask: bool `(kv_len,)`, false for padded keys, or None.
    """

    row: Tensor
    column: Tensor
    block: int
    q_len: int
    q_offset: int
    context: ExampleContext
    key_mask: Tensor | None

    @property
    def q_first(self) -> Tensor:
        """Position of the first query of each block."""
        return self.row * self.block + self.q_offset

    @property
    def k_first(self) -> Tensor:
        """First key of each block."""
        return self.column * self.block

    def each(self) -> Tensor:
        """Return a number that no two blocks share."""
        return self.row * -(-self.context.kv_len // self.block) + self.column

    def key_marks(self, marks: Tensor) -> Tensor:
        """Return a number for what is marked among the keys of each block."""
        missing = -marks.numel() % self.block
        marks = torch.nn.functional.pad(marks, (0, missing)).view(-1, self.block)
        return torch.unique(marks, dim=0, return_inverse=True)[1][self.column]

    def query_values(self, values: Tensor, outside: int) -> Tensor:
        """Return what the tokens of each query block have, `(query blocks, block)`.

        Args:
            values: int64 or bool `(kv_len,)`, one for each token.
            outside: What positions outside the sequence have.
        """
        q = torch.arange(0, self.q_len, self.block, device="cpu")[:, None] + torch.arange(
            self.block, device="cpu"
        )
        q = q + self.q_offset
        inside = (q >= 0) & (q < values.numel())
        if not values.numel():
            return torch.full(q.shape, outside, device="cpu")
        return torch.where(inside, values[q.clamp(0, values.numel() - 1)].long(), outside)

    def query_marks(self, marks: Tensor) -> Tensor:
        """Return a number for what is marked among the queries of each block."""
        rows = self.query_values(marks, 0)
        return torch.unique(rows, dim=0, return_inverse=True)[1][self.row]


def kinds_of(pattern: Pattern, places: Places) -> tuple[Tensor, Tensor]:
    """Number the kinds of blocks.

    Returns:
        The kind of each block, int64 `(blocks,)`, and of each kind the index of one of its blocks.
    """
    kv_len, block = places.context.kv_len, places.block
    numbers = [
        # Blocks that stick out past the queries or the keys are not like those inside.
        (places.row + 1) * block > places.q_len,
        (places.column + 1) * block > kv_len,
    ]
    if places.key_mask is not None:
        numbers.append(places.key_marks(places.key_mask))
    if not places.row.numel():
        return places.row, places.row
    for atom in dict.fromkeys(part for part in pattern.walk() if not part.children()):
        numbers.extend(signature(atom, places))
    kind = _combine(numbers, places.row.numel())
    example = torch.zeros(int(kind.max()) + 1, dtype=torch.int64, device="cpu")
    example[kind] = torch.arange(kind.numel(), device="cpu")
    return kind, example


def _combine(numbers: Iterable[Tensor], count: int) -> Tensor:
    """Number the distinct rows of a table given by its columns."""
    joined, size = torch.zeros(count, dtype=torch.int64, device="cpu"), 1
    for number in numbers:
        number = number.long()
        least, most = (int(end) for end in number.aminmax())
        if most - least >= 1 << 30:
            number = torch.unique(number, return_inverse=True)[1]
            least, most = 0, int(number.max())
        if size * (most - least + 1) >= 1 << MAX_PACKED:
            joined = torch.unique(joined, return_inverse=True)[1]
            size = int(joined.max()) + 1
        joined = joined * (most - least + 1) + (number - least)
        size *= most - least + 1
    return torch.unique(joined, return_inverse=True)[1]


@singledispatch
def signature(atom: Pattern, places: Places) -> list[Tensor]:
    """Return the numbers, each `(blocks,)`, that decide the mask of a block under an atom.

    An atom that is not known here makes every block its own kind.
    """
    return [places.each()]


@signature.register
def _(atom: Full, places: Places) -> list[Tensor]:
    return []


@signature.register
def _(atom: atoms.Window, places: Places) -> list[Tensor]:
    left, right, block = atom.left * atom.dilation, atom.right * atom.dilation, places.block
    # Bounds on the distance of query and key in a block: beyond the window, nothing is seen.
    shift = (places.k_first - places.q_first).clamp(-left - block, right + block)
    if atom.dilation == 1:
        inside = (shift - block + 1 >= -left) & (shift + block - 1 <= right)
        shift = shift.masked_fill(inside, right + block + 1)
    return [shift]


@signature.register
def _(atom: GridWindow, places: Places) -> list[Tensor]:
    # Where both blocks start within a row or plane of the grid, and how many of these are between;
    # a block that sticks out of the grid is like those that do so at the same place.
    row, last, far = atom.strides[0], places.block - 1, atom.size + 1
    q, k = places.q_first - atom.prefix, places.k_first - atom.prefix
    apart = torch.div(k, row, rounding_mode="floor") - torch.div(q, row, rounding_mode="floor")
    reach = atom.radius[0] * atom.dilation[0] + places.block + 1
    cut = [
        torch.where((at < 0) | (at + last >= atom.size), at.clamp(-places.block, atom.size), far)
        for at in (q, k)
    ]
    return [apart.clamp(-reach, reach), q % row, k % row, *cut]


@signature.register
def _(atom: atoms.Causal, places: Places) -> list[Tensor]:
    return [(places.k_first - places.q_first).clamp(-places.block, places.block)]


@signature.register
def _(atom: atoms.Global, places: Places) -> list[Tensor]:
    marks = torch.zeros(places.context.kv_len, dtype=torch.bool, device="cpu")
    marks[list(atom.positions(places.context.kv_len))] = True
    return _marks(marks, atom.rows, places)


@signature.register
def _(atom: atoms.BatchGlobal, places: Places) -> list[Tensor]:
    marks = places.context.global_mask
    return [] if marks is None else _marks(marks, atom.rows, places)


def _marks(marks: Tensor, rows: bool, places: Places) -> list[Tensor]:
    columns = places.key_marks(marks)
    return [columns, places.query_marks(marks)] if rows else [columns]


@signature.register
def _(atom: atoms.Strided, places: Places) -> list[Tensor]:
    return [(places.q_first - places.k_first) % atom.stride]


@signature.register
def _(atom: atoms.Summary, places: Places) -> list[Tensor]:
    return [places.k_first % atom.size]


@signature.register
def _(atom: atoms.LocalBlock, places: Places) -> list[Tensor]:
    return _offsets(atom.size, places)


def _offsets(size: int, places: Places) -> list[Tensor]:
    """Return where blocks lie against a grid of another size, if they cross its lines."""
    q, k, last = places.q_first, places.k_first, places.block - 1
    blocks_between = (k // size - q // size).clamp(-last // size - 2, last // size + 2)
    inside = (q // size == (q + last) // size) & (k // size == (k + last) // size)
    return [
        torch.where(inside, blocks_between != 0, blocks_between + size),
        torch.where(inside, -1, q % size),
        torch.where(inside, -1, k % size),
    ]


@signature.register
def _(atom: BoundRandomBlocks, places: Places) -> list[Tensor]:
    columns = -(-places.context.kv_len // atom.block)
    rows, index = torch.unique(places.q_first // atom.block, return_inverse=True)
    height = (places.block - 1) // atom.block + 2
    if height**2 > MAX_CELLS:
        return [places.each()]
    near = rows[:, None] + torch.arange(height, device="cpu")
    chosen = draw(atom, near.flatten(), columns).view(rows.numel(), height, -1)
    return _table(atom.block, chosen, index, places)


@signature.register
def _(atom: atoms.BlockTable, places: Places) -> list[Tensor]:
    # The layout is explicit, so a row of it costs no more than it does in the pattern itself.
    rows, index = torch.unique(places.q_first // atom.block, return_inverse=True)
    height = (places.block - 1) // atom.block + 2
    if height**2 > MAX_CELLS:
        return [places.each()]
    near = rows[:, None] + torch.arange(height, device="cpu")
    listed = [[at for at, bit in enumerate(row) if bit == "1"] for row in atom.table]
    most = max(map(len, listed), default=0)
    table = torch.full((len(listed) + 1, most), -1, device="cpu")
    for number, row in enumerate(listed):
        table[number, : len(row)] = torch.tensor(row, dtype=torch.int64, device="cpu")
    near = torch.where((near < 0) | (near >= len(listed)), len(listed), near)
    return _table(atom.block, table[near], index, places)


def _table(size: int, chosen: Tensor, index: Tensor, places: Places) -> list[Tensor]:
    """Return which cells of a layout are set around each block, as packed bits.

    Args:
        size: Block of the layout.
        chosen: int64 `(distinct rows, height, n)`, the columns set in the layout rows from each
            distinct one on.
        index: int64 `(blocks,)`, the distinct row of each block.
        places: The blocks.
    """
    width = (places.block - 1) // size + 2
    first = places.k_first // size
    bits = []
    for down in range(chosen.shape[1]):
        row = chosen[index, down]
        for right in range(width):
            bits.append((row == (first + right)[:, None]).any(1))
    packed = [places.q_first % size, places.k_first % size]
    for start in range(0, len(bits), MAX_PACKED):
        some = bits[start : start + MAX_PACKED]
        packed.append(
            sum((bit.long() << at for at, bit in enumerate(some)), torch.zeros_like(first))
        )
    return packed


@signature.register
def _(atom: atoms.SameDocument, places: Places) -> list[Tensor]:
    segments = places.context.segment_ids
    if segments is None or not segments.numel():
        return []
    _, document = torch.unique(segments, return_inverse=True)
    own = places.query_values(document, -1)
    missing = -document.numel() % places.block
    keys = torch.nn.functional.pad(document, (0, missing), value=-2).view(-1, places.block)
    # Where both sides are of one document each, only whether it is the same one matters.
    one = (own == own[:, :1]).all(1)[places.row] & (keys == keys[:, :1]).all(1)[places.column]
    same = (own[:, 0][places.row] == keys[:, 0][places.column]).long()
    return [torch.where(one, same, 2 + places.each())]
