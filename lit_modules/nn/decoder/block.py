"""One layer of a transformer, with normalisation before or after each branch."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from lit_modules.nn.activations import ACTIVATIONS
from lit_modules.nn.decoder.attention import KeysValues, Positions, SelfAttention

__all__ = ["Block", "FeedForward"]


class FeedForward(nn.Module):
    """Two projections with an activation between them.

    Args:
        width: Features of a token.
        hidden: Features between the projections.
        activation: Name of the activation, see `lit_modules.nn.activations`.
        biases: Whether the projections have biases.
        dropout: Share of the features between the projections that is dropped in training.
    """

    def __init__(
        self,
        width: int,
        hidden: int,
        activation: str = "gelu",
        biases: bool = False,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.project_in = nn.Linear(width, hidden, bias=biases)
        self.project_out = nn.Linear(hidden, width, bias=biases)
        self.activation = ACTIVATIONS[activation]
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """Transform each token independently, `(batch, length, width)`."""
        hidden = self.dropout(self.activation(self.project_in(x)))
        out: Tensor = self.project_out(hidden)
        return out


class Block(nn.Module):
    """Attention and feed-forward, each added to the stream of tokens.

    Args:
        attention: The attention of this layer.
        feedforward: The feed-forward of this layer.
        width: Features of a token.
        dropout: Share of each branch's output that is dropped in training.
        post_norm: Whether the stream is normalised after each addition, as in Transformer-XL,
            instead of on its way into each branch.
    """

    def __init__(
        self,
        attention: SelfAttention,
        feedforward: FeedForward,
        width: int,
        dropout: float,
        *,
        post_norm: bool = False,
    ) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(width)
        self.attention = attention
        self.feedforward_norm = nn.LayerNorm(width)
        self.feedforward = feedforward
        self.dropout = nn.Dropout(dropout)
        self.post_norm = post_norm

    def forward(
        self,
        x: Tensor,
        positions: Positions,
        memory: Tensor | KeysValues | None = None,
        **given: Any,
    ) -> tuple[Tensor, KeysValues]:
        """Apply the layer to `(batch, length, width)`.

        Args:
            x: The stream.
            positions: Goes to the attention.
            memory: What came into this layer for earlier tokens, `(batch, tokens, width)`, or keys
                and values of them.
            **given: Goes to the attention.

        Returns:
            The stream `(batch, length, width)`, and the keys and values of the attention.
        """
        if self.post_norm:
            out, kept = self.attention(x, positions, memory=memory, **given)
            x = self.attention_norm(x + self.dropout(out))
            return self.feedforward_norm(x + self.dropout(self.feedforward(x))), kept
        if isinstance(memory, torch.Tensor):
            memory = self.attention_norm(memory)
        out, kept = self.attention(self.attention_norm(x), positions, memory=memory, **given)
        x = x + self.dropout(out)
        return x + self.dropout(self.feedforward(self.feedforward_norm(x))), kept
