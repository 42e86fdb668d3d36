"""Strips: runs cut to what torch's fused attention for the CPU takes well, and cuts little away.

The operator computes every pair of a tile. So tall tiles whose rows see different keys are cut into
lower ones, and columns that no row sees are dropped.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from sparse_patterns.kernels.tiles.listed import Box
from sparse_patterns.lowering.tiles.cutting import cut_rows
from sparse_patterns.lowering.tiles.known_masks import known
from sparse_patterns.lowering.tiles.runs import PlanPart, TileRun

CALL_PAIRS = 1 << 14
"""Pairs that the operator computes in the time that one more call costs."""

HEIGHTS = (128, 64, 32)
"""Rows that a taller tile may be cut to; the operator takes 32 at a time of up to 191."""


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
    return Strips(tuple(_strip(run, dtype) for run in runs), _each_row_once(runs, q_len))


def _each_row_once(runs: list[TileRun], q_len: int) -> bool:
    """Return whether every row is in exactly one tile."""
    if sum(run.tiles * run.rows for run in runs) != q_len:
        return False
    stop = 0
    for run in sorted(runs, key=lambda one: one.q_start):
        if run.q_step != 1 or (run.tiles > 1 and run.q_tile != run.rows):
            rows = torch.cat([one.query_rows().flatten() for one in runs])
            return rows.unique().numel() == q_len
        if run.q_start != stop:
            return False
        stop += run.tiles * run.rows
    return True


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


def _strip(run: TileRun, dtype: torch.dtype) -> Strip:
    if run.mask is None:
        return Strip(run, None, None)
    return Strip(run, *known(run.mask, ("bias", dtype), partial(_bias, run.mask, dtype)))


def _bias(mask: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor | None]:
    """Return a mask as what is added to scores, and which rows see nothing, None for no row."""
    bias = torch.zeros(mask.shape, dtype=dtype, device="cpu")
    bias.masked_fill_(~mask, -torch.inf)
    empty = ~mask.any(-1)
    return bias, empty if bool(empty.any()) else None
