"""Bands: rectangles of queries against keys that fused operators mask by a window of their own.

Row `i` of `M` rows sees key `c` of `N` keys where, aligned at the bottom right,

    -left <= c - (i + N - M) <= right

Any band of a longer matrix can be cut to such rectangles with sides of 0 or more: rows and keys
that meet nothing are left out, and what remains is aligned by its last row and key.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

from sparse_patterns.lowering.normal_form import UNLIMITED


@dataclass(frozen=True)
class Band:
    """The window of a rectangle.

    Attributes:
        left: Keys seen before the aligned one; None where no row loses a key on that side.
        right: Keys seen after it, likewise.
    """

    left: int | None
    right: int | None


@dataclass(frozen=True)
class Rectangle:
    """Rows `first_row .. first_row + rows - 1` against `first_key .. first_key + keys - 1`.

    Attributes:
        left: Keys seen before the aligned one, 0 or more.
        right: Keys seen after it, 0 or more.
    """

    first_row: int
    rows: int
    first_key: int
    keys: int
    left: int
    right: int

    @property
    def open_left(self) -> bool:
        """Whether the last row sees the first key, so that the left side hides nothing."""
        return self.left >= self.keys - 1

    @property
    def open_right(self) -> bool:
        """Whether the first row sees the last key, so that the right side hides nothing."""
        return self.right >= self.rows - 1

    @property
    def band(self) -> Band:
        """The window, with None for a side that hides nothing."""
        return Band(None if self.open_left else self.left, None if self.open_right else self.right)


def window_sides(band: Band, rows: int, keys: int) -> tuple[int, int]:
    """Return a band as two numbers for operators that know no unlimited side.

    Args:
        band: The window.
        rows: Rows of the tallest rectangle.
        keys: Keys of the longest one.
    """
    left = keys if band.left is None else band.left
    right = max(0, rows - 1) if band.right is None else band.right
    return left, right


def flash_window(left: int, right: int, keys: int) -> tuple[int, int]:
    """Return the window that FlashAttention 2 makes of one, -1 for unlimited.

    A side as long as the keys becomes unlimited, and next to a limited side as long as the keys:
    with more queries than keys, that is another window than the one asked for.
    """
    left = -1 if left >= keys else left
    right = -1 if right >= keys else right
    if left < 0 <= right:
        left = keys
    elif right < 0 <= left:
        right = keys
    return left, right


def keeps_window(rectangles: list[Rectangle]) -> bool:
    """Return whether FlashAttention 2 sees in each of these, run at once, what it should.

    All have equal sides, but for those that hide nothing in any of them.
    """
    keys = max(one.keys for one in rectangles)
    sides = window_sides(shared_band(rectangles), max(one.rows for one in rectangles), keys)
    left, right = flash_window(*sides, keys)
    for one in rectangles:
        for side, asked, least in (
            (left, one.left, one.keys - 1),
            (right, one.right, one.rows - 1),
        ):
            if min(UNLIMITED if side < 0 else side, least) != min(asked, least):
                return False
    return True


def shared_band(rectangles: list[Rectangle]) -> Band:
    """Return the window of rectangles with equal sides."""
    return Band(
        None if all(one.open_left for one in rectangles) else rectangles[0].left,
        None if all(one.open_right for one in rectangles) else rectangles[0].right,
    )


def cut_band(rows: int, keys: int, shift: int, low: int, high: int) -> Iterator[Rectangle]:
    """Cut a band to rectangles that FlashAttention 2 masks as it should.

    Args:
        rows: Number of rows; row `i` is at key `i + shift`.
        keys: Number of keys.
        shift: Key position of row 0.
        low: Smallest distance from a row's own key to one it sees.
        high: Largest distance.

    Yields:
        Rectangles of different rows, mostly one.
    """
    first = max(0, -(shift + high))
    last = min(rows - 1, keys - 1 - low - shift)
    if low > high or first > last or not keys:
        return
    k_first, k_last = max(0, first + shift + low), min(keys - 1, last + shift + high)
    tall, wide = last - first + 1, k_last - k_first + 1
    over = last + shift - k_last
    one = Rectangle(first, tall, k_first, wide, -low - over, high + over)
    if keeps_window([one]):
        yield one
        return
    # More queries than keys: first the rows that lose keys on the right, then those that lose none,
    # then those that lose keys on the left.
    cuts = sorted({0, max(0, tall - 1 - one.right), max(0, tall - wide + one.left + 1), tall})
    for start, stop in pairwise(cuts):
        if start < stop <= tall:
            for part in cut_band(stop - start, keys, shift + first + start, low, high):
                moved = part.first_row + first + start
                yield Rectangle(moved, part.rows, part.first_key, part.keys, part.left, part.right)
