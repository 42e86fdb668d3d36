"""Windows over a grid of tokens: images, volumes and video, read row by row."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from sparse_patterns.spec.base import Pattern
from sparse_patterns.spec.fields import LARGEST, integer, shown
from sparse_patterns.spec.schedules import Listed, Schedule

MOST_DIMENSIONS = 3
"""Dimensions of a grid."""


@dataclass(frozen=True, repr=False)
class GridWindow(Pattern):
    """Neighbours on a grid: at most `radius` steps of `dilation` away in every dimension.

    The tokens from `prefix` on are the places of a grid in row-major order, the last dimension
    fastest. The token at place `a` sees place `b` when in every dimension `b - a` is a multiple of
    the dilation and at most `radius` times the dilation. Tokens before and after the grid see, and
    are seen by, nothing through it: `Global((0,)) | GridWindow((14, 14), 3, prefix=1)` adds a class
    token. The window is cut at the edges of the grid. A radius of 0 in a dimension leaves attention
    along the others (axial attention, Ho et al. 2019); one radius in all of them is neighborhood
    attention (Hassani et al. 2023), whose window is moved inwards at the edges, where this one is
    cut.

    Args:
        shape: Places of the grid in each dimension, one to three of them; an int for one.
        radius: Steps to either side: an int, a tuple with one int per dimension, or a list with
            one of these per layer, or a schedule over layers; entries of a tuple may be schedules
            too. `PerHead` gives heads a radius each.
        dilation: Places between adjacent keys, in the same forms.
        prefix: Tokens before the grid.

    Raises:
        TypeError: A number is no int.
        ValueError: The grid has no or more than three dimensions, or more than 2**31 - 1 tokens; a
            number is out of range; or a tuple has not one number for each dimension.
    """

    shape: Any
    radius: Any
    dilation: Any = 1
    prefix: int = 0

    def __post_init__(self) -> None:
        """Check each number; a list becomes a schedule over layers."""
        shape = _shape(self.shape)
        object.__setattr__(self, "shape", shape)
        for name, least in (("radius", 0), ("dilation", 1)):
            value = per_dimension(f"grid {name}", getattr(self, name), least, len(shape))
            object.__setattr__(self, name, value)
        object.__setattr__(self, "prefix", integer("grid prefix", self.prefix, 0, LARGEST))

    @property
    def size(self) -> int:
        """Tokens of the grid."""
        return math.prod(self.shape)

    @property
    def stop(self) -> int:
        """The first token after the grid."""
        return self.prefix + self.size

    @property
    def strides(self) -> tuple[int, ...]:
        """Distance in tokens between neighbours in each dimension."""
        return tuple(math.prod(self.shape[at + 1 :]) for at in range(len(self.shape)))

    @property
    def reach(self) -> int:
        """The largest distance of a visible key in tokens, of a bound window."""
        steps = zip(self.radius, self.dilation, self.strides, strict=True)
        return sum(radius * dilation * stride for radius, dilation, stride in steps)

    def at_layer(self, layer: int, layers: int) -> GridWindow:
        """Return the window of one layer with an int per dimension: the form called bound.

        A radius that leads out of the grid from every place is cut, so that equal windows have
        equal forms.
        """
        dims = len(self.shape)
        radius = _resolved("grid radius", self.radius, dims, layer, layers)
        dilation = _resolved("grid dilation", self.dilation, dims, layer, layers)
        steps = tuple(
            min(r, (n - 1) // d) for r, d, n in zip(radius, dilation, self.shape, strict=True)
        )
        dilation = tuple(d if r else 1 for r, d in zip(steps, dilation, strict=True))
        return GridWindow(self.shape, steps, dilation, self.prefix)

    def places(self, positions: Tensor) -> tuple[list[Tensor], Tensor]:
        """Return the place of each token in each dimension, and whether it is on the grid.

        Args:
            positions: int64 positions of any shape; of those outside the grid the places are any.
        """
        at = positions - self.prefix
        inside = (at >= 0) & (at < self.size)
        pairs = zip(self.shape, self.strides, strict=True)
        return [(at // stride) % count for count, stride in pairs], inside

    def extent(self, q: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the first key, the last key and the number of keys that queries see.

        Of a bound window, in a sequence that holds the grid as a whole; off the grid, the keys are
        any and their number is 0.

        Args:
            q: int64 query positions.
        """
        places, inside = self.places(q)
        first, last, count = q, q, inside.long()
        axes = zip(places, self.shape, self.radius, self.dilation, self.strides, strict=True)
        for place, side, radius, dilation, stride in axes:
            back = (place // dilation).clamp(max=radius)
            forward = ((side - 1 - place) // dilation).clamp(max=radius)
            count = count * (back + forward + 1)
            first = first - back * dilation * stride
            last = last + forward * dilation * stride
        return first, last, count

    def sees(self, q: Tensor, k: Tensor) -> Tensor:
        """Return whether query positions see key positions, of a bound window; they broadcast."""
        q_places, q_inside = self.places(q)
        k_places, k_inside = self.places(k)
        seen = q_inside & k_inside
        axes = zip(q_places, k_places, self.radius, self.dilation, strict=True)
        for q_place, k_place, radius, dilation in axes:
            distance = k_place - q_place
            seen = seen & (distance.abs() <= radius * dilation)
            if dilation > 1:
                seen = seen & (distance % dilation == 0)
        return seen


def per_dimension(name: str, value: Any, minimum: int, dims: int) -> Any:
    """Return a number that may vary over dimensions and layers, as plain data.

    Args:
        name: What the number is, for the error message.
        value: An int, a tuple with one int or schedule per dimension, a list with an int or tuple
            per layer, or a schedule of ints or tuples.
        minimum: The smallest number allowed.
        dims: Dimensions of the grid.

    Raises:
        TypeError: Something is not an int.
        ValueError: A number is out of range, or a tuple has another length than `dims`.
    """
    if isinstance(value, list):
        value = Listed(tuple(value))
    if isinstance(value, Schedule):
        for item in value.values():
            per_dimension(f"{name} in {value!r}", item, minimum, dims)
        return value
    if isinstance(value, tuple):
        _check_count(name, value, dims)
        return tuple(_axis(name, item, minimum, axis) for axis, item in enumerate(value))
    return integer(name, value, minimum, LARGEST)


def map_numbers(value: Any, function: Callable[[int], int]) -> Any:
    """Return a radius or a dilation with `function` applied to each number it is written with."""
    if isinstance(value, tuple):
        return tuple(map_numbers(item, function) for item in value)
    return value.map(function) if isinstance(value, Schedule) else function(value)


def _axis(name: str, value: Any, minimum: int, axis: int) -> Any:
    """Return the number of one dimension: an int or a schedule of ints."""
    if isinstance(value, list):
        value = Listed(tuple(value))
    if not isinstance(value, Schedule):
        return integer(name, value, minimum, LARGEST, where=f" for dimension {axis}")
    for item in value.values():
        integer(f"{name} in {value!r}", item, minimum, LARGEST, where=f" for dimension {axis}")
    return value


def _check_count(name: str, value: tuple[Any, ...], dims: int) -> None:
    if len(value) != dims:
        raise ValueError(
            f"{name} must have one number per dimension of the grid ({dims}), got {len(value)}: "
            f"{shown(value)}; PerHead gives each head its own"
        )


def _shape(value: Any) -> tuple[int, ...]:
    """Return the shape of a grid as ints."""
    if isinstance(value, str | bytes | Mapping) or not hasattr(value, "__iter__"):
        value = (integer("grid shape", value, 1, LARGEST),)
    sides = tuple(
        integer("grid shape", side, 1, LARGEST, where=f" for dimension {axis}")
        for axis, side in enumerate(value)
    )
    if not 1 <= len(sides) <= MOST_DIMENSIONS:
        raise ValueError(
            f"grid shape must have 1 to {MOST_DIMENSIONS} dimensions, got {len(sides)}: {sides}"
        )
    if math.prod(sides) > LARGEST:
        raise ValueError(f"grid shape must have at most {LARGEST} places, got {sides}")
    return sides


def _resolved(name: str, value: Any, dims: int, layer: int, layers: int) -> tuple[int, ...]:
    """Return the number of each dimension at one layer."""
    if isinstance(value, Schedule):
        value = value.at(layer, layers)
    if not isinstance(value, tuple):
        return (value,) * dims
    _check_count(name, value, dims)
    numbers = (v.at(layer, layers) if isinstance(v, Schedule) else v for v in value)
    return tuple(integer(name, number) for number in numbers)
