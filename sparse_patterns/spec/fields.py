"""Checks of the fields of patterns: one error each, with the field, the value and what is allowed.

Every check returns the value as plain data (an int, a bool, tuples of them, strings), so that
patterns made from numpy numbers or tensors compare, hash and print like those written by hand.
"""

from __future__ import annotations

import numbers
from collections.abc import Sequence
from typing import Any

LARGEST = 2**31 - 1
"""The largest number of tokens, heads or layers: products of two stay within 64 bits."""


def shown(value: Any) -> str:
    """Return a value as an error message shows it: a tensor by its shape, others in short."""
    if hasattr(value, "dtype") and getattr(value, "shape", ()) != ():
        return f"a {type(value).__name__} of shape {tuple(value.shape)} and type {value.dtype}"
    words = repr(value)
    return words if len(words) <= 200 else f"{words[:200]}..."


def integer(
    name: str, value: Any, minimum: int | None = None, maximum: int | None = None, where: str = ""
) -> int:
    """Return an int within bounds.

    Args:
        name: What the number is, for the error message.
        value: The number; integers of numpy are taken too, bools are not.
        minimum: The smallest number allowed.
        maximum: The largest number allowed.
        where: Which of several numbers it is, for the error message.

    Raises:
        TypeError: Not an integer.
        ValueError: Below `minimum` or above `maximum`.
    """
    if type(value) is int:
        plain = value
    elif isinstance(value, bool) or not isinstance(value, numbers.Integral):
        raise TypeError(f"{name} must be an int, got {shown(value)}{where}")
    else:
        plain = int(value)
    if minimum is not None and plain < minimum:
        raise ValueError(f"{name} must be >= {minimum}, got {plain}{where}")
    if maximum is not None and plain > maximum:
        raise ValueError(f"{name} must be <= {maximum}, got {plain}{where}")
    return plain


def boolean(name: str, value: Any) -> bool:
    """Return a bool.

    Raises:
        TypeError: Anything else, also 0 and 1.
    """
    if not isinstance(value, bool):
        raise TypeError(f"{name} must be True or False, got {shown(value)}")
    return value


def block_rows(name: str, table: Any) -> tuple[Any, ...]:
    """Return a layout of blocks as one string of `0` and `1` a row.

    Args:
        name: What the table is, for the error message.
        table: `(rows, columns)` or `(heads, rows, columns)`: nested sequences of booleans or of 0
            and 1, strings for rows, or a tensor or array.

    Returns:
        A tuple of rows, or one such tuple per head.

    Raises:
        TypeError: Not a table, or an entry is not 0 or 1.
        ValueError: The rows differ in length, or the heads in shape.
    """
    table = _nested(table)
    if not isinstance(table, list):
        raise TypeError(f"{name} must be rows of 0 and 1, got {table!r}")
    heads = table if table and _depth(table) == 3 else [table]
    layouts = []
    for head in heads:
        if not isinstance(head, list):
            raise TypeError(f"{name} must be rows of 0 and 1, got {head!r} for a layout")
        layouts.append(tuple(_row(name, row) for row in head))
    widths = sorted({len(row) for layout in layouts for row in layout})
    if len(widths) > 1:
        raise ValueError(f"{name} rows must have one length, got lengths {widths}")
    heights = sorted({len(layout) for layout in layouts})
    if len(heights) > 1:
        raise ValueError(f"{name} must have as many rows for every head, got {heights}")
    return tuple(layouts) if heads is table else layouts[0]


def _nested(table: Any) -> Any:
    """Return sequences, tensors and arrays as nested lists."""
    if hasattr(table, "tolist"):
        return table.tolist()
    if isinstance(table, Sequence) and not isinstance(table, str):
        return [_nested(item) for item in table]
    return table


def _depth(table: Any) -> int:
    """Return the number of dimensions, read off the first entries; a string is a row."""
    if isinstance(table, str):
        return 1
    if not isinstance(table, list):
        return 0
    return 1 + (_depth(table[0]) if table else 0)


def _row(name: str, row: Any) -> str:
    bits = list(row) if isinstance(row, str | list) else [row]
    if not isinstance(row, str | list) or any(bit not in (0, 1, "0", "1") for bit in bits):
        raise TypeError(f"{name} rows must hold 0 and 1, got {row!r}")
    return "".join(str(int(bit)) for bit in bits)
