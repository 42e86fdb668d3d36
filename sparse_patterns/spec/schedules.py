"""Schedules: a number of a pattern written as a function of the layer.

A numeric field of an atom (`Window(left=linear(32, 512))`) may be a schedule. It is evaluated when
the pattern is bound to a layer, so that one spec describes every layer of a model.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

from sparse_patterns.spec.fields import LARGEST, integer, shown

Value = int | tuple[int, ...]
"""What a schedule yields for one layer: a number for every head, or one number per head."""


@dataclass(frozen=True)
class Schedule:
    """A numeric field as a function of the layer."""

    def at(self, layer: int, layers: int) -> Value:
        """Return the value for `layer` of `layers` (counted from 0)."""
        raise NotImplementedError

    def values(self) -> tuple[Value, ...]:
        """Return the numbers the schedule is written with, for checking their range."""
        raise NotImplementedError

    def map(self, function: Callable[[int], int]) -> Schedule:
        """Return the schedule with `function` applied to each number it is written with.

        Fit for multiples: between two ends, what holds of both need not hold of the rest.
        """
        raise NotImplementedError

    def __add__(self, by: int) -> Schedule:
        """Return the schedule with each layer's value greater by `by`."""
        return Shifted(self, _summand(by)) if _summand(by) else self

    def __sub__(self, by: int) -> Schedule:
        """Return the schedule with each layer's value less by `by`."""
        return self + -_summand(by)


def _value(name: str, value: object) -> Value:
    if isinstance(value, list | tuple):
        if not value:
            raise ValueError(f"{name} must be an int or one int per head, got an empty sequence")
        return tuple(integer(name, item, -LARGEST, LARGEST) for item in value)
    return integer(name, value, -LARGEST, LARGEST)


def map_value(value: Value, function: Callable[[int], int]) -> Value:
    """Apply `function` to a number, or to the number of each head."""
    return tuple(map(function, value)) if isinstance(value, tuple) else function(value)


def adding(by: int) -> Callable[[int], int]:
    """Return the function that adds `by`."""
    by = _summand(by)
    return lambda value: value + by


def _summand(by: int) -> int:
    return integer("what is added to a schedule", by, -LARGEST, LARGEST)


@dataclass(frozen=True, repr=False)
class Shifted(Schedule):
    """Another schedule with each layer's value greater by `by`."""

    schedule: Schedule
    by: int

    def at(self, layer: int, layers: int) -> Value:
        """Return the value for `layer`."""
        return map_value(self.schedule.at(layer, layers), adding(self.by))

    def values(self) -> tuple[Value, ...]:
        """Return the numbers the schedule is written with, shifted."""
        return tuple(map_value(value, adding(self.by)) for value in self.schedule.values())

    def map(self, function: Callable[[int], int]) -> Schedule:
        """Return the schedule with its numbers and the shift mapped."""
        return self.schedule.map(function) + function(self.by)

    def __add__(self, by: int) -> Schedule:
        """Return the schedule with each layer's value greater by `by`."""
        return self.schedule + (self.by + _summand(by))

    def __repr__(self) -> str:
        return f"{self.schedule!r} {'+' if self.by > 0 else '-'} {abs(self.by)}"


@dataclass(frozen=True, repr=False)
class _Ends(Schedule):
    """Runs from `start` in the first layer to `stop` in the last; a single layer takes `start`."""

    start: int
    stop: int

    _minimum: ClassVar[int] = -LARGEST

    def __post_init__(self) -> None:
        """Refuse what is not an integer, or too small."""
        for end in ("start", "stop"):
            value = integer(f"{self._name} {end}", getattr(self, end), self._minimum, LARGEST)
            object.__setattr__(self, end, value)

    @property
    def _name(self) -> str:
        return type(self).__name__.lower()

    def values(self) -> tuple[Value, ...]:
        """Return both ends."""
        return (self.start, self.stop)

    def map(self, function: Callable[[int], int]) -> _Ends:
        """Return the schedule with both ends mapped."""
        return type(self)(function(self.start), function(self.stop))

    def __repr__(self) -> str:
        return f"{self._name}({self.start}, {self.stop})"


@dataclass(frozen=True, repr=False)
class Linear(_Ends):
    """Equal steps from `start` in the first layer to `stop` in the last, rounded to integers."""

    def at(self, layer: int, layers: int) -> int:
        """Return the value for `layer`."""
        if layers == 1:
            return self.start
        return round(self.start + (self.stop - self.start) * layer / (layers - 1))


@dataclass(frozen=True, repr=False)
class Geometric(_Ends):
    """Equal ratios from `start` in the first layer to `stop` in the last, rounded to integers."""

    _minimum: ClassVar[int] = 1

    def at(self, layer: int, layers: int) -> int:
        """Return the value for `layer`."""
        if layers == 1:
            return self.start
        return round(self.start * (self.stop / self.start) ** (layer / (layers - 1)))


