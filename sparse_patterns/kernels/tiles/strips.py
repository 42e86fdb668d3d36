"""Strips: runs cut to what torch's fused attention for the CPU takes well, and cuts little away.

The operator computes every pair of a tile. So tall tiles whose rows see different keys are cut into
lower ones, and columns that no row sees are dropped.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from sparse_patterns.kernels.tiles.listed import Box
from sparse_patterns.lowering.tiles.runs import PlanPart, TileRun

CALL_PAIRS = 1 << 14
"""Pairs that the operator computes in the time that one more call costs."""

HEIGHTS = (128, 64, 32)
"""Rows that a taller tile may be cut to; the operator takes 32 at a time of up to 191."""

LANES, NARROW = 8, 256
"""Numbers that the processor takes at once: where a tile of few columns has some left, they cost
more than as many as it takes."""


@dataclass(frozen=True, eq=False)
class Strip:
    """Some rows of every tile of a run.

    Attributes:
        run: The rows and the keys that any of them sees.
        bias: 0 where visible, else -inf, `(1 or tiles, 1 or rows, keys)`; None where all is.
        empty: bool `(1 or tiles, 1 or rows)`, rows that see nothing; None where there are none.
        place: Where the rows of the tiles are, of a list of rows; None where it is to be gathered.
    """

    run: TileRun
    bias: Tensor | None
    empty: Tensor | None
    place: Box | None = None

    def tiles(self, first: int, stop: int) -> Strip:
        """Return some of its tiles."""
        if (first, stop) == (0, self.run.tiles):
            return self
        bias, empty = (
            x if x is None or x.shape[0] == 1 else x[first:stop] for x in (self.bias, self.empty)
        )
        run = replace(
            self.run,
            tiles=stop - first,
            q_start=self.run.q_start + first * self.run.q_tile,
            k_start=self.run.k_start + first * self.run.k_tile,
            mask=None,
        )
        place = None if self.place is None else self.place.of_tiles(first, stop)
        return Strip(run, bias, empty, place)


@dataclass(frozen=True, eq=False)
class Strips:
    """The strips of a part.

    Attributes:
        strips: In the order of the runs.
        whole: Whether every row is in exactly one tile of one strip.
    """

    strips: tuple[Strip, ...]
    whole: bool


_made: WeakKeyDictionary[PlanPart, dict[tuple[int, torch.dtype], Strips]] = WeakKeyDictionary()


def strips_of(part: PlanPart, heads: int, q_len: int, dtype: torch.dtype) -> Strips:
    """Return the strips of a part: the same object for equal arguments.

    Args:
        part: The part.
        heads: Heads that one call of the operator computes, about.
        q_len: Number of queries.
        dtype: Type of the masks.
    """
    of_part = _made.setdefault(part, {})
    # Between powers of two the best height is about the same.
    key = (max(1, heads).bit_length(), dtype)
    if key not in of_part:
        of_part[key] = _make(part, 1 << (key[0] - 1), q_len, dtype)
    return of_part[key]


def _make(part: PlanPart, heads: int, q_len: int, dtype: torch.dtype) -> Strips:
    runs = [cut for run in part.runs if run.keys for cut in _best(run, heads)]
    rows = [run.query_rows().flatten() for run in runs]
    count = torch.bincount(torch.cat(rows), minlength=q_len) if rows else torch.zeros(q_len)
    return Strips(tuple(_strip(run, dtype) for run in runs), bool((count == 1).all()))


def _best(run: TileRun, heads: int) -> list[TileRun]:
    """Cut a run to the height at which its pairs and its calls cost least together."""
    choices = [list(cut_rows(run, run.rows))]
    if run.mask is not None and run.mask.shape[1] > 1:
        choices += [_joined(run, height) for height in HEIGHTS if height < run.rows]
    return min(
        choices, key=lambda runs: heads * sum(one.pairs for one in runs) + CALL_PAIRS * len(runs)
    )


def _joined(run: TileRun, height: int) -> list[TileRun]:
    """Cut a run to lower tiles, which are one run again where they are equal."""
    parts = list(cut_rows(run, height))
    count = len(parts)
    if count < 2:
        return parts
    one = parts[0]
    if one.mask is None or one.mask.shape[0] > 1:
        return parts
    q_tile, k_tile = parts[1].q_start - one.q_start, parts[1].k_start - one.k_start
    for number, other in enumerate(parts[1:], 1):
        if (
            (other.rows, other.keys) != (one.rows, one.keys)
            or other.q_start != one.q_start + number * q_tile
            or other.k_start != one.k_start + number * k_tile
            or other.mask is None
            or not torch.equal(other.mask, one.mask)
        ):
            return parts
    if run.tiles > 1 and (count * q_tile, count * k_tile) != (run.q_tile, run.k_tile):
        return parts
    return [replace(one, tiles=run.tiles * count, q_tile=q_tile, k_tile=k_tile)]


def cut_rows(run: TileRun, height: int) -> Iterator[TileRun]:
    """Yield runs of some rows of every tile, without columns that none of them sees.

    Args:
        run: The run.
        height: The most rows of a tile.
    """
    if run.mask is None:
        yield run
        return
    for row in range(0, run.rows, height):
        rows = min(height, run.rows - row)
        mask = run.mask if run.mask.shape[1] == 1 else run.mask[:, row : row + rows]
        columns = mask.flatten(0, 1).any(0).nonzero().flatten()
        if not columns.numel():
            continue
        first, last = int(columns[0]), int(columns[-1])
        if last - first < NARROW:
            last = min(run.keys - 1, first + -(-(last + 1 - first) // LANES) * LANES - 1)
        mask = mask[..., first : last + 1]
        yield replace(
            run,
            rows=rows,
            keys=last + 1 - first,
            q_start=run.q_start + row * run.q_step,
            k_start=run.k_start + first * run.k_step,
            mask=None if bool(mask.all()) else mask,
        )


def _strip(run: TileRun, dtype: torch.dtype) -> Strip:
    if run.mask is None:
        return Strip(run, None, None)
    bias = torch.zeros(run.mask.shape, dtype=dtype, device="cpu")
    bias.masked_fill_(~run.mask, -torch.inf)
    empty = ~run.mask.any(-1)
    return Strip(run, bias, empty if bool(empty.any()) else None)
