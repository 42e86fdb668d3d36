"""The plan: what a kernel has to compute for a pattern and a shape, as frozen data."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache

from sparse_patterns.lowering.blocks.table import Blocks
from sparse_patterns.lowering.forms import Forms, forms_of
from sparse_patterns.lowering.fused.lower import Fused
from sparse_patterns.lowering.tiles.runs import PlanPart
from sparse_patterns.spec.base import Pattern
from sparse_patterns.spec.binding import bind, check_layer
from sparse_patterns.spec.fields import LARGEST, integer
from sparse_patterns.spec.validation import check_lengths, check_pattern

CACHE_SIZE = 128
"""Plans kept; the one not used for longest goes first."""


@dataclass(frozen=True, eq=False)
class Group:
    """Heads that see the same pairs.

    Attributes:
        heads: Indices of the query heads.
        forms: Their bound pattern, its numbers and the forms that kernels ask for.
    """

    heads: tuple[int, ...]
    forms: Forms

    @property
    def pattern(self) -> Pattern:
        """The bound pattern of the heads."""
        return self.forms.pattern

    @property
    def visible(self) -> int:
        """Visible pairs of one head.

        Tensors of the batch are not known to the plan: documents count as one, and global tokens of
        an example as none.
        """
        return self.forms.numbers.visible

    @property
    def receptive_field(self) -> tuple[int, int]:
        """How far back and how far forward some query sees, in tokens."""
        return self.forms.numbers.receptive_field

    @property
    def row_tokens(self) -> tuple[int, ...]:
        """Positions of the global tokens known before the call.

        A part of its own computes their rows.
        """
        return self.forms.row_tokens

    @property
    def batch_rows(self) -> bool:
        """Whether the rows of each example's own global tokens are computed likewise."""
        return self.forms.batch_rows

    @property
    def parts(self) -> tuple[PlanPart, ...]:
        """The tile form: disjoint parts that together are the pattern."""
        return self.forms.tiles

    @property
    def fused(self) -> Fused:
        """The fused form."""
        return self.forms.fused

    def blocks(self, block: int) -> Blocks:
        """Return the block form, of a pattern that takes no tensors of the batch.

        Args:
            block: Queries, and keys, of a block.
        """
        return self.forms.blocks(block)

    @property
    def order(self) -> tuple[int, ...]:
        """Dilation of the token order of each part.

        Part `p` takes tokens by residue modulo `order[p]`.
        """
        return tuple(part.step for part in self.parts)

    @property
    def computed(self) -> int:
        """Pairs that the tiles compute, visible or not."""
        return sum(part.pairs for part in self.parts)


@dataclass(frozen=True, eq=False)
class Plan:
    """What a kernel has to compute for one layer.

    Attributes:
        pattern: The pattern the plan was made of.
        q_len: Number of queries.
        kv_len: Number of keys.
        q_offset: Position of query row 0.
        heads: Number of query heads.
        head_dim: Size of a head.
        groups: Heads that see the same pairs.
    """

    pattern: Pattern
    q_len: int
    kv_len: int
    q_offset: int
    heads: int
    head_dim: int
    groups: tuple[Group, ...]

    @cached_property
    def visible(self) -> int:
        """Visible pairs over all heads of one example, without those that need a batch's masks."""
        return sum(len(group.heads) * group.visible for group in self.groups)

    @cached_property
    def computed(self) -> int:
        """Pairs that the tiles compute over all heads of one example, visible or not."""
        return sum(len(group.heads) * group.computed for group in self.groups)

    @property
    def density(self) -> float:
        """Share of all pairs that is visible, 0 where there is no pair."""
        pairs = self.heads * self.q_len * self.kv_len
        return self.visible / pairs if pairs else 0.0

    @property
    def flops(self) -> int:
        """Floating-point operations of one example's forward pass on visible pairs.

        A pair takes part in two products.
        """
        return 4 * self.head_dim * self.visible

    @property
    def backward_flops(self) -> int:
        """Floating-point operations of the backward pass of one example on visible pairs.

        A pair takes part in five products, one of which the forward pass computed before.
        """
        return 10 * self.head_dim * self.visible

    def bytes(self, element_size: int = 4) -> int:
        """Bytes read and written by one example's forward pass.

        Every tile reads its queries, keys and values, and writes its output.

        Args:
            element_size: Bytes of an element.
        """
        elements = 0
        for group in self.groups:
            for part in group.parts:
                moved = sum(run.tiles * 2 * (run.rows + run.keys) for run in part.runs)
                elements += len(group.heads) * moved * self.head_dim
        return elements * element_size

    @property
    def tiles(self) -> int:
        """Number of tiles over all heads of one example."""
        return sum(
            len(group.heads) * run.tiles
            for group in self.groups
            for part in group.parts
            for run in part.runs
        )

    @property
    def receptive_field(self) -> tuple[int, int]:
        """The receptive field of the layer: how far back and forward some head sees, in tokens."""
        reaches = [group.receptive_field for group in self.groups]
        return max(back for back, _ in reaches), max(forward for _, forward in reaches)

    def __repr__(self) -> str:
        return (
            f"Plan({self.pattern!r}, q_len={self.q_len}, kv_len={self.kv_len}, "
            f"q_offset={self.q_offset}, heads={self.heads} in {len(self.groups)} groups, "
            f"tiles={self.tiles}, density={self.density:.4g}, flops={self.flops:.3g}, "
            f"receptive_field={self.receptive_field})"
        )


def plan(
    pattern: Pattern,
    q_len: int,
    kv_len: int | None = None,
    *,
    heads: int,
    head_dim: int = 64,
    layer: int = 0,
    layers: int = 1,
    q_offset: int | None = None,
) -> Plan:
    """Return the plan of a pattern for a shape, from the cache where it was made before.

    A plan holds the bound pattern of each group of heads; numbers and forms are computed when they
    are asked for, and kept. Time and memory then grow with the visible blocks; pairs of a `Rule`
    are evaluated one at a time wherever the rest of the pattern leaves some.

    Args:
        pattern: Any pattern.
        q_len: Number of queries.
        kv_len: Number of keys; `q_len` by default.
        heads: Number of query heads.
        head_dim: Size of a head, for FLOPs and bytes.
        layer: Layer of a pattern that varies over layers.
        layers: Number of layers of the model.
        q_offset: Position of query row 0; `kv_len - q_len` by default.

    Raises:
        TypeError: `pattern` is not a pattern, or a number is no int.
        ValueError: A number is not allowed, or the pattern does not fit the heads or layers.
    """
    check_pattern(pattern)
    q_len, kv_len, q_offset = check_lengths(q_len, kv_len, q_offset)
    integer("head_dim", head_dim, 1, LARGEST)
    integer("heads", heads, 1, LARGEST)
    check_layer(layer, layers)
    return _plan(pattern, q_len, kv_len, q_offset, heads, head_dim, layer, layers)


@lru_cache(maxsize=CACHE_SIZE)
def _plan(
    pattern: Pattern,
    q_len: int,
    kv_len: int,
    q_offset: int,
    heads: int,
    head_dim: int,
    layer: int,
    layers: int,
) -> Plan:
    members: dict[Pattern, list[int]] = {}
    for head, one in enumerate(bind(pattern, heads=heads, layer=layer, layers=layers)):
        members.setdefault(one, []).append(head)
    groups = tuple(
        Group(tuple(of_group), forms_of(bound, q_len, kv_len, q_offset))
        for bound, of_group in members.items()
    )
    return Plan(pattern, q_len, kv_len, q_offset, heads, head_dim, groups)
