"""Which rows of a batch begin where: drawn anew for each batch, or one after the other."""

from __future__ import annotations

from math import ceil

import torch

from datamodules.loading.shards import Shard, generator

__all__ = ["batches_that_cover", "batches_that_hold", "places_in_order", "random_places"]


def batches_that_hold(tokens: int, tokens_of_batch: int) -> int:
    """Return the batches that hold as many tokens as a split, at least one."""
    return max(1, tokens // tokens_of_batch)


def random_places(places: int, rows: int, shard: Shard, *key: int | str) -> list[int]:
    """Return where the rows of one process begin, drawn from `places` for all rows of the batch.

    Args:
        places: How many places there are, at least one.
        rows: Rows of the batch over all processes.
        shard: The process.
        *key: What the draw is a function of.
    """
    drawn = torch.randint(places, (rows,), generator=generator(*key)).tolist()
    return [drawn[row] for row in shard.rows(rows)]


def batches_that_cover(windows: int, rows: int) -> int:
    """Return the batches of `rows` rows that have each window once; the last may have fewer."""
    return ceil(windows / rows)


def places_in_order(number: int, windows: int, rows: int, shard: Shard) -> list[int]:
    """Return the windows of batch `number` that one process takes.

    Args:
        number: The batch, counted from 0.
        windows: Number of all windows; this number itself is an empty row, which keeps the parts
            of the processes equal.
        rows: Rows of a batch over all processes.
        shard: The process.
    """
    first = number * rows
    total = min(rows, windows - first)
    return [first + row if row < total else windows for row in shard.rows(total)]
