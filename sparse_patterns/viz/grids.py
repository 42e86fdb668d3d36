"""What one query sees on a grid of tokens: the picture that a window over a grid is made for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn.functional import pad

from sparse_patterns.spec.base import Pattern
from sparse_patterns.spec.grids import GridWindow
from sparse_patterns.spec.oracle import ExampleContext
from sparse_patterns.viz.panels import make_panels
from sparse_patterns.viz.reasons import KINDS, reasons
from sparse_patterns.viz.style import COLOURS, FAINT, HIDDEN, INK, draw_frame

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MOST_PANELS = 6
"""Panels of grids in one picture."""

OUTSIDE, QUERY = -2, -3
"""What a cell shows besides a reason: no place of the grid, and the query itself."""


@dataclass(frozen=True)
class GridPanel:
    """One query on a grid.

    Attributes:
        name: What the panel shows.
        cells: int64 `(rows, columns)`: the index of a reason, -1 where the query does not see, or
            one of `OUTSIDE` and `QUERY`. The planes of a volume stand beside each other.
        layers: Layers that see this.
        heads: Heads that see this.
        seen: Tokens that the query sees, also those that are not on the grid.
    """

    name: str
    cells: Tensor
    layers: tuple[int, ...]
    heads: tuple[int, ...]
    seen: int

    @property
    def reasons(self) -> set[int]:
        """The reasons that the cells show, as indices into `KINDS`."""
        return {cell for cell in self.cells.unique().tolist() if cell >= 0}


def grid_panels(bound: Sequence[Sequence[Pattern]]) -> list[GridPanel]:
    """Return what the query in the middle of each grid sees, at full size.

    Args:
        bound: The pattern of each head, for each layer.
    """
    found: list[GridPanel] = []
    for panel in make_panels(bound):
        grids = [part for part in panel.pattern.walk() if isinstance(part, GridWindow)]
        for grid in {(one.shape, one.prefix): one for one in grids}.values():
            if len(found) < MOST_PANELS:
                found.append(_panel(panel.pattern, grid, panel.layers, panel.heads))
    return found


def _panel(
    pattern: Pattern, grid: GridWindow, layers: tuple[int, ...], heads: tuple[int, ...]
) -> GridPanel:
    middle = tuple(side // 2 for side in grid.shape)
    query = grid.prefix + sum(at * stride for at, stride in zip(middle, grid.strides, strict=True))
    length = grid.stop
    marks = torch.zeros(length, dtype=torch.bool, device="cpu")
    documents = torch.zeros(length, dtype=torch.int64, device="cpu")
    why = reasons(pattern, ExampleContext(length, marks, documents), query, query + 1)[0]
    seen = int((why >= 0).sum())
    why[query] = QUERY
    cells = why[grid.prefix :].view(-1, *_last_two(grid.shape))
    # A column of nothing between the planes.
    cells = pad(cells, (0, 1), value=OUTSIDE).transpose(0, 1).flatten(1)[:, :-1]
    sides = " x ".join(map(str, grid.shape))
    name = f"query at {middle if len(middle) > 1 else middle[0]} of {sides}"
    return GridPanel(name, cells, layers, heads, seen)


def _last_two(shape: tuple[int, ...]) -> tuple[int, int]:
    """Return rows and columns of a plane; a line is a plane of one row."""
    return (shape[-2] if len(shape) > 1 else 1, shape[-1])


def draw_grid(axes: Axes, panel: GridPanel, where: str) -> None:
    """Draw what one query sees on its grid.

    Args:
        axes: Where to draw.
        panel: What to draw.
        where: Layers and heads, "" for all of them.
    """
    from matplotlib.colors import ListedColormap

    colours = ["white", HIDDEN, *(COLOURS[kind] for kind in KINDS), INK]
    values = panel.cells.masked_fill(panel.cells == QUERY, len(KINDS))
    axes.imshow(
        values.numpy(),
        cmap=ListedColormap(colours),
        vmin=OUTSIDE,
        vmax=len(KINDS),
        interpolation="nearest",
    )
    draw_frame(axes, values.shape[1], values.shape[0])
    if bool((values == OUTSIDE).any()):
        # Columns of several planes have no common numbers.
        axes.set_xticks([])
    axes.set_title(
        "\n".join(filter(None, (where, panel.name))), loc="left", fontsize=7.5, color=INK
    )
    axes.set_xlabel(f"sees {panel.seen:,} tokens", fontsize=7, color=FAINT, labelpad=1)
