"""Writes the table of docs/parallel.md anew from `sp.distributed.traffic`.

Run `python docs/scripts/parallel.py`; a test compares the page.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import sparse_patterns as sp

PAGE = Path(__file__).parents[1] / "parallel.md"
START, END = "<!-- traffic -->\n", "<!-- end -->\n"

LENGTH, RANKS, WINDOWS = 1 << 20, (8, 64, 256, 1024), (512, 2048, 8192)
SHAPE = {"heads": 12, "head_dim": 64, "element_size": 2}
GLOBAL_TOKENS = 64
LINK = 50e9
"""Bytes a second that a rank can send, and as many that it can receive at the same time."""


def row(ranks: int, window: int) -> str:
    """The line of a number of ranks and a window, without and with global tokens."""
    local = sp.Window.around(window)
    columns = [f"{ranks:,}", f"{LENGTH // ranks:,}", f"{window:,}"]
    for pattern in (local, local | sp.Global(range(GLOBAL_TOKENS))):
        made = sp.distributed.traffic(pattern, LENGTH, ranks, **SHAPE)
        forward = max(*made.sent, *made.received)
        backward = max(*made.backward_sent, *made.backward_received)
        columns += [f"{(forward + backward) / 1e6:.1f}", f"{(forward + backward) / LINK * 1e3:.2f}"]
    # The gradients of what was gathered are as many bytes again.
    gathered = 2 * max(made.gathered)
    columns += [f"{gathered / 1e6:,.0f}", f"{gathered / LINK * 1e3:.0f}"]
    return f"| {' | '.join(columns)} |"


def table(ranks: Sequence[int] = RANKS) -> str:
    """The table for some numbers of ranks, without its head."""
    return "".join(f"{row(some, window)}\n" for some in ranks for window in WINDOWS)


def written() -> str:
    """The page with a new table."""
    before, rest = PAGE.read_text("utf-8").split(START)
    old, after = rest.split(END)
    head = "".join(old.splitlines(keepends=True)[:2])
    return before + START + head + table() + END + after


if __name__ == "__main__":
    PAGE.write_text(written(), "utf-8")
