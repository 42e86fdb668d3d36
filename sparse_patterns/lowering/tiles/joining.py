"""Runs that follow on each other, put together to longer ones."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

from sparse_patterns.lowering.tiles.runs import TileRun
from sparse_patterns.lowering.tiles.tiles import longest_run


def join_runs(runs: Iterable[TileRun]) -> tuple[TileRun, ...]:
    """Return the same tiles as fewer runs, sorted by where they start.

    Only runs of one mask, the same object, are put together.
    """
    groups: dict[tuple[int, int, int], list[TileRun]] = {}
    for run in runs:
        groups.setdefault((run.rows, run.keys, id(run.mask)), []).append(run)
    joined = []
    for group in groups.values():
        by_row = _joined(group, lambda run: (run.q_start, run.k_start))
        if len(by_row) > 2:
            by_row = min(by_row, _joined(group, lambda run: (run.k_start, run.q_start)), key=len)
        joined.extend(by_row)
    return tuple(sorted(joined, key=lambda run: (run.q_start, run.k_start)))


def _joined(runs: list[TileRun], order: Callable[[TileRun], Any]) -> list[TileRun]:
    """Put together each run and those after it, as far as their distances stay the same."""
    done: list[TileRun] = []
    for run in sorted(runs, key=order):
        if done:
            longer = _join(done[-1], run)
            if longer is not None:
                done[-1] = longer
                continue
        done.append(run)
    return done


def _join(one: TileRun, other: TileRun) -> TileRun | None:
    """Return two runs as one, None where they are not."""
    tiles = one.tiles + other.tiles
    far = (other.q_start - one.q_start, other.k_start - one.k_start)
    if one.tiles > 1:
        apart = (one.q_tile, one.k_tile)
    elif other.tiles > 1:
        apart = (other.q_tile, other.k_tile)
    else:
        apart = far
    if other.tiles > 1 and apart != (other.q_tile, other.k_tile):
        return None
    if far != (one.tiles * apart[0], one.tiles * apart[1]) or apart[0] <= 0 or apart[1] < 0:
        return None
    if tiles > longest_run(apart[1], one.q_step, tiles):
        return None
    return replace(one, tiles=tiles, q_tile=apart[0], k_tile=apart[1])
