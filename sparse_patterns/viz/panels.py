"""What goes into which panel of a picture, and at what scale.

Large patterns are drawn small: `shrink` divides windows, blocks and positions alike, so that a
picture of 48 tokens has the structure of the real pattern. Whoever draws it says so.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import chain, count
from typing import Any, Literal

from sparse_patterns.spec import atoms
from sparse_patterns.spec.algebra import PerHead, PerLayer, replace_atoms
from sparse_patterns.spec.arguments import real
from sparse_patterns.spec.base import Pattern, uses
from sparse_patterns.spec.binding import BoundRandomBlocks, BoundRule, bind
from sparse_patterns.spec.fields import LARGEST, integer
from sparse_patterns.spec.grids import GridWindow
from sparse_patterns.spec.schedules import Schedule

LONGEST = 8192
"""Positions of a picture, which has an element for each pair of them."""


@dataclass(frozen=True)
class Panel:
    """One picture: heads that share a pattern, in layers that share it.

    Attributes:
        pattern: The bound pattern, shrunk; of the first head and layer where they draw at random.
        layers: Which layers.
        heads: Which heads.
        varies: Whether its random blocks or rules differ from head to head or layer to layer.
    """

    pattern: Pattern
    layers: tuple[int, ...]
    heads: tuple[int, ...]
    varies: bool


@dataclass(frozen=True)
class Sketch:
    """A pattern made ready for a picture.

    Attributes:
        length: Tokens of the picture.
        bound: The pattern of each head, for each layer; shrunk.
        notes: What a reader must know about the scale.
    """

    length: int
    bound: tuple[tuple[Pattern, ...], ...]
    notes: tuple[str, ...]


def make_sketch(
    pattern: Pattern,
    length: int,
    heads: int | None = None,
    layers: int | None = None,
    scale: float | Literal["auto"] = "auto",
) -> Sketch:
    """Bind a pattern for every layer, and shrink it to fit into a picture.

    Args:
        pattern: Any pattern.
        length: Tokens of the picture.
        heads: Number of heads; the least that shows every part if None.
        layers: Number of layers; at least 4 and as many as show every part if None.
        scale: Factor of windows, blocks and positions; "auto" takes a power of 1/2 that fits.

    Raises:
        TypeError: A number has another type.
        ValueError: A number is not allowed, or the pattern does not fit the heads or layers.
    """
    integer("length of a picture", length, 1, LONGEST)
    if heads is not None:
        integer("heads", heads, 1, LARGEST)
    if layers is not None:
        integer("layers", layers, 1, LARGEST)
    if scale != "auto" and not 0 < real("scale, if not 'auto',", scale) <= 1:
        raise ValueError(f"scale must be in (0, 1] or 'auto', got {scale!r}")
    bound = bind_all(pattern, heads, layers)
    if scale == "auto":
        scale = scale_for(chain.from_iterable(bound), length)
    notes: tuple[str, ...] = (
        () if scale == 1 else (f"windows, blocks and positions {_times(scale)}",)
    )
    if notes and uses(pattern, GridWindow):
        notes += ("grids to as few tokens",)
    small = {one: shrink(one, scale) for one in dict.fromkeys(chain.from_iterable(bound))}
    return Sketch(length, tuple(tuple(small[one] for one in row) for row in bound), notes)


def bind_all(pattern: Pattern, heads: int | None, layers: int | None) -> list[tuple[Pattern, ...]]:
    """Return the pattern of each head, for each layer; numbers not given are guessed."""
    heads, layers = guess_sizes(pattern, heads, layers)
    return [bind(pattern, heads=heads, layer=layer, layers=layers) for layer in range(layers)]


def _times(scale: float) -> str:
    return f"divided by {round(1 / scale):,}" if (1 / scale).is_integer() else f"times {scale:g}"


def guess_sizes(pattern: Pattern, heads: int | None, layers: int | None) -> tuple[int, int]:
    """Return the number of heads and layers to draw: those given, else the least that show it all.

    Raises:
        ValueError: No number up to 64 fits the pattern; that of the last attempt.
    """
    some_heads = max((len(part.parts) for part in _all(pattern, PerHead)), default=1)
    some_layers = max([4, *(len(part.parts) for part in _all(pattern, PerLayer))])
    for part in pattern.walk():
        for value in _numbers(part):
            if isinstance(value, Schedule):
                some_layers = max(some_layers, len(value.values()))
    error: ValueError | None = None
    for n_layers in _upwards(some_layers) if layers is None else [layers]:
        for n_heads in _upwards(some_heads) if heads is None else [heads]:
            try:
                for layer in range(max(1, n_layers)):
                    bind(pattern, heads=n_heads, layer=layer, layers=n_layers)
            except ValueError as wrong:
                error = wrong
            else:
                return n_heads, n_layers
    assert error is not None
    raise error


def _numbers(atom: Pattern) -> list[Any]:
    """Return the numbers of a window, each of which may be a schedule."""
    if isinstance(atom, atoms.Window):
        return [atom.left, atom.right, atom.dilation]
    if not isinstance(atom, GridWindow):
        return []
    numbers = (atom.radius, atom.dilation)
    return [one for value in numbers for one in (value if isinstance(value, tuple) else [value])]


def _upwards(first: int) -> Iterable[int]:
    return chain(range(first, 65), range(1, first))


def _all(pattern: Pattern, kind: type) -> list:
    return [part for part in pattern.walk() if isinstance(part, kind)]


def scale_for(bound: Iterable[Pattern], length: int) -> float:
    """Return the power of 1/2 at which the structure of bound patterns fits into a length."""

    def fits(scale: float) -> bool:
        return all(size * scale * least <= length for size, least in sizes)

    # Each size in tokens, with how often it should fit into the picture at least.
    sizes: set[tuple[int, float]] = set()
    for atom in chain.from_iterable(pattern.walk() for pattern in bound):
        if isinstance(atom, atoms.Window):
            side = max(atom.left, atom.right)
            sizes |= {(side, 2), (side * atom.dilation, 1)}
        elif isinstance(atom, GridWindow):
            sizes.add((atom.stop, 1))
        elif isinstance(atom, atoms.LocalBlock | atoms.Summary):
            sizes.add((atom.size, 4))
        elif isinstance(atom, atoms.Strided):
            sizes.add((atom.stride, 4))
        elif isinstance(atom, atoms.RandomBlocks):
            sizes.add((atom.block, 12))
        elif isinstance(atom, atoms.BlockTable):
            sizes.add((atom.block * len(atom.table), 1))
    return next(scale for scale in (2.0**-n for n in count()) if scale < 2**-40 or fits(scale))


def shrink(pattern: Pattern, scale: float) -> Pattern:
    """Return a bound pattern with windows, blocks and positions times `scale`, not dilation."""

    def size(value: int) -> int:
        return max(min(value, 1), round(value * scale))

    def position(token: int) -> int:
        return int(token * scale) if token >= 0 else -1 - int(-(token + 1) * scale)

    def one(atom: Pattern) -> Pattern:
        if isinstance(atom, atoms.Window):
            return replace(atom, left=size(atom.left), right=size(atom.right))
        if isinstance(atom, GridWindow):
            # Its tokens are as many fewer as those of other patterns, its sides less so.
            by = scale ** (1 / len(atom.shape))
            radius = tuple(max(min(value, 1), round(value * by)) for value in atom.radius)
            shape = tuple(max(1, round(side * by)) for side in atom.shape)
            return replace(atom, shape=shape, radius=radius, prefix=size(atom.prefix))
        if isinstance(atom, atoms.Global):
            return replace(atom, tokens=tuple({position(token) for token in atom.tokens}))
        if isinstance(atom, atoms.Strided):
            return replace(atom, stride=size(atom.stride))
        if isinstance(atom, atoms.LocalBlock):
            return replace(atom, size=size(atom.size))
        if isinstance(atom, atoms.Summary):
            return replace(atom, size=size(atom.size), columns=size(atom.columns))
        if isinstance(atom, atoms.RandomBlocks | atoms.BlockTable):
            return replace(atom, block=size(atom.block))
        return atom

    return pattern if scale == 1 else replace_atoms(pattern, one)


def make_panels(bound: Sequence[Sequence[Pattern]]) -> list[Panel]:
    """Group what is drawn once.

    Args:
        bound: The pattern of each head, for each layer.

    Returns:
        Panels in the order of their first layer, then of their first head.
    """
    rows: dict[tuple[Pattern, ...], list[int]] = {}
    for layer, of_heads in enumerate(bound):
        rows.setdefault(tuple(map(_nameless, of_heads)), []).append(layer)
    panels = []
    for alike, layers in rows.items():
        columns: dict[Pattern, list[int]] = {}
        for head, one in enumerate(alike):
            columns.setdefault(one, []).append(head)
        for one, heads in columns.items():
            first = bound[layers[0]][heads[0]]
            alone = len(layers) == len(heads) == 1
            varies = uses(one, BoundRandomBlocks, BoundRule) and not alone
            panels.append(Panel(first, tuple(layers), tuple(heads), varies))
    return panels


def _nameless(pattern: Pattern) -> Pattern:
    """Return the pattern without the layer and head that random blocks and rules depend on."""

    def one(atom: Pattern) -> Pattern:
        if isinstance(atom, BoundRandomBlocks):
            return replace(atom, layer=0, head=0)
        return replace(atom, head=0) if isinstance(atom, BoundRule) else atom

    return replace_atoms(pattern, one)


def brief(pattern: Pattern) -> str:
    """Return the expression of a pattern for a title: tables and long rows of numbers are cut."""

    def unbound(atom: Pattern) -> Pattern:
        if isinstance(atom, BoundRandomBlocks):
            return atoms.RandomBlocks(atom.block, atom.per_row, atom.seed)
        return atoms.Rule(atom.fn, atom.name) if isinstance(atom, BoundRule) else atom

    text = repr(replace_atoms(pattern, unbound))
    text = re.sub(r"BlockTable\(\((?:[^()]|\([^()]*\))*\), ", "BlockTable(…, ", text)
    return re.sub(r"(\d+, \d+)(?:, \d+){3,}(, \d+)", r"\1, …\2", text)


def spans(numbers: Sequence[int]) -> str:
    """Return ascending numbers as ranges: `0-3, 5`."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return ", ".join(str(a) if a == b else f"{a}-{b}" for a, b in runs)
