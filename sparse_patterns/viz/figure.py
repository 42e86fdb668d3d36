"""Pictures of patterns for papers and notebooks: what attends to what, and how far it reaches.

Needs matplotlib (the extra `plot`), which is imported when a picture is drawn. Figures are made
without pyplot: no window opens, and no global state is left behind.
"""

from __future__ import annotations

import os
import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from sparse_patterns.spec.arguments import text
from sparse_patterns.spec.base import Pattern
from sparse_patterns.spec.oracle import ExampleContext
from sparse_patterns.spec.validation import check_pattern
from sparse_patterns.viz.grids import GridPanel, draw_grid, grid_panels
from sparse_patterns.viz.panels import (
    Panel,
    Sketch,
    bind_all,
    brief,
    make_panels,
    make_sketch,
    spans,
)
from sparse_patterns.viz.reasons import KINDS, example_context, reasons, receptive_field, seen_rows
from sparse_patterns.viz.style import COLOURS, FAINT, HIDDEN, INK, LARGEST_GRID, draw_frame

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LENGTH = 48
MOST_COLUMNS = 6


def draw(
    pattern: Pattern,
    length: int | None = None,
    *,
    heads: int | None = None,
    layers: int | None = None,
    scale: float | Literal["auto"] | None = None,
    global_mask: Tensor | None = None,
    segment_ids: Tensor | None = None,
    title: str | None = None,
    path: str | os.PathLike[str] | None = None,
) -> Figure:
    """Draw which keys each query sees, and the receptive field by layer.

    One panel for each set of heads and layers that share a pattern: a row for each query, a column
    for each key, coloured by why the pair is visible. The last panel shows which inputs reach one
    position (the last of a causal pattern, else the middle one) after each layer, through all
    heads. A pattern with a `GridWindow` has a panel for each grid, too: what the query in its
    middle (in black) sees there, at full size; the planes of a volume stand side by side.

    Args:
        pattern: Any pattern.
        length: Tokens of the picture, 48 by default.
        heads: Number of heads; by default the least that shows every part of the pattern.
        layers: Number of layers; by default at least 4 and as many as show every part.
        scale: Factor of windows, blocks and positions (not of dilation); 1 draws them as they are,
            "auto" takes the power of 1/2 that fits the pattern into the picture. By default 1 where
            a length is given, else "auto". A factor other than 1 is named in the notes.
        global_mask: bool `(length,)`, for `BatchGlobal()`; by default two tokens as an example.
        segment_ids: Integers `(length,)`, for `SameDocument()`; by default three documents.
        title: Title of the figure; the pattern by default.
        path: Where to save the figure; the suffix chooses the format (`.png`, `.svg`, `.pdf`).

    Returns:
        A matplotlib `Figure`, which notebooks show and `figure.savefig` saves.

    Raises:
        ImportError: matplotlib is not installed.
        TypeError: `pattern` is not a pattern.
        ValueError: A number is not allowed, or the pattern does not fit the heads or layers.
    """
    check_pattern(pattern)
    if title is not None:
        text("title", title)
    if path is not None and not isinstance(path, str | os.PathLike):
        raise TypeError(f"path must be a path or a string, got {path!r}")
    if scale is None:
        scale = "auto" if length is None else 1
    sketch = make_sketch(pattern, LENGTH if length is None else length, heads, layers, scale)
    context, made_up = example_context(pattern, sketch.length, global_mask, segment_ids)
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError(
            "sp.draw needs matplotlib: pip install 'sparse-patterns[plot]'"
        ) from error

    all_panels = make_panels(sketch.bound)
    if any(panel.varies for panel in all_panels):
        made_up.append("what differs by head or layer is drawn for the first")
    rows = _arrange(all_panels)
    columns = max(map(len, rows))
    on_grids = grid_panels(bind_all(pattern, heads, layers))
    alone = len(rows) == columns == 1 and not on_grids
    size = 2.9 if alone else 2.5 if columns < 4 else 2.0
    field_height = 0.9 + 0.17 * min(len(sketch.bound), 12)
    grid_height = 2.6 if on_grids else 0.0
    heights = [*[size + 0.45] * len(rows), *([grid_height] if on_grids else []), field_height]
    figure = Figure(
        figsize=(2.6 * size, size + 1.25)
        if alone
        else (max(6.5, size * columns + 0.4, size * len(on_grids)), sum(heights) + 0.95),
        layout="constrained",
        facecolor="white",
    )
    if alone:
        grid = figure.add_gridspec(1, 2, width_ratios=(1, 1.3))
        place, aspect = grid[0, 1], 1 / 1.3
    else:
        grid = figure.add_gridspec(len(heights), columns, height_ratios=heights)
        place, aspect = grid[-1, :], None
    shown: set[int] = set()
    for row, panels in enumerate(rows):
        for column, panel in enumerate(panels):
            if panel is not None:
                why = reasons(panel.pattern, context)
                shown |= set(why.unique().tolist()) - {-1}
                axes = figure.add_subplot(grid[row, column])
                _draw_panel(axes, panel, why, sketch)
    if on_grids:
        places = grid[-2, :].subgridspec(1, len(on_grids))
        for at, one in enumerate(on_grids):
            shown |= one.reasons
            draw_grid(figure.add_subplot(places[0, at]), one, _where(one, sketch))
    _draw_field(figure.add_subplot(place, box_aspect=aspect), sketch, context)
    made_up.append("at the right above: the share of visible pairs")
    if sketch.length > LARGEST_GRID:
        made_up.append("pale where only some pairs are visible")
    notes = "; ".join([f"{sketch.length:,} tokens", *sketch.notes, *made_up])
    _draw_legend(figure, sorted(shown), notes)
    heading = textwrap.wrap(title or brief(pattern), int(figure.get_figwidth() * 11))
    # A title of one line is a name; a longer one is code.
    style = {"fontsize": 11, "fontweight": "bold"} if len(heading) == 1 else {"fontsize": 9}
    figure.suptitle("\n".join(heading), color=INK, **style)
    if path is not None:
        figure.savefig(path, dpi=200)
    return figure


