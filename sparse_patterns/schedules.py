"""Schedules: a number of a pattern written as a function of the layer.

A numeric field of an atom (`Window(left=linear(32, 512))`) may be a schedule. It is evaluated when the
pattern is bound to a layer, so that one spec describes every layer of a model.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

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
        """Return the schedule with `function` applied to each number it is written with."""
        raise NotImplementedError


def _number(name: str, value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be an int, got {value!r}")
    return value


def _value(name: str, value: object) -> Value:
    if isinstance(value, list | tuple):
        if not value:
            raise ValueError(f"{name} must be an int or one int per head, got an empty sequence")
        return tuple(_number(name, item) for item in value)
    return _number(name, value)


def map_value(value: Value, function: Callable[[int], int]) -> Value:
    """Apply `function` to a number, or to the number of each head."""
    return tuple(map(function, value)) if isinstance(value, tuple) else function(value)


@dataclass(frozen=True, repr=False)
class Linear(Schedule):
    """Equal steps from `start` in the first layer to `stop` in the last, rounded to integers."""

    start: int
    stop: int

    def __post_init__(self) -> None:
        """Refuse what is not an integer."""
        _number("linear start", self.start)
        _number("linear stop", self.stop)

    def at(self, layer: int, layers: int) -> int:
        """Return the value for `layer`; a single layer takes `start`."""
        if layers == 1:
            return self.start
        return round(self.start + (self.stop - self.start) * layer / (layers - 1))

    def values(self) -> tuple[Value, ...]:
        """Return both ends."""
        return (self.start, self.stop)

    def map(self, function: Callable[[int], int]) -> Linear:
        """Return the schedule with both ends mapped."""
        return Linear(function(self.start), function(self.stop))

    def __repr__(self) -> str:
        return f"linear({self.start}, {self.stop})"


@dataclass(frozen=True, repr=False)
class Geometric(Schedule):
    """Equal ratios from `start` in the first layer to `stop` in the last, rounded to integers."""

    start: int
    stop: int

    def __post_init__(self) -> None:
        """Refuse what is not a positive integer."""
        for name, value in (("start", self.start), ("stop", self.stop)):
            if _number(f"geometric {name}", value) < 1:
                raise ValueError(f"geometric {name} must be >= 1, got {value}")

    def at(self, layer: int, layers: int) -> int:
        """Return the value for `layer`; a single layer takes `start`."""
        if layers == 1:
            return self.start
        return round(self.start * (self.stop / self.start) ** (layer / (layers - 1)))

    def values(self) -> tuple[Value, ...]:
        """Return both ends."""
        return (self.start, self.stop)

    def map(self, function: Callable[[int], int]) -> Geometric:
        """Return the schedule with both ends mapped."""
        return Geometric(function(self.start), function(self.stop))

    def __repr__(self) -> str:
        return f"geometric({self.start}, {self.stop})"


@dataclass(frozen=True, repr=False)
class Steps(Schedule):
    """Constant over groups of layers: each `(value, count)` holds for the next `count` layers."""

    points: tuple[tuple[Value, int], ...]

    def __post_init__(self) -> None:
        """Refuse empty steps and counts below one."""
        if not self.points:
            raise ValueError("steps needs at least one (value, count) pair")
        points = []
        for point in self.points:
            if not isinstance(point, list | tuple) or len(point) != 2:
                raise ValueError(f"steps takes (value, count) pairs, got {point!r}")
            value, count = point
            if _number("steps count", count) < 1:
                raise ValueError(f"steps count must be >= 1, got {count}")
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

    def __repr__(self) -> str:
        return f"steps({', '.join(repr(point) for point in self.points)})"


@dataclass(frozen=True, repr=False)
class Listed(Schedule):
    """One explicit value per layer; written as a plain list in a field."""

    items: tuple[Value, ...]

    def __post_init__(self) -> None:
        """Refuse an empty list and what is not an integer."""
        if not self.items:
            raise ValueError("a list over layers needs at least one value")
        object.__setattr__(self, "items", tuple(_value("list value", item) for item in self.items))

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

    def values(self) -> tuple[Value, ...]:
        """Return the listed values."""
        return self.items

    def map(self, function: Callable[[int], int]) -> Listed:
        """Return the schedule with each value mapped."""
        return Listed(tuple(map_value(item, function) for item in self.items))

    def __repr__(self) -> str:
        return repr(list(self.items))


def linear(start: int, stop: int) -> Linear:
    """Grow (or shrink) in equal steps from the first layer to the last."""
    return Linear(start, stop)


def geometric(start: int, stop: int) -> Geometric:
    """Grow (or shrink) by equal ratios from the first layer to the last."""
    return Geometric(start, stop)


def steps(*points: tuple[Value, int]) -> Steps:
    """Hold each value for a number of layers: `steps((32, 4), (64, 8))` describes 12 layers."""
    return Steps(points)
