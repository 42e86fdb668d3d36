"""Runs cut to lower tiles, without columns that none of their rows sees."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial

from torch import Tensor

from sparse_patterns.lowering.tiles.known_masks import LARGEST_KNOWN, known
from sparse_patterns.lowering.tiles.runs import TileRun

LANES, NARROW = 8, 256
"""Numbers that the processor takes at once: where a tile of few columns has some left, they cost
more than as many as it takes."""


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
        cut = known(run.mask, ("cut", row, rows), partial(_cut, run.mask, row, rows))
        if cut is None:
            continue
        first, last, mask = cut
        yield replace(
            run,
            rows=rows,
            keys=last + 1 - first,
            q_start=run.q_start + row * run.q_step,
            k_start=run.k_start + first * run.k_step,
            mask=mask,
        )


def _cut(mask: Tensor, row: int, rows: int) -> tuple[int, int, Tensor | None] | None:
    """Return the first and the last column that some rows of a mask need, and their mask there.

    Returns:
        None where they see nothing. The mask is None where they see everything.
    """
    some = mask if mask.shape[1] == 1 else mask[:, row : row + rows]
    columns = some.flatten(0, 1).any(0).nonzero().flatten()
    if not columns.numel():
        return None
    first, last = int(columns[0]), int(columns[-1])
    if last - first < NARROW:
        last = min(mask.shape[2] - 1, first + -(-(last + 1 - first) // LANES) * LANES - 1)
    some = some[..., first : last + 1]
    if bool(some.all()):
        return first, last, None
    # A view would keep the mask, and with it what is known of it, for good.
    return first, last, some.clone() if mask.numel() <= LARGEST_KNOWN else some
