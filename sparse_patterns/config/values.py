"""Values inside a configuration: numbers that vary, tokens, block tables, functions by name.

Each `write_*` returns plain data, and the `read_*` of the same name takes it back. `path` is the
place in the configuration, with which every message starts.
"""

from __future__ import annotations

import importlib
import re
import types
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from sparse_patterns.registry import did_you_mean
from sparse_patterns.spec.fields import boolean, integer
from sparse_patterns.spec.schedules import (
    Geometric,
    Linear,
    Listed,
    Number,
    Schedule,
    Shifted,
    Spread,
    Steps,
    Value,
)

SCHEDULES = ("per_head", "per_layer", "linear", "geometric", "steps", "spread", "plus")
_FUNCTION = re.compile(r"([A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*):([A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*)")


def join(path: str, key: object) -> str:
    """Return the place of a key."""
    return f"{path}.{key}" if path else str(key)


@contextmanager
def at(path: str) -> Iterator[None]:
    """Put the place in the configuration before the message of a constructor's error."""
    try:
        yield
    except TypeError as error:
        raise TypeError(f"{path or 'config'}: {error}") from error
    except ValueError as error:
        raise ValueError(f"{path or 'config'}: {error}") from error


def check_keys(
    given: Iterable[Any], allowed: Sequence[str], path: str, what: str = "key", beside: str = ""
) -> None:
    """Refuse a key that is not allowed.

    Raises:
        ValueError: The message names the key, what is allowed, and what may have been meant.
    """
    for key in given:
        if key not in allowed:
            place = f" beside {beside!r}" if beside else ""
            raise ValueError(
                f"{path or 'config'}: unknown {what} {key!r}{place}."
                f"{did_you_mean(str(key), allowed)} Allowed: {', '.join(allowed) or 'none'}"
            )


def read_list(value: Any, path: str) -> list[Any]:
    """Return a sequence as a list."""
    if isinstance(value, str) or not isinstance(value, Sequence):
        raise TypeError(f"{path} must be a list, got {value!r}")
    return list(value)


def read_mapping(value: Any, path: str) -> dict[Any, Any]:
    """Return a mapping as a dict; nothing, as YAML reads an empty entry, is an empty one."""
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise TypeError(f"{path} must be a mapping of fields, got {value!r}")
    return {key: value[key] for key in value}


def read_plain(value: Any, path: str) -> Any:
    """Return plain data as dicts, lists and scalars, whatever kind of nodes it is made of."""
    if isinstance(value, Mapping):
        return {key: read_plain(value[key], join(path, key)) for key in value}
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        return [read_plain(item, f"{path}[{index}]") for index, item in enumerate(value)]
    return value


def write_number(value: Number) -> Any:
    """Return a number of a window as plain data."""
    match value:
        case tuple():
            return {"per_head": list(value)}
        case Listed(items):
            return {"per_layer": [write_number(item) for item in items]}
        case Linear(start, stop):
            return {"linear": [start, stop]}
        case Geometric(start, stop):
            return {"geometric": [start, stop]}
        case Steps(points):
            return {"steps": [[write_number(item), count] for item, count in points]}
        case Spread(items):
            return {"spread": [write_number(item) for item in items]}
        case Shifted(schedule, by):
            return {"plus": [write_number(schedule), by]}
        case int():
            return value
    raise TypeError(
        f"{type(value).__name__} has no plain form, only {', '.join(SCHEDULES)} have one"
    )


def is_number(value: Any) -> bool:
    """Whether a mapping is a number that varies; `per_head` and `per_layer` also hold patterns."""
    if not isinstance(value, Mapping) or len(value) != 1:
        return False
    (key,) = value
    if key not in ("per_head", "per_layer"):
        return key in SCHEDULES
    items = value[key]
    first = items[0] if isinstance(items, Sequence) and items else None
    return is_number(first) or isinstance(first, int)


def read_number(value: Any, path: str) -> Any:
    """Return an int, one int per head (tuple) or a schedule.

    Raises:
        TypeError: Something else; also a tuple, which other formats cannot distinguish from a list.
        ValueError: An unknown kind of number, or values that a schedule does not take.
    """
    if isinstance(value, tuple):
        raise TypeError(
            f"{path} must not be a tuple, got {value!r}; write {{per_head: {list(value)}}} for one "
            f"number per head or {{per_layer: {list(value)}}} for one per layer"
        )
    if isinstance(value, Mapping):
        check_keys(value, SCHEDULES, path, "kind of number")
        if len(value) != 1:
            raise ValueError(f"{path} must have one of {', '.join(SCHEDULES)}, got {list(value)}")
        ((kind, items),) = read_mapping(value, path).items()
        return _read_schedule(kind, items, join(path, kind))
    if isinstance(value, Sequence) and not isinstance(value, str):
        return _read_schedule("per_layer", value, path)
    return integer(path, value)


