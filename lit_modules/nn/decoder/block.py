"""One layer of a pre-LayerNorm transformer."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from lit_modules.nn.decoder.attention import KeysValues, SelfAttention
from lit_modules.nn.decoder.embeddings import Rotary

__all__ = ["Block", "FeedForward"]


class FeedForward(nn.Module):
    """Two projections with GELU between them.

    Args:
        width: Features of a token.
        hidden: Features between the projections.
    """

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.project_in = nn.Linear(width, hidden, bias=False)
        self.project_out = nn.Linear(hidden, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Transform each token independently, `(batch, length, width)`."""
        out: Tensor = self.project_out(F.gelu(self.project_in(x)))
        return out


class Block(nn.Module):
    """Attention and feed-forward, each on the normalised stream and added to it.

    Args:
        attention: The attention of this layer.
        width: Features of a token.
        feedforward_width: Features inside the feed-forward.
        dropout: Share of each branch's output that is dropped in training.
    """

    def __init__(
        self, attention: SelfAttention, width: int, feedforward_width: int, dropout: float
    ) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(width)
        self.attention = attention
        self.feedforward_norm = nn.LayerNorm(width)
        self.feedforward = FeedForward(width, feedforward_width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, rotary: Rotary | None, **given: Any) -> tuple[Tensor, KeysValues]:
        """Apply the layer to `(batch, length, width)`; `given` goes to the attention.

        Returns:
            The stream `(batch, length, width)`, and the keys and values of the attention.
        """
        out, kept = self.attention(self.attention_norm(x), rotary, **given)
        x = x + self.dropout(out)
        return x + self.dropout(self.feedforward(self.feedforward_norm(x))), kept
