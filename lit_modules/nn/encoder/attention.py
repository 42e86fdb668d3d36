"""Self-attention of the encoder: projections, those of global tokens apart, around a pattern.

Shapes: B batch, H heads, L tokens, D head_dim.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn

import sparse_patterns as sp
from lit_modules.nn.encoder.global_rows import GlobalRows, find, global_rows, without_rows

if TYPE_CHECKING:
    from lit_modules.nn.encoder.config import EncoderConfig

__all__ = ["EncoderSelfAttention", "Masks"]


class Masks(NamedTuple):
    """What is given with a batch, each (B, L) or None.

    Attributes:
        key_mask: bool, False for padding.
        global_mask: bool, True for global tokens.
        segment_ids: Integers; tokens of different segments do not see each other.
        rows: Where the global tokens are, found once for all layers; None where no one looked.
    """

    key_mask: Tensor | None = None
    global_mask: Tensor | None = None
    segment_ids: Tensor | None = None
    rows: GlobalRows | None = None


class EncoderSelfAttention(nn.Module):
    """Query, key and value projections by Hugging Face's names.

    Args:
        config: Sizes and pattern.
        layer: Which layer this is.
        kernel: Kernel of `sparse_patterns.attention`.
    """

    def __init__(self, config: EncoderConfig, layer: int, kernel: str = "auto") -> None:
        super().__init__()
        self.heads, self.head_dim = config.heads, config.width // config.heads
        self.pattern, self.layer, self.layers = config.spec, layer, config.layers
        self.dropout, self.kernel = config.attention_dropout, kernel
        self.global_projections = config.global_projections
        # What local rows see, where rows of few global tokens can be computed apart.
        self._columns = without_rows(config.spec) if self.global_projections else None
        width = config.width
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))
        if self.global_projections:
            self.query_global, self.key_global, self.value_global = (
                nn.Linear(width, width) for _ in range(3)
            )

    def forward(self, x: Tensor, masks: Masks) -> Tensor:
        """Attend within each text, (B, L, width); the row of a padded token is zeros."""
        rows = self._few_rows(x, masks)
        if rows is None:
            return self._attend(x, masks, self.pattern, self._global_heads(x))
        assert self._columns is not None
        out = self._attend(x, masks, self._columns, None)
        own = global_rows(
            x,
            rows,
            (self.query_global, self.key_global, self.value_global),
            heads=self.heads,
            key_mask=masks.key_mask,
            segment_ids=masks.segment_ids,
            dropout_p=self.dropout if self.training else 0.0,
        )
        example, row = rows.real.nonzero(as_tuple=True)
        return out.index_put((example, rows.index[example, row]), own[example, row].to(out.dtype))

    @torch.no_grad()
    def copy_to_global_projections(self) -> None:
        """Copy query, key and value to the global projections, which stay independent.

        Raises:
            ValueError: There are no global projections.
        """
        if not self.global_projections:
            raise ValueError("the encoder has no global projections: global_projections=False")
        for name in ("query", "key", "value"):
            source, target = self.get_submodule(name), self.get_submodule(f"{name}_global")
            for parameter in ("weight", "bias"):
                target.get_parameter(parameter).copy_(source.get_parameter(parameter))

    def pattern_for(self, masks: Masks) -> sp.Pattern:
        """Return the pattern, within the segments where a batch has some."""
        return _within_segments(self.pattern, masks)

    def scores_inputs(self, x: Tensor) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor] | None]:
        """Return queries and keys, and those of global rows where they are apart, (B, H, L, D)."""
        q, k, _ = self._heads(x, self.query, self.key, self.value)
        own = self._global_heads(x)
        return q, k, own[:2] if own is not None else None

    def _attend(
        self,
        x: Tensor,
        masks: Masks,
        pattern: sp.Pattern,
        global_qkv: tuple[Tensor, Tensor, Tensor] | None,
    ) -> Tensor:
        out = sp.attention(
            *self._heads(x, self.query, self.key, self.value),
            _within_segments(pattern, masks),
            layer=self.layer,
            layers=self.layers,
            key_mask=masks.key_mask,
            global_mask=masks.global_mask,
            global_qkv=global_qkv,
            segment_ids=masks.segment_ids,
            dropout_p=self.dropout if self.training else 0.0,
            kernel=self.kernel,
        )
        assert isinstance(out, Tensor)
        return out.transpose(1, 2).flatten(2)

    def _few_rows(self, x: Tensor, masks: Masks) -> GlobalRows | None:
        """Return the rows of global tokens where so few are cheaper by themselves."""
        if self._columns is None or torch.compiler.is_compiling():
            return None
        rows = masks.rows or find(masks.global_mask, masks.key_mask, x)
        return rows if rows.index.shape[1] <= self.head_dim // 2 else None

    def _heads(
        self, x: Tensor, query: nn.Linear, key: nn.Linear, value: nn.Linear
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Project to (B, H, L, D)."""
        q, k, v = (
            projection(x).unflatten(2, (-1, self.head_dim)).transpose(1, 2)
            for projection in (query, key, value)
        )
        return q, k, v

    def _global_heads(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor] | None:
        if not self.global_projections:
            return None
        return self._heads(x, self.query_global, self.key_global, self.value_global)


def _within_segments(pattern: sp.Pattern, masks: Masks) -> sp.Pattern:
    if masks.segment_ids is None or sp.SameDocument() in pattern.walk():
        return pattern
    return pattern & sp.SameDocument()
