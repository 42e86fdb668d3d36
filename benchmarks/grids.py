"""Windows over grids: images as 64 x 64 tokens, volumes as 16 x 32 x 32; 12 heads of size 64."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from math import prod

import sparse_patterns as sp
from benchmarks.baselines import BASELINES
from benchmarks.comparisons import timed, times_faster
from benchmarks.contenders import DIRECTIONS, ours
from benchmarks.core import visible_pairs
from benchmarks.suites import Case, Options
from benchmarks.table import Goal, Row

WINDOW_GOAL = Goal("<=", 2.0)
DENSE_GOAL = Goal(">=", 3.0)


@dataclass(frozen=True)
class Grid:
    """A pattern over a grid, and the window in one dimension that shows as many keys."""

    pattern: sp.Pattern
    length: int
    window: sp.Window
    goal: Goal | None = None


def window_over(shape: tuple[int, ...], radius: tuple[int, ...], goal: Goal | None = None) -> Grid:
    """The window over a grid, beside one in one dimension with as many keys."""
    side = prod(2 * steps + 1 for steps in radius) // 2
    return Grid(sp.GridWindow(shape, radius), prod(shape), sp.Window(side, side), goal)


GRIDS = {
    "image": window_over((64, 64), (7, 7), WINDOW_GOAL),
    "axial": Grid(sp.get("axial", shape=(64, 64), class_token=False), 4096, sp.Window(63, 63)),
    "volume": window_over((16, 32, 32), (2, 3, 3)),
}


def over_window(name: str, options: Options) -> Iterator[Row]:
    """Time per visible pair over that of a window in one dimension."""
    grid = GRIDS[name]
    pairs = visible_pairs(grid.window, grid.length) / visible_pairs(grid.pattern, grid.length)
    for direction in DIRECTIONS:
        runs = [ours(one, grid.length).run(direction) for one in (grid.pattern, grid.window)]
        yield timed(
            name,
            "time per visible pair / window",
            grid.length,
            direction,
            (runs[0], runs[1]),
            lambda mine, plain: pairs * mine / plain,
            grid.goal,
            options,
        )


def over_dense(options: Options) -> Iterator[Row]:
    """How many times faster a window over an image is than torch's attention to all of it."""
    grid = GRIDS["image"]
    dense = BASELINES["dense"](grid.length)
    for direction in DIRECTIONS:
        yield timed(
            "image-dense",
            "times faster",
            grid.length,
            direction,
            (ours(grid.pattern, grid.length).run(direction), dense.run(direction)),
            times_faster,
            DENSE_GOAL if direction == "forward+backward" else None,
            options,
        )


CASES = [
    *[
        Case(name, f"time per visible pair of {grid.pattern!r}", partial(over_window, name))
        for name, grid in GRIDS.items()
    ],
    Case("image-dense", "times faster than torch's dense attention", over_dense),
]
