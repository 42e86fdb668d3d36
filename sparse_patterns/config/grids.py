"""Numbers of a grid inside a configuration: as those of a window, with one per dimension.

`{per_dimension: [7, 0]}` stands where a window has `{per_head: [7, 0]}`; its entries may be
schedules.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sparse_patterns.config.values import join, read_list, read_number, write_number
from sparse_patterns.spec.fields import integer

KEY = "per_dimension"


def write_shape(shape: tuple[int, ...]) -> list[int]:
    """Return the shape of a grid as plain data."""
    return list(shape)


def read_shape(value: Any, path: str) -> tuple[int, ...]:
    """Return the shape of a grid: a list of ints, or an int for one dimension."""
    if not isinstance(value, Sequence):
        return (integer(path, value),)
    items = enumerate(read_list(value, path))
    return tuple(integer(f"{path}[{axis}]", side) for axis, side in items)


def write_per_dimension(value: Any) -> Any:
    """Return a radius or a dilation as plain data."""
    if isinstance(value, tuple):
        return {KEY: [write_number(item) for item in value]}
    return _renamed(write_number(value), "per_head", KEY)


def read_per_dimension(value: Any, path: str) -> Any:
    """Return an int, one number per dimension (tuple) or a schedule.

    Raises:
        TypeError: Something else.
        ValueError: An unknown kind of number, or one per head: `PerHead` gives heads their own.
    """
    if _names(value, "per_head"):
        raise ValueError(
            f"{path} takes {{{KEY}: [...]}}, got {value!r}; a pattern per head is written as "
            "{per_head: [{grid_window: ...}, ...]}"
        )
    if isinstance(value, Mapping) and list(value) == [KEY]:
        inside = join(path, KEY)
        items = enumerate(read_list(value[KEY], inside))
        return tuple(read_number(item, f"{inside}[{axis}]") for axis, item in items)
    return read_number(_renamed(value, KEY, "per_head"), path)


def is_per_dimension(value: Any) -> bool:
    """Whether a value has a number per dimension somewhere, which only grids have."""
    return _names(value, KEY)


def _names(value: Any, key: str) -> bool:
    if isinstance(value, Mapping):
        return key in value or any(_names(value[other], key) for other in value)
    return _is_list(value) and any(_names(item, key) for item in value)


def _renamed(value: Any, old: str, new: str) -> Any:
    """Return plain data with one key in place of another, wherever it stands."""
    if isinstance(value, Mapping):
        return {(new if key == old else key): _renamed(value[key], old, new) for key in value}
    return [_renamed(item, old, new) for item in value] if _is_list(value) else value


def _is_list(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str)
