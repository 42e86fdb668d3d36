"""The encoder's input: token, position and type vectors, normalised."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from sparse_patterns.nn.documents import positions_in

if TYPE_CHECKING:
    from lit_modules.nn.encoder.config import EncoderConfig

__all__ = ["Embeddings"]


class Embeddings(nn.Module):
    """Sum of the three tables, LayerNorm, dropout; names are those of Hugging Face.

    Args:
        config: Sizes, and how positions are numbered.
    """

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.config = config
        width, pad = config.width, config.pad_id
        self.word_embeddings = nn.Embedding(config.vocabulary_size, width, padding_idx=pad)
        # Padding has a position of its own where numbers start after it, which does not train.
        row = pad if config.special_positions else None
        self.position_embeddings = nn.Embedding(config.positions, width, padding_idx=row)
        self.token_type_embeddings = nn.Embedding(config.token_types, width)
        self.LayerNorm = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.dropout)

    def forward(
        self,
        input_ids: Tensor,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        segment_ids: Tensor | None = None,
    ) -> Tensor:
        """Return `(batch, length, width)`; positions start over with each segment.

        Raises:
            ValueError: An id is beyond its table.
        """
        _check_ids("input_ids", input_ids, self.config.vocabulary_size, "the vocabulary")
        if position_ids is None:
            position_ids = self.positions_of(input_ids, segment_ids)
            self.check_length(position_ids)
        else:
            _check_ids("position_ids", position_ids, self.config.positions, "the position table")
        if token_type_ids is None:
            types = self.token_type_embeddings.weight[0]
        else:
            _check_ids("token_type_ids", token_type_ids, self.config.token_types, "its table")
            types = self.token_type_embeddings(token_type_ids)
        x = self.word_embeddings(input_ids) + self.position_embeddings(position_ids) + types
        out: Tensor = self.dropout(self.LayerNorm(x))
        return out

    def positions_of(self, input_ids: Tensor, segment_ids: Tensor | None = None) -> Tensor:
        """Return the row of the position table of each token.

        BERT counts all tokens from 0. RoBERTa and Longformer count those that are not padding,
        from `pad_id + 1`, and give `pad_id` to padding wherever it is. In each segment they start
        over.
        """
        special, pad = self.config.special_positions, self.config.pad_id
        real = input_ids.ne(pad)
        if segment_ids is not None:
            places = positions_in(segment_ids, real if special else None)
            return (places + 1) * real + pad if special else places
        if not special:
            return torch.arange(input_ids.shape[1], device=input_ids.device).expand_as(input_ids)
        return real.long().cumsum(1) * real + pad

    def check_length(self, position_ids: Tensor) -> None:
        """Refuse a text that is longer than the position table.

        Raises:
            ValueError: It is longer.
        """
        if torch.compiler.is_compiling() or position_ids.numel() == 0:
            return
        longest = int(position_ids.max()) + 1 - self.config.special_positions
        if longest > self.config.max_length:
            raise ValueError(
                f"text of {longest} tokens is longer than the position table, which holds "
                f"{self.config.max_length}; cut it, or lengthen the table with make_long"
            )


def _check_ids(name: str, ids: Tensor, size: int, table: str) -> None:
    """Refuse ids beyond a table, for which a GPU would only report an assertion."""
    if torch.compiler.is_compiling() or ids.numel() == 0:
        return
    low, high = (int(value) for value in torch.aminmax(ids))
    if low < 0 or high >= size:
        raise ValueError(
            f"{name} must be in 0..{size - 1}, the rows of {table}, got {low if low < 0 else high}"
        )
