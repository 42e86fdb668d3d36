"""Colours and frames that all panels of a picture share."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLOURS = {
    "global row": "#d1495b",
    "global column": "#edae49",
    "window": "#30638e",
    "grid window": "#5f4bb6",
    "local block": "#3d9a8b",
    "strided": "#cc79b8",
    "summary column": "#8a5a9e",
    "random block": "#7aa95c",
    "block table": "#6c757d",
    "rule": "#b07d62",
    "same document": "#93b7be",
    "all keys": "#8fb3cf",
    "other": "#4a4e69",
}
"""Colour of each reason; distinct also for readers with red-green colour blindness."""

HIDDEN = "#eff1f3"
INK = "#2b2d33"
FAINT = "#767b85"

LARGEST_GRID = 96
"""Cells a side up to which lines separate them."""


def draw_frame(axes: Axes, width: int, height: int) -> None:
    """Separate the cells where they are large enough, and number a few of them."""
    for spine in axes.spines.values():
        spine.set_visible(False)
    last = width - 1
    step = next((n for n in (1, 2, 4, 8, 16, 32, 64, 128, 256, 512) if last <= 4 * n), 1024)
    for axis, size in ((axes.xaxis, width), (axes.yaxis, height)):
        axis.set_ticks([n for n in range(0, size, step)])
        if size <= LARGEST_GRID:
            axis.set_ticks([n - 0.5 for n in range(1, size)], minor=True)
    axes.tick_params(which="both", length=0, labelsize=6.5, labelcolor=FAINT, pad=2)
    if max(width, height) <= LARGEST_GRID:
        axes.grid(which="minor", color="white", linewidth=0.5)