@dataclass(frozen=True, repr=False)
class Steps(Schedule):
    """Constant over groups of layers: each `(value, count)` holds for the next `count` layers."""

    points: tuple[tuple[Value, int], ...]

    def __post_init__(self) -> None:
        """Refuse empty steps and counts below one."""
        if not self.points:
            raise ValueError("steps needs at least one (value, count) pair")
        given: Any = self.points
        points = []
        for point in given:
            if not isinstance(point, list | tuple):
                raise TypeError(f"steps takes (value, count) pairs, got {shown(point)}")
            if len(point) != 2:
                raise ValueError(f"steps takes (value, count) pairs, got {point!r}")
            value, count = point
            count = integer("steps count", count, 1, LARGEST)
            points.append((_value("steps value", value), count))
        object.__setattr__(self, "points", tuple(points))

    def at(self, layer: int, layers: int) -> Value:
        """Return the value of the group of `layer`.

        Raises:
            ValueError: The counts do not add up to `layers`.
        """
        total = sum(count for _, count in self.points)
        if total != layers:
            raise ValueError(f"{self!r} describes {total} layers, the model has {layers}")
        for value, count in self.points:
            if layer < count:
                return value
            layer -= count
        raise AssertionError("the counts add up to the layers")

    def values(self) -> tuple[Value, ...]:
        """Return the value of each group."""
        return tuple(value for value, _ in self.points)

    def map(self, function: Callable[[int], int]) -> Steps:
        """Return the schedule with each value mapped."""
        return Steps(tuple((map_value(value, function), count) for value, count in self.points))

    def __add__(self, by: int) -> Steps:
        """Return the schedule with each value greater by `by`."""
        return self.map(adding(by))

    def __repr__(self) -> str:
        return f"steps({', '.join(repr(point) for point in self.points)})"


@dataclass(frozen=True, repr=False)
class _Items(Schedule):
    """Written as a row of values, each an int or one int per head."""

    items: tuple[Value, ...]

    def __post_init__(self) -> None:
        """Refuse an empty row and what is not an integer."""
        name = type(self).__name__.lower()
        if not self.items:
            raise ValueError(f"{name} values over layers must not be empty")
        items = tuple(_value(f"{name} value", item) for item in self.items)
        object.__setattr__(self, "items", items)

    def values(self) -> tuple[Value, ...]:
        """Return the values as written."""
        return self.items

    def map(self, function: Callable[[int], int]) -> _Items:
        """Return the schedule with each value mapped."""
        return type(self)(tuple(map_value(item, function) for item in self.items))

    def __add__(self, by: int) -> _Items:
        """Return the schedule with each value greater by `by`."""
        return self.map(adding(by))


@dataclass(frozen=True, repr=False)
class Listed(_Items):
    """One explicit value per layer; written as a plain list in a field."""

    def at(self, layer: int, layers: int) -> Value:
        """Return the value of `layer`.

        Raises:
            ValueError: The list has another length than `layers`.
        """
        if len(self.items) != layers:
            raise ValueError(
                f"the list {self!r} describes {len(self.items)} layers, the model has {layers}"
            )
        return self.items[layer]

    def __repr__(self) -> str:
        return repr(list(self.items))


@dataclass(frozen=True, repr=False)
class Spread(_Items):
    """The values over equal groups of adjacent layers, for any number of layers.

    `PerHead` does the same with heads. Where the layers cannot be cut equally, groups differ by one
    layer, and a model of fewer layers than values leaves some out.
    """

    def at(self, layer: int, layers: int) -> Value:
        """Return the value of the group of `layer`."""
        return self.items[layer * len(self.items) // layers]

    def __repr__(self) -> str:
        return f"spread({', '.join(repr(item) for item in self.items)})"


def linear(start: int, stop: int) -> Linear:
    """Grow (or shrink) in equal steps from the first layer to the last."""
    return Linear(start, stop)


def geometric(start: int, stop: int) -> Geometric:
    """Grow (or shrink) by equal ratios from the first layer to the last."""
    return Geometric(start, stop)


def steps(*points: tuple[Value, int]) -> Steps:
    """Hold each value for a number of layers: `steps((32, 4), (64, 8))` describes 12 layers."""
    return Steps(points)


def spread(*values: Value) -> Spread:
    """Spread values over equal groups of layers: `spread(1, 1, 2)` doubles in the last third."""
    return Spread(values)


Number = int | tuple[int, ...] | Schedule
"""A numeric field: an int, one int per head (tuple), or a schedule over layers (list: `Listed`)."""


def number(name: str, value: Any, minimum: int) -> Number:
    """Return a numeric field that may vary over heads and layers.

    Args:
        name: What the number is, for the error message.
        value: An int, a tuple (per head), a list (per layer) or a schedule.
        minimum: The smallest number allowed.

    Raises:
        TypeError: Something is not an int.
        ValueError: A number is below `minimum` or above `LARGEST`; the message names the head or
            the schedule.
    """
    if isinstance(value, list):
        value = Listed(tuple(_value(name, item) for item in value))
    if isinstance(value, Schedule):
        for item in value.values():
            number(f"{name} in {value!r}", item, minimum)
        return value
    if isinstance(value, tuple):
        if not value:
            raise ValueError(f"{name} must be an int or one int per head, got an empty tuple")
        return tuple(
            integer(name, item, minimum, LARGEST, where=f" for head {head}")
            for head, item in enumerate(value)
        )
    return integer(name, value, minimum, LARGEST)
