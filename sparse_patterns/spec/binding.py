"""Binding: one pattern per head of a layer, with all that depends on head and layer evaluated."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sparse_patterns.spec.algebra import PerHead, PerLayer
from sparse_patterns.spec.atoms import BlockTable, RandomBlocks, Rule, Window
from sparse_patterns.spec.base import Pattern
from sparse_patterns.spec.fields import LARGEST, integer
from sparse_patterns.spec.grids import GridWindow
from sparse_patterns.spec.schedules import Schedule


@dataclass(frozen=True)
class BoundRandomBlocks(RandomBlocks):
    """`RandomBlocks` of one layer and head."""

    layer: int = 0
    head: int = 0


@dataclass(frozen=True)
class BoundRule(Rule):
    """`Rule` of one head."""

    head: int = 0


def check_layer(layer: int, layers: int) -> None:
    """Refuse a layer outside the model.

    Raises:
        TypeError: One of them is no int.
        ValueError: `layers` is below 1 or `layer` is not in `0 .. layers - 1`.
    """
    integer("layers", layers, 1, LARGEST)
    integer("layer", layer)
    if not 0 <= layer < layers:
        raise ValueError(f"layer must be in 0..{layers - 1} (layers={layers}), got {layer}")


def bind(pattern: Pattern, *, heads: int, layer: int = 0, layers: int = 1) -> tuple[Pattern, ...]:
    """Evaluate what depends on layer and head.

    Args:
        pattern: Any pattern.
        heads: Number of query heads.
        layer: Layer, counted from 0.
        layers: Number of layers of the model.

    Returns:
        One pattern per head, made of atoms with plain ints, unions, intersections and complements.
        Heads that see the same pairs for the same reason have equal patterns.

    Raises:
        TypeError: A number is no int.
        ValueError: The layer is outside the model, there is no head, or a per-head or per-layer
            choice has another length.
    """
    integer("heads", heads, 1, LARGEST)
    check_layer(layer, layers)
    return tuple(_bind(pattern, head, heads, layer, layers) for head in range(heads))


def _bind(pattern: Pattern, head: int, heads: int, layer: int, layers: int) -> Pattern:
    if isinstance(pattern, PerHead):
        return _bind(pattern.of(head, heads), head, heads, layer, layers)
    if isinstance(pattern, PerLayer):
        return _bind(pattern.of(layer, layers), head, heads, layer, layers)
    if isinstance(pattern, Window):
        return Window(
            _of_head("window left", pattern.left, head, heads, layer, layers),
            _of_head("window right", pattern.right, head, heads, layer, layers),
            _of_head("window dilation", pattern.dilation, head, heads, layer, layers),
        )
    if isinstance(pattern, GridWindow):
        return pattern.at_layer(layer, layers)
    if isinstance(pattern, RandomBlocks):
        return BoundRandomBlocks(pattern.block, pattern.per_row, pattern.seed, layer, head)
    if isinstance(pattern, Rule):
        return BoundRule(pattern.fn, pattern.name, head)
    if isinstance(pattern, BlockTable) and pattern.per_head:
        if len(pattern.table) != heads:
            raise ValueError(
                f"block table has {len(pattern.table)} heads, the attention has {heads}"
            )
        return BlockTable(pattern.table[head], pattern.block)
    children = pattern.children()
    if not children:
        return pattern
    return pattern.with_children([_bind(child, head, heads, layer, layers) for child in children])


def _of_head(name: str, value: Any, head: int, heads: int, layer: int, layers: int) -> int:
    if isinstance(value, Schedule):
        value = value.at(layer, layers)
    if isinstance(value, tuple):
        if len(value) != heads:
            raise ValueError(f"{name} has {len(value)} numbers, one per head: need {heads}")
        return value[head]
    return value
