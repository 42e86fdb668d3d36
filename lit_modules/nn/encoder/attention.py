"""Self-attention of the encoder, with the parameter names of Hugging Face's BERT and Longformer."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn

import sparse_patterns as sp
from lit_modules.nn.encoder.global_rows import GlobalRows, find, global_rows, without_rows
from sparse_patterns.distributed.context.split import current_split
from sparse_patterns.nn.documents import attend_documents

if TYPE_CHECKING:
    from lit_modules.nn.encoder.config import EncoderConfig

__all__ = ["EncoderSelfAttention", "Masks"]


class Masks(NamedTuple):
    """What is given with a batch, each `(batch, length)` or None.

    Attributes:
        key_mask: bool, False for padding.
        global_mask: bool, True for global tokens.
        segment_ids: Integers; tokens of different segments do not see each other.
        rows: Positions of the global tokens, found once for all layers; None if not yet found.
    """

    key_mask: Tensor | None = None
    global_mask: Tensor | None = None
    segment_ids: Tensor | None = None
    rows: GlobalRows | None = None


class EncoderSelfAttention(sp.SparseSelfAttention):
    """Self-attention without the output projection, which the layer adds with its residual.

    Differs from `SparseSelfAttention` in two ways: `segment_ids` always separate segments, each
    with positions of its own, whatever the pattern is, and the rows of few global tokens with
    projections of their own are computed without projecting every key and value for them; see
    `global_rows`.

    Args:
        config: Sizes and pattern.
        layer: Which layer this is.
        kernel: Kernel of `sparse_patterns.attention`.
    """

    def __init__(self, config: EncoderConfig, layer: int, kernel: str = "auto") -> None:
        super().__init__(
            config.width,
            config.heads,
            config.spec,
            layer=layer,
            layers=config.layers,
            dropout=config.attention_dropout,
            global_projections=config.global_projections,
            output_projection=False,
            kernel=kernel,
        )
        # The pattern without the rows of global tokens; None where it has other global rows.
        self._columns = without_rows(config.spec) if self.global_projections else None

    def forward(
        self,
        x: Tensor,
        key_mask: Tensor | None = None,
        global_mask: Tensor | None = None,
        segment_ids: Tensor | None = None,
        cache: sp.KeyValueCache | None = None,
        *,
        rows: GlobalRows | None = None,
    ) -> Tensor:
        """Attend within each text.

        Args:
            x: `(batch, length, width)`.
            key_mask: bool `(batch, length)`, True for a real token.
            global_mask: bool `(batch, length)`, True for a global token, for `BatchGlobal()`.
            segment_ids: Integers `(batch, length)`; other segments are not seen.
            cache: See `SparseSelfAttention`.
            rows: Positions of the global tokens, from `find`; found here if None.

        Returns:
            `(batch, length, width)`; a query that sees no key, such as padding, gives zeros.

        Raises:
            ValueError: As `SparseSelfAttention.forward`.
        """
        if cache is not None:
            return super().forward(x, key_mask, global_mask, segment_ids, cache)
        self._check_input(x)
        masks = (key_mask, global_mask, segment_ids)
        rows = self._few_rows(x, rows, key_mask, global_mask)
        # Projected before the others: the order of the sums in the gradient of x follows it.
        global_qkv = self._global_heads(x) if rows is None else None
        qkv = self._heads(x, self.query, self.key, self.value)
        if rows is None:
            return self._attend(qkv, self.pattern, global_qkv, *masks)
        assert self._columns is not None
        out = self._attend(qkv, self._columns, None, *masks)
        own = global_rows(
            x,
            rows,
            (self.query_global, self.key_global, self.value_global),
            heads=self.num_heads,
            key_mask=key_mask,
            segment_ids=segment_ids,
            dropout_p=self.dropout if self.training else 0.0,
        )
        example, row = rows.real.nonzero(as_tuple=True)
        return out.index_put((example, rows.index[example, row]), own[example, row].to(out.dtype))

    def _attend(
        self,
        qkv: tuple[Tensor, Tensor, Tensor],
        pattern: sp.Pattern,
        global_qkv: tuple[Tensor, Tensor, Tensor] | None,
        key_mask: Tensor | None,
        global_mask: Tensor | None,
        segment_ids: Tensor | None,
    ) -> Tensor:
        if segment_ids is None:
            return super()._attend(qkv, pattern, global_qkv, key_mask, global_mask, None)
        return self._join(
            attend_documents(
                *qkv,
                pattern,
                segment_ids,
                layer=self.layer,
                layers=self.layers,
                key_mask=key_mask,
                global_mask=global_mask,
                global_qkv=global_qkv,
                dropout_p=self.dropout if self.training else 0.0,
                kernel=self.kernel,
            )
        )

    def pattern_for(self, segment_ids: Tensor | None) -> sp.Pattern:
        """Return the pattern, within segments where a batch has some."""
        return _within_segments(self.pattern, segment_ids)

    def scores_inputs(self, x: Tensor) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor] | None]:
        """Return queries and keys, and those of global rows if projected separately.

        Each is `(batch, heads, length, head_dim)`.
        """
        q, k, _ = self._heads(x, self.query, self.key, self.value)
        own = self._global_heads(x)
        return q, k, own[:2] if own is not None else None

    def _few_rows(
        self,
        x: Tensor,
        rows: GlobalRows | None,
        key_mask: Tensor | None,
        global_mask: Tensor | None,
    ) -> GlobalRows | None:
        """Return the rows of global tokens if they are few enough to be cheaper separately."""
        if self._columns is None or torch.compiler.is_compiling() or self._adapted():
            return None
        if current_split() is not None:  # They need every token of the sequence.
            return None
        rows = rows or find(global_mask, key_mask, x)
        return rows if rows.index.shape[1] <= self.head_dim // 2 else None

    def _adapted(self) -> bool:
        """Return whether a global projection does more than multiply by its weight (as LoRA)."""
        used = (self.query_global, self.key_global, self.value_global)
        return any(type(module).forward is not nn.Linear.forward for module in used)


def _within_segments(pattern: sp.Pattern, segment_ids: Tensor | None) -> sp.Pattern:
    if segment_ids is None or sp.SameDocument() in pattern.walk():
        return pattern
    return pattern & sp.SameDocument()
