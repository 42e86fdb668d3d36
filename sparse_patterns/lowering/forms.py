"""One head's bound pattern for one shape: its numbers, and the forms that kernels ask of it.

Nothing is computed before it is asked for, and everything is kept. Layers and heads whose bound
patterns are equal share one object.
"""

from __future__ import annotations

from functools import cached_property, lru_cache

import torch

from sparse_patterns.lowering.blocks.table import Blocks, blocks
from sparse_patterns.lowering.fused.lower import Fused, lower_fused
from sparse_patterns.lowering.normal_form import (
    Conjunct,
    has_batch_rows,
    row_tokens,
    to_conjuncts,
)
from sparse_patterns.lowering.numbers import Numbers, count_pairs, pairs_at_most
from sparse_patterns.lowering.tiles.count import count_tiles
from sparse_patterns.lowering.tiles.lower import lower
from sparse_patterns.lowering.tiles.runs import PlanPart
from sparse_patterns.spec.algebra import takes_example_tensors
from sparse_patterns.spec.base import Pattern

CACHE_SIZE = 256
"""Forms kept; the one not used for longest goes first."""


class Forms:
    """The forms of one bound pattern for one shape.

    Attributes:
        pattern: The bound pattern (see `spec.binding.bind`).
        q_len: Number of queries.
        kv_len: Number of keys.
        q_offset: Position of query row 0.
    """

    def __init__(self, pattern: Pattern, q_len: int, kv_len: int, q_offset: int) -> None:
        self.pattern = pattern
        self.q_len = q_len
        self.kv_len = kv_len
        self.q_offset = q_offset
        self._blocks: dict[int, Blocks] = {}

    @cached_property
    def conjuncts(self) -> tuple[Conjunct, ...]:
        """The normal form of the pattern."""
        return tuple(to_conjuncts(self.pattern))

    @cached_property
    def row_tokens(self) -> tuple[int, ...]:
        """Positions of the global tokens known before the call.

        A part of its own computes their rows.
        """
        return row_tokens(self.pattern, self.kv_len)

    @cached_property
    def batch_rows(self) -> bool:
        """Whether the rows of each example's own global tokens are named too."""
        return has_batch_rows(self.pattern)

    @cached_property
    def takes_example_tensors(self) -> bool:
        """Whether what is visible depends on tensors of the batch besides padding."""
        return takes_example_tensors(self.pattern)

    @cached_property
    @torch.no_grad()
    def numbers(self) -> Numbers:
        """Visible pairs and receptive field; see `numbers.count_pairs` for what is not known."""
        shape = (self.q_len, self.kv_len, self.q_offset)
        counted = count_pairs(self.pattern, self.conjuncts, *shape)
        return count_tiles(self.tiles, *shape) if counted is None else counted

    @cached_property
    @torch.no_grad()
    def pairs_at_most(self) -> int:
        """An upper bound on the visible pairs, from the normal form alone."""
        return pairs_at_most(self.conjuncts, self.q_len, self.kv_len, self.q_offset)

    @cached_property
    @torch.no_grad()
    def tiles(self) -> tuple[PlanPart, ...]:
        """The tile form: disjoint parts that together are the pattern (see `tiles.lower`)."""
        return lower(self.pattern, self.q_len, self.kv_len, self.q_offset)

    @cached_property
    def fused(self) -> Fused:
        """The fused form: partial attentions for library operators (see `fused.lower`)."""
        return lower_fused(self.pattern, self.q_len, self.kv_len)

    def blocks(self, block: int) -> Blocks:
        """Return the block form, for a pattern that takes no tensors of the batch.

        Args:
            block: Queries, and keys, of a block.
        """
        assert not self.takes_example_tensors
        if block not in self._blocks:
            shape = (self.q_len, self.kv_len, self.q_offset)
            self._blocks[block] = blocks(self.pattern, *shape, block)
        return self._blocks[block]


@lru_cache(maxsize=CACHE_SIZE)
def forms_of(pattern: Pattern, q_len: int, kv_len: int, q_offset: int) -> Forms:
    """Return the forms of a bound pattern for a shape: the same object for equal arguments."""
    return Forms(pattern, q_len, kv_len, q_offset)
