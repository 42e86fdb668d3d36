"""Which query rows make a tile."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from sparse_patterns.lowering.normal_form import Conjunct
from sparse_patterns.lowering.tiles.tiles import MAX_ROWS, RUN_PAIRS

MAX_EDGE = 512
"""Rows of a tile at the end of a sequence."""

MAX_STEP_WITH_EDGES = 16
"""Dilation up to which the ends of a sequence are tiles of their own."""


def tile_rows(width: float, slides: bool) -> int:
    """Return how many query rows a tile takes for keys of a mean width.

    Args:
        width: Keys that a query sees, about.
        slides: Whether neighbouring queries see other keys: then a taller tile computes more pairs
            that nobody sees.
    """
    return 32 if width <= (224 if slides else 96) else 64 if width <= 1024 else MAX_ROWS


def column_rows(low: Tensor, high: Tensor) -> int:
    """Return how many query rows a tile takes that sees an interval of a list of keys.

    Where intervals differ, taller tiles compute more pairs that nobody sees, but are fewer.

    Args:
        low: int64, the first key of the list that each query sees.
        high: int64, the last; below `low` where it sees none.
    """
    low, high = low.masked_fill(low > high, 1 << 50), high.masked_fill(low > high, -1)

    def cost(height: int) -> int:
        missing = (0, -low.numel() % height)
        first = functional.pad(low, missing, value=1 << 50).view(-1, height).amin(1)
        last = functional.pad(high, missing, value=-1).view(-1, height).amax(1)
        ends = torch.stack([first, last], 1)[first <= last]
        pairs = int((ends[:, 1] - ends[:, 0] + 1).sum()) * height
        return pairs + RUN_PAIRS * len(torch.unique(ends, dim=0))

    return cheapest_height(low.numel(), cost)


def cheapest_height(queries: int, cost: Callable[[int], int]) -> int:
    """Return the rows of a tile that cost least: `MAX_ROWS`, or a power of two times as many.

    Args:
        queries: Number of queries.
        cost: Cost of a number of rows; of equal ones the fewest are taken.
    """
    heights = [MAX_ROWS]
    while heights[-1] * 2 <= queries:
        heights.append(heights[-1] * 2)
    return min(heights, key=cost)


def cut_queries(
    conjunct: Conjunct, q: Tensor, kv_len: int, step: int, height: int
) -> tuple[Tensor, Tensor]:
    """Cut the queries into tiles of about `height` rows, `step` apart.

    Returns:
        First query row and number of rows of each tile, int64 `(tiles,)`.
    """
    q_len = q.numel()
    if conjunct.blocks and step == 1:
        size = min(conjunct.blocks)
        height = -(-size // -(-size // height))
        starts = (q % size % height == 0).nonzero().flatten()
        if not starts.numel() or starts[0] != 0:
            starts = torch.cat([torch.zeros(1, dtype=torch.int64, device="cpu"), starts])
        stops = torch.cat([starts[1:], torch.tensor([q_len], device="cpu")])
        return starts, stops - starts
    ends = window_ends(conjunct, q_len, kv_len, int(q[0]), height)
    if ends is not None:
        return _edges(q_len, step, height, ends)
    residues = torch.arange(min(step, q_len), device="cpu")
    lengths = (q_len - residues + step - 1) // step
    longest = int(lengths.max())
    if longest <= 2 * height:
        height = longest
    tile = torch.arange(-(-longest // height), device="cpu")
    starts = (residues[:, None] + tile * height * step).flatten()
    rows = (lengths[:, None] - tile * height).clamp(max=height).flatten()
    return starts[rows > 0], rows[rows > 0]


def window_ends(
    conjunct: Conjunct, q_len: int, kv_len: int, q_offset: int, height: int
) -> tuple[int, int] | None:
    """Return how many queries at each end of a residue see less than a window much shorter.

    There the windows stick out by a different amount in every row, so that many small tiles would
    share nothing: each end is one tile. Returns None where the window is not of that kind.

    Args:
        conjunct: The conjunct.
        q_len: Number of queries.
        kv_len: Number of keys.
        q_offset: Position of query row 0.
        height: Rows of a tile between the ends.
    """
    step = conjunct.dilation
    if (
        conjunct.blocks
        or conjunct.columns
        or step > MAX_STEP_WITH_EDGES
        or conjunct.left < 0
        or conjunct.right < 0
    ):
        return None
    first = max(0, -((q_offset - conjunct.left) // step))
    last = max(0, -((kv_len - conjunct.right - q_offset - q_len) // step))
    if max(first, last) > MAX_EDGE or first + last + 2 * height > q_len // step:
        return None
    return first, last


def _edges(q_len: int, step: int, height: int, ends: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Cut the queries of each residue, each end of it to one tile; see `cut_queries`."""
    starts, rows = [], []
    for residue in range(step):
        length = (q_len - residue + step - 1) // step
        stop = length - ends[1]
        cuts = torch.tensor([0, *range(ends[0], stop, height), stop, length], device="cpu").unique()
        starts.append(residue + cuts[:-1] * step)
        rows.append(cuts.diff())
    return torch.cat(starts), torch.cat(rows)