def _read_schedule(kind: str, value: Any, path: str) -> Any:
    items = read_list(value, path)
    places = [f"{path}[{index}]" for index in range(len(items))]
    if kind in ("linear", "geometric"):
        if len(items) != 2:
            raise ValueError(f"{path} takes [start, stop], got {items}")
        ends = [integer(place, item) for place, item in zip(places, items, strict=True)]
        with at(path):
            return Linear(*ends) if kind == "linear" else Geometric(*ends)
    if kind == "plus":
        if len(items) != 2:
            raise ValueError(f"{path} takes [schedule, number], got {items}")
        schedule = read_number(items[0], places[0])
        if not isinstance(schedule, Schedule):
            raise TypeError(f"{places[0]} must be a schedule, got {items[0]!r}")
        return schedule + integer(places[1], items[1])
    if kind == "steps":
        points = []
        for place, item in zip(places, items, strict=True):
            point = read_list(item, place)
            if len(point) != 2:
                raise ValueError(f"{place} must be [value, count], got {point}")
            points.append((_read_value(point[0], f"{place}[0]"), integer(f"{place}[1]", point[1])))
        with at(path):
            return Steps(tuple(points))
    if kind == "per_head":
        if not items:
            raise ValueError(f"{path} needs one int per head, got none")
        return tuple(integer(place, item) for place, item in zip(places, items, strict=True))
    read = tuple(_read_value(item, place) for place, item in zip(places, items, strict=True))
    with at(path):
        return Spread(read) if kind == "spread" else Listed(read)


def _read_value(value: Any, path: str) -> Value:
    """Return what a schedule yields for one layer: an int, or one int per head."""
    if isinstance(value, Mapping):
        check_keys(value, ("per_head",), path, "kind of number")
        return tuple(read_number(value, path))
    return integer(path, value)


def write_tokens(tokens: tuple[int, ...]) -> Any:
    """Return global tokens as plain data, a run of many by its ends."""
    if len(tokens) > 4 and tokens[-1] - tokens[0] == len(tokens) - 1:
        return {"range": [tokens[0], tokens[-1] + 1]}
    return list(tokens)


def read_tokens(value: Any, path: str) -> tuple[int, ...]:
    """Return global tokens: a list, or `{range: [start, stop]}` with `stop` left out."""
    if isinstance(value, Mapping):
        check_keys(value, ("range",), path)
        ends = read_list(value.get("range"), join(path, "range"))
        if len(ends) != 2:
            raise ValueError(f"{path}.range takes [start, stop], got {ends}")
        return tuple(range(*(integer(f"{path}.range", end) for end in ends)))
    items = enumerate(read_list(value, path))
    return tuple(integer(f"{path}[{index}]", item) for index, item in items)


def write_table(table: tuple[Any, ...]) -> Any:
    """Return a block table as lists of rows, each a string of `0` and `1`."""
    return [row if isinstance(row, str) else list(row) for row in table]


def read_text(value: Any, path: str) -> str:
    """Return a string."""
    if not isinstance(value, str):
        raise TypeError(f"{path} must be a string, got {value!r}")
    return value


def read_boolean(value: Any, path: str) -> bool:
    """Return a bool."""
    return boolean(path, value)


def read_integer(value: Any, path: str) -> int:
    """Return an int."""
    return integer(path, value)


def write_function(function: Callable[..., Any]) -> str:
    """Return the place of a rule's function, `module:function`.

    Raises:
        ValueError: The function cannot be imported from there.
    """
    module = getattr(function, "__module__", None)
    place = f"{module}:{getattr(function, '__qualname__', None)}"
    try:
        found = read_function(place, "rule")
    except ValueError:
        found = None
    if found is not function:
        raise ValueError(
            f"a rule can be written only if its function is importable by name, so define it at "
            f"the top level of a module that is not the script being run, got {function!r}"
        )
    return place


def read_function(value: Any, path: str) -> Callable[..., Any]:
    """Import a function from where it was defined.

    Raises:
        TypeError: Not a string.
        ValueError: Not `module:function`, not there, or not a plain function defined there.
    """
    match = _FUNCTION.fullmatch(read_text(value, path))
    if match is None or match[1] == "__main__":
        raise ValueError(
            f"{path} must be the place of a function as module:function, got {value!r}"
        )
    try:
        found: Any = importlib.import_module(match[1])
        for attribute in match[2].split("."):
            found = getattr(found, attribute)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"{path} {value!r} was not found: {error}") from error
    place = (getattr(found, "__module__", None), getattr(found, "__qualname__", None))
    if not isinstance(found, types.FunctionType) or place != match.groups():
        raise ValueError(f"{path} must be a plain function defined at {value!r}, got {found!r}")
    return found
