"""A vector for a span of words, and its score as a mention."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lit_modules.nn.coref.features import feedforward

__all__ = ["MentionScorer", "SpanVectors"]


class SpanVectors(nn.Module):
    """First piece, last piece, attention over all pieces, and a vector for the number of words.

    Args:
        width: Features of a piece.
        features: Features of the vector for the number of words.
        longest: Words of the longest span.
        dropout: Share of the result that is dropped in training.

    Attributes:
        width: Features of a span, F.
    """

    def __init__(self, width: int, features: int, longest: int, dropout: float) -> None:
        super().__init__()
        self.attention = nn.Linear(width, 1)
        self.lengths = nn.Embedding(longest, features)
        self.dropout = nn.Dropout(dropout)
        self.width = 3 * width + features

    def forward(self, pieces: Tensor, bounds: Tensor, words: Tensor) -> Tensor:
        """Return (S, F).

        Args:
            pieces: (P, width), the encoder's tokens of the document in order.
            bounds: int64 (S, 2), first and last piece of each span; in order of first pieces.
            words: int64 (S,), words of each span.
        """
        starts, ends = bounds.unbind(1)
        # Only the pieces around these spans are used: consecutive spans are close together.
        low = int(starts.min()) if len(bounds) else 0
        high = int(ends.max()) + 1 if len(bounds) else 0
        near = pieces[low:high]
        at = torch.arange(low, high, device=pieces.device)
        inside = (at >= starts[:, None]) & (at <= ends[:, None])
        weights = self.attention(near).squeeze(-1).expand(len(bounds), -1)
        weights = weights.masked_fill(~inside, -torch.inf).softmax(1)
        parts = (pieces[starts], pieces[ends], weights @ near, self.lengths(words - 1))
        out: Tensor = self.dropout(torch.cat(parts, dim=1))
        return out


class MentionScorer(nn.Module):
    """How likely a span is a mention: a score from its vector and one from its number of words.

    Args:
        width: Features of a span.
        inner: Features inside the feed-forward.
        features: Features of the vector for the number of words.
        longest: Words of the longest span.
        dropout: Share of features that is dropped in training.
    """

    def __init__(self, width: int, inner: int, features: int, longest: int, dropout: float) -> None:
        super().__init__()
        self.score = feedforward(width, inner, dropout)
        self.lengths = nn.Embedding(longest, features)
        self.length_score = feedforward(features, inner, dropout)

    def forward(self, spans: Tensor, words: Tensor) -> Tensor:
        """Return (S,) for span vectors (S, F) of `words` (S,) words each."""
        prior = self.length_score(self.lengths.weight).squeeze(-1)
        out: Tensor = self.score(spans).squeeze(-1) + prior[words - 1]
        return out
