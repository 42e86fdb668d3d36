"""Self-attention of the encoder: projections, those of global tokens apart, around a pattern.

Shapes: B batch, H heads, L tokens, D head_dim.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn

import sparse_patterns as sp

if TYPE_CHECKING:
    from lit_modules.nn.encoder_config import EncoderConfig

__all__ = ["EncoderSelfAttention", "Masks"]


class Masks(NamedTuple):
    """What is given with a batch, each (B, L) or None.

    Attributes:
        key_mask: bool, False for padding.
        global_mask: bool, True for global tokens.
        segment_ids: Integers; tokens of different segments do not see each other.
    """

    key_mask: Tensor | None = None
    global_mask: Tensor | None = None
    segment_ids: Tensor | None = None


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
        width = config.width
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))
        if self.global_projections:
            self.query_global, self.key_global, self.value_global = (
                nn.Linear(width, width) for _ in range(3)
            )

    def forward(self, x: Tensor, masks: Masks) -> Tensor:
        """Attend within each text, (B, L, width); the row of a padded token is zeros."""
        out = sp.attention(
            *self._heads(x, self.query, self.key, self.value),
            self.pattern_for(masks),
            layer=self.layer,
            layers=self.layers,
            key_mask=masks.key_mask,
            global_mask=masks.global_mask,
            global_qkv=self._global_heads(x),
            segment_ids=masks.segment_ids,
            dropout_p=self.dropout if self.training else 0.0,
            kernel=self.kernel,
        )
        assert isinstance(out, Tensor)
        return out.transpose(1, 2).flatten(2)

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
        if masks.segment_ids is None or sp.SameDocument() in self.pattern.walk():
            return self.pattern
        return self.pattern & sp.SameDocument()

    def scores_inputs(self, x: Tensor) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor] | None]:
        """Return queries and keys, and those of global rows where they are apart, (B, H, L, D)."""
        q, k, _ = self._heads(x, self.query, self.key, self.value)
        own = self._global_heads(x)
        return q, k, own[:2] if own is not None else None

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
