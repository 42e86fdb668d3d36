"""Pictures of patterns as text, for a terminal."""

from __future__ import annotations

import shutil
import textwrap
from typing import Literal, TextIO

import torch
from torch import Tensor

from sparse_patterns.spec.base import Pattern
from sparse_patterns.spec.binding import check_layer
from sparse_patterns.spec.fields import LARGEST, boolean, integer
from sparse_patterns.spec.oracle import ExampleContext
from sparse_patterns.spec.validation import check_pattern
from sparse_patterns.viz.panels import brief, make_panels, make_sketch, spans
from sparse_patterns.viz.reasons import example_context, seen_rows

LENGTH = 64
CHUNK_PAIRS = 1 << 22


class Picture(str):
    """Text that a Python prompt shows as it prints."""

    __slots__ = ()

    def __repr__(self) -> str:
        return str(self)


def show(
    pattern: Pattern,
    length: int | None = None,
    *,
    heads: int | None = None,
    layer: int = 0,
    layers: int | None = None,
    scale: float | Literal["auto"] | None = None,
    global_mask: Tensor | None = None,
    segment_ids: Tensor | None = None,
    width: int | None = None,
    ascii: bool = False,
    file: TextIO | None = None,
) -> Picture:
    """Return which keys each query of a layer sees, as text: rows are queries, columns are keys.

    Prints nothing by itself: a Python prompt shows the result, `print(sp.show(pattern))` prints it.

    Args:
        pattern: Any pattern.
        length: Tokens of the picture; 64 by default, or as many as fit.
        heads: Number of heads; by default the least that shows every part of the pattern. Heads
            that share a pattern share a picture.
        layer: Which layer.
        layers: Number of layers; by default at least 4 and as many as show every part.
        scale: Factor of windows, blocks and positions (not of dilation); 1 shows them as they are,
            "auto" takes the power of 1/2 that fits the pattern into the picture. By default 1 where
            a length is given, else "auto". The heading names a factor other than 1.
        global_mask: bool `(length,)`, for `BatchGlobal()`; by default two tokens as an example.
        segment_ids: Integers `(length,)`, for `SameDocument()`; by default three documents.
        width: Columns of text; those of the terminal by default. A longer picture is made smaller:
            a mark is then a square of pairs of which any is visible.
        ascii: Use `#` and `.` instead of half blocks.
        file: Where to print the picture as well.

    Raises:
        TypeError: `pattern` is not a pattern.
        ValueError: A number is not allowed, or the pattern does not fit the heads or layers.
    """
    check_pattern(pattern)
    width = shutil.get_terminal_size().columns if width is None else width
    integer("width", width, 8, LARGEST)
    boolean("ascii", ascii)
    if file is not None and not hasattr(file, "write"):
        raise TypeError(f"file must be an open text file, got {file!r}")
    marks = (width - 2) // (2 if ascii else 1)
    if scale is None:
        scale = "auto" if length is None else 1
    length = min(LENGTH, marks) if length is None else length
    sketch = make_sketch(pattern, length, heads, layers, scale)
    check_layer(layer, len(sketch.bound))
    context, made_up = example_context(pattern, sketch.length, global_mask, segment_ids)
    size = -(-sketch.length // marks)
    notes = [f"{sketch.length:,} tokens", *sketch.notes, *made_up]
    if size > 1:
        notes.append(f"each mark is {size} x {size} pairs, of which any is visible")
    lines = textwrap.wrap(brief(pattern), width) + textwrap.wrap("; ".join(notes), width)
    for panel in make_panels(sketch.bound[layer : layer + 1]):
        cells, density = _cells(panel.pattern, context, size)
        where = "every head" if len(panel.heads) == len(sketch.bound[0]) else spans(panel.heads)
        name = where if where.startswith("every") else f"head{'s' * (len(panel.heads) > 1)} {where}"
        first = f", head {panel.heads[0]} drawn" if panel.varies else ""
        heading = f"layer {layer} of {len(sketch.bound)}, {name}{first}: {density:.1%} visible"
        lines += ["", *textwrap.wrap(heading, width)]
        lines += _hashes(cells) if ascii else _half_blocks(cells)
    picture = Picture("\n".join(lines))
    if file is not None:
        print(picture, file=file)
    return picture


def _cells(pattern: Pattern, context: ExampleContext, size: int) -> tuple[Tensor, float]:
    """Return which squares of `size` tokens have a visible pair, and the share of visible pairs."""
    length = context.kv_len
    step = max(1, CHUNK_PAIRS // (length * size)) * size
    rows, visible = [], 0
    for start in range(0, length, step):
        seen = seen_rows(pattern, context, start, min(start + step, length))
        visible += int(seen.sum())
        padding = (0, -length % size, 0, -seen.shape[0] % size)
        squares = torch.nn.functional.pad(seen, padding)
        rows.append(squares.unflatten(1, (-1, size)).unflatten(0, (-1, size)).any(3).any(1))
    return torch.cat(rows), visible / length**2


def _half_blocks(cells: Tensor) -> list[str]:
    """Two rows of cells a line, so that cells are about square."""
    above, below = cells[::2], cells[1::2]
    below = torch.nn.functional.pad(below, (0, 0, 0, len(above) - len(below)))
    lines = ["".join(" ▀▄█"[code] for code in row) for row in (above + 2 * below.int()).tolist()]
    edge = "─" * cells.shape[1]
    return [f"┌{edge}┐", *(f"│{line}│" for line in lines), f"└{edge}┘"]


def _hashes(cells: Tensor) -> list[str]:
    return [" ".join(".#"[cell] for cell in row) for row in cells.int().tolist()]
