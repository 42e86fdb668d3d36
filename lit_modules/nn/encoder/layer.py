"""One layer of a post-LayerNorm transformer, its modules named as in Hugging Face's BERT."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor, nn

from lit_modules.nn.activations import ACTIVATIONS
from lit_modules.nn.encoder.attention import EncoderSelfAttention, Masks

if TYPE_CHECKING:
    from lit_modules.nn.encoder.config import EncoderConfig

__all__ = ["EncoderLayer"]


class AddAndNorm(nn.Module):
    """A projection, added to the residual stream; their sum is normalised."""

    def __init__(self, inputs: int, config: EncoderConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(inputs, config.width)
        self.LayerNorm = nn.LayerNorm(config.width, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, branch: Tensor, stream: Tensor) -> Tensor:
        """Return `(batch, length, width)`."""
        out: Tensor = self.LayerNorm(self.dropout(self.dense(branch)) + stream)
        return out


class AttentionBlock(nn.Module):
    """Self-attention, its output projection, residual and norm."""

    def __init__(self, config: EncoderConfig, layer: int, kernel: str) -> None:
        super().__init__()
        self.self = EncoderSelfAttention(config, layer, kernel)
        self.output = AddAndNorm(config.width, config)

    def forward(self, x: Tensor, masks: Masks) -> Tensor:
        """Return `(batch, length, width)`."""
        attended = self.self(
            x, masks.key_mask, masks.global_mask, masks.segment_ids, rows=masks.rows
        )
        out: Tensor = self.output(attended, x)
        return out


class Intermediate(nn.Module):
    """First projection and activation of the feed-forward."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        assert config.feedforward_width is not None
        self.dense = nn.Linear(config.width, config.feedforward_width)
        self.activation = ACTIVATIONS[config.activation]

    def forward(self, x: Tensor) -> Tensor:
        """Return `(batch, length, feedforward_width)`."""
        return self.activation(self.dense(x))


class EncoderLayer(nn.Module):
    """Attention and feed-forward, each added to the stream, which is normalised after either.

    Args:
        config: Sizes and pattern.
        layer: Which layer this is.
        kernel: Kernel of `sparse_patterns.attention`.
    """

    def __init__(self, config: EncoderConfig, layer: int, kernel: str) -> None:
        super().__init__()
        assert config.feedforward_width is not None
        self.attention = AttentionBlock(config, layer, kernel)
        self.intermediate = Intermediate(config)
        self.output = AddAndNorm(config.feedforward_width, config)

    def forward(self, x: Tensor, masks: Masks) -> Tensor:
        """Return `(batch, length, width)`."""
        x = self.attention(x, masks)
        out: Tensor = self.output(self.intermediate(x), x)
        return out
