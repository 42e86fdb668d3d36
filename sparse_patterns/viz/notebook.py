"""A pattern as a notebook shows it: the picture of `draw`, and the figures of its plan."""

from __future__ import annotations

import base64
import html
import io

from sparse_patterns.lowering.plan import plan
from sparse_patterns.spec.atoms import BatchGlobal, Rule, SameDocument
from sparse_patterns.spec.base import Pattern, uses
from sparse_patterns.viz.figure import draw
from sparse_patterns.viz.panels import brief, guess_sizes, spans

LENGTH = 4096
"""Tokens that the figures are for."""

RULE_LENGTH = 512
"""The same for a pattern with a `Rule`, which is called for every pair."""

DOTS_PER_INCH = 110

HEADINGS = ("layers", "visible pairs", "keys a query, mean", "sees back", "sees ahead")


def to_html(pattern: Pattern) -> str | None:
    """Return the picture of a pattern and a table of figures, for `_repr_html_`.

    Args:
        pattern: Any pattern.

    Returns:
        HTML, or None where there is no picture, so that a notebook shows the `repr`: matplotlib is
        not installed, or the pattern fits no number of heads and layers up to 64.
    """
    try:
        figure = draw(pattern)
    except (ImportError, ValueError):
        return None
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=DOTS_PER_INCH)
    picture = base64.b64encode(file.getvalue()).decode("ascii")
    text = html.escape(brief(pattern))
    length = RULE_LENGTH if uses(pattern, Rule) else LENGTH
    rows = "".join(
        f"<tr>{''.join(f'<td>{html.escape(cell)}</td>' for cell in row)}</tr>"
        for row in figures(pattern, length)
    )
    head = "".join(f"<th>{name}</th>" for name in HEADINGS)
    note = f"figures for {length:,} tokens"
    if uses(pattern, BatchGlobal, SameDocument):
        note += ", one document, no global tokens of the batch"
    return (
        f'<div><img alt="{text}" src="data:image/png;base64,{picture}" style="max-width:100%">'
        f"<table><caption>{note}</caption><thead><tr>{head}</tr></thead>"
        f"<tbody>{rows}</tbody></table></div>"
    )


def figures(pattern: Pattern, length: int) -> list[tuple[str, ...]]:
    """Return the cells of the table under `HEADINGS`, a row for each set of layers that agree.

    Args:
        pattern: Any pattern.
        length: Number of tokens.

    Raises:
        ValueError: The pattern fits no number of heads and layers up to 64.
    """
    heads, layers = guess_sizes(pattern, None, None)
    found: dict[tuple[str, ...], list[int]] = {}
    for layer in range(layers):
        made = plan(pattern, length, heads=heads, layer=layer, layers=layers)
        back, ahead = made.receptive_field
        cells = (
            f"{made.density:.2%}",
            f"{made.visible / (heads * length):,.1f}",
            f"{back:,} tokens",
            f"{ahead:,} tokens",
        )
        found.setdefault(cells, []).append(layer)
    return [
        ("all" if len(numbers) == layers else spans(numbers), *cells)
        for cells, numbers in found.items()
    ]