def _arrange(panels: Sequence[Panel]) -> list[list[Panel | None]]:
    """Place the panels: depth from left to right, the heads of one layer below each other."""
    by_layers: dict[tuple[int, ...], list[Panel]] = {}
    for panel in panels:
        by_layers.setdefault(panel.layers, []).append(panel)
    columns = list(by_layers.values())
    if len(columns) == 1:
        columns = [[panel] for panel in columns[0]]
    wide = min(len(columns), MOST_COLUMNS)
    rows: list[list[Panel | None]] = []
    for start in range(0, len(columns), wide):
        some = columns[start : start + wide]
        for row in range(max(map(len, some))):
            rows.append([column[row] if row < len(column) else None for column in some])
    return rows


def _draw_panel(axes: Axes, panel: Panel, why: Tensor, sketch: Sketch) -> None:
    from matplotlib.colors import ListedColormap

    colours = ListedColormap([HIDDEN, *(COLOURS[kind] for kind in KINDS)])
    axes.imshow(
        why.numpy(),
        cmap=colours,
        vmin=-1,
        vmax=len(KINDS) - 1,
        # Cells smaller than a dot are averaged as colours; picking one of them makes false stripes.
        interpolation="nearest" if len(why) <= LARGEST_GRID else "antialiased",
        interpolation_stage="rgba",
    )
    draw_frame(axes, why.shape[1], why.shape[0])
    axes.set_xlabel("key", fontsize=7, color=FAINT, labelpad=1)
    axes.set_ylabel("query", fontsize=7, color=FAINT, labelpad=2)
    density = (why >= 0).float().mean().item()
    name = _where(panel, sketch) or "every layer, every head"
    axes.set_title(name, loc="left", fontsize=8.5, color=INK, pad=4)
    axes.set_title(f"{density:.0%}", loc="right", fontsize=7, color=FAINT, pad=4)


def _where(panel: Panel | GridPanel, sketch: Sketch) -> str:
    """Return the layers and heads of a panel; nothing where all are meant."""
    words = (
        _words("layer", panel.layers, len(sketch.bound)),
        _words("head", panel.heads, len(sketch.bound[0])),
    )
    return ", ".join(filter(None, words))


def _draw_field(axes: Axes, sketch: Sketch, context: ExampleContext) -> None:
    """Draw which inputs reach one position after each layer, the first layer at the bottom."""
    together = [
        torch.stack([seen_rows(one, context) for one in dict.fromkeys(of_heads)]).any(0)
        for of_heads in sketch.bound
    ]
    causal = not any(mask.triu(1).any() for mask in together)
    position = sketch.length - 1 if causal else sketch.length // 2
    reached = receptive_field(together, position)
    # Each input in the colour of the first layer that brings it: the later, the paler.
    layers = len(together)
    first = torch.where(reached.any(0), reached.int().argmax(0), layers)
    shade = torch.where(reached, first[None].expand(layers, -1), layers)
    shade = shade.masked_fill(torch.arange(sketch.length, device="cpu") == position, -1)
    axes.imshow(
        shade.numpy(),
        cmap=_shades(layers),
        vmin=-1,
        vmax=layers,
        interpolation="nearest",
        aspect="auto",
        origin="lower",
    )
    draw_frame(axes, sketch.length, layers)
    step = max(1, -(-layers // 12))
    axes.set_yticks(range(0, layers, step), [str(n + 1) for n in range(0, layers, step)])
    axes.set_xlabel("input position", fontsize=7, color=FAINT, labelpad=1)
    axes.set_ylabel("after layers", fontsize=7, color=FAINT, labelpad=2)
    name = f"receptive field of position {position}"
    axes.set_title(name, loc="left", fontsize=8.5, color=INK, pad=4)
    axes.set_title("inputs", loc="right", fontsize=7, color=FAINT, pad=4)
    for layer in range(0, layers, step):
        axes.annotate(
            f"{int(reached[layer].sum()):,}",
            (1.005, layer),
            xycoords=("axes fraction", "data"),
            va="center",
            fontsize=6.5,
            color=FAINT,
        )


def _shades(layers: int) -> Any:
    """Return the colours of the position itself, of the layer that brings an input, of none."""
    from matplotlib import colormaps
    from matplotlib.colors import ListedColormap

    blues = colormaps["YlGnBu_r"]
    steps = [blues(0.15 + 0.6 * n / max(1, layers - 1)) for n in range(layers)]
    return ListedColormap([INK, *steps, HIDDEN])


def _words(name: str, numbers: Sequence[int], total: int) -> str:
    """Return `Layers 0-3`; nothing where all are meant."""
    if len(numbers) == total:
        return ""
    return f"{name}{'s' if len(numbers) > 1 else ''} {spans(numbers)}"


def _draw_legend(figure: Figure, kinds: Sequence[int], notes: str) -> None:
    from matplotlib.patches import Patch

    handles = [Patch(color=COLOURS[KINDS[kind]], label=KINDS[kind]) for kind in kinds]
    handles.append(Patch(facecolor=HIDDEN, edgecolor="#d5d8dc", label="not visible"))
    figure.legend(
        handles=handles,
        loc="outside lower center",
        ncols=min(len(handles), 6),
        title=notes,
        title_fontsize=7.5,
        fontsize=7.5,
        frameon=False,
        handlelength=1,
        handleheight=1,
        labelcolor=INK,
    )
