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
from sparse_patterns.viz.panels import Panel, Sketch, brief, make_panels, make_sketch, spans
from sparse_patterns.viz.reasons import KINDS, example_context, reasons, receptive_field, seen_rows

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = {
    "global row": "#d1495b",
    "global column": "#edae49",
    "window": "#30638e",
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
LENGTH = 48
LARGEST_GRID = 96
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
    heads.

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
    alone = len(rows) == columns == 1
    size = 2.9 if alone else 2.5 if columns < 4 else 2.0
    field_height = 0.9 + 0.17 * min(len(sketch.bound), 12)
    figure = Figure(
        figsize=(
            2.6 * size if alone else max(6.5, size * columns + 0.4),
            (size + (0.3 if alone else 0.45)) * len(rows) + (0 if alone else field_height) + 0.95,
        ),
        layout="constrained",
        facecolor="white",
    )
    if alone:
        grid = figure.add_gridspec(1, 2, width_ratios=(1, 1.3))
        place, aspect = grid[0, 1], 1 / 1.3
    else:
        ratios = [*[size + 0.45] * len(rows), field_height]
        grid = figure.add_gridspec(len(rows) + 1, columns, height_ratios=ratios)
        place, aspect = grid[-1, :], None
    shown: set[int] = set()
    for row, panels in enumerate(rows):
        for column, panel in enumerate(panels):
            if panel is not None:
                why = reasons(panel.pattern, context)
                shown |= set(why.unique().tolist()) - {-1}
                axes = figure.add_subplot(grid[row, column])
                _draw_panel(axes, panel, why, sketch)
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
    _draw_frame(axes, why.shape[1], why.shape[0])
    axes.set_xlabel("key", fontsize=7, color=FAINT, labelpad=1)
    axes.set_ylabel("query", fontsize=7, color=FAINT, labelpad=2)
    where = [
        _words("layer", panel.layers, len(sketch.bound)),
        _words("head", panel.heads, len(sketch.bound[0])),
    ]
    density = (why >= 0).float().mean().item()
    name = ", ".join(filter(None, where)) or "every layer, every head"
    axes.set_title(name, loc="left", fontsize=8.5, color=INK, pad=4)
    axes.set_title(f"{density:.0%}", loc="right", fontsize=7, color=FAINT, pad=4)


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
    _draw_frame(axes, sketch.length, layers)
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


def _draw_frame(axes: Axes, width: int, height: int) -> None:
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
