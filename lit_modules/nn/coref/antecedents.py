"""Which earlier span a span refers to: a cheap score prunes, a better one ranks."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from lit_modules.nn.coref.features import BUCKETS, buckets
from lit_modules.nn.coref.parts import in_parts

__all__ = ["Antecedents", "CoarseScorer", "FineScorer", "Refinement"]


class Antecedents(NamedTuple):
    """The antecedents that the coarse score keeps for each kept span.

    Attributes:
        spans: int64 (K, A), kept spans; 0 where there are fewer.
        mask: bool (K, A), which of them are real.
        scores: (K, A), the coarse scores; minus infinity where there are fewer.
    """

    spans: Tensor
    mask: Tensor
    scores: Tensor


class CoarseScorer(nn.Module):
    """Mention scores, a bilinear form, and the number of spans between (Lee et al. 2018).

    Args:
        width: Features of a span.
        features: Features of the vector for the distance.
        dropout: Share of span features that is dropped in training.
    """

    def __init__(self, width: int, features: int, dropout: float) -> None:
        super().__init__()
        self.bilinear = nn.Linear(width, width, bias=False)
        self.distances = nn.Embedding(BUCKETS, features)
        self.distance_score = nn.Linear(features, 1)
        self.dropout = nn.Dropout(dropout)

    def forward(self, spans: Tensor, mentions: Tensor, most: int) -> Antecedents:
        """Return the `most` best antecedents of each span.

        Args:
            spans: (K, F), in order of the text.
            mentions: (K,), their scores as mentions.
            most: Antecedents kept for a span.
        """
        kept = len(spans)
        order = torch.arange(kept, device=spans.device)
        offset = order[:, None] - order
        prior = self.distance_score(self.distances.weight).squeeze(-1)
        scores = self.bilinear(self.dropout(spans)) @ self.dropout(spans).T
        scores = scores + mentions[:, None] + mentions + prior[buckets(offset.clamp(min=0))]
        scores = scores.masked_fill(offset <= 0, -torch.inf)
        best, index = scores.topk(min(most, kept), dim=1)
        mask = best > -torch.inf
        return Antecedents(index.masked_fill(~mask, 0), mask, best)


class FineScorer(nn.Module):
    """A feed-forward score of two spans, their product, and features of the pair.

    Its first layer is applied to each part separately, and to each span rather than to each
    pair, so that only the product needs memory for all pairs.

    Args:
        width: Features of a span.
        inner: Features inside.
        features: Features of the vector for each property of a pair.
        genres: Number of genres, the unknown one included.
        dropout: Share of features that is dropped in training.
        rows: Spans whose pairs are computed together.
    """

    def __init__(
        self, width: int, inner: int, features: int, genres: int, dropout: float, rows: int
    ) -> None:
        super().__init__()
        self.of_span = nn.Linear(width, inner)
        self.of_antecedent = nn.Linear(width, inner, bias=False)
        self.of_product = nn.Linear(width, inner, bias=False)
        # Unknown, different, the same.
        self.speakers = nn.Embedding(3, features)
        self.genres = nn.Embedding(genres, features)
        self.distances = nn.Embedding(BUCKETS, features)
        self.of_features = nn.Linear(3 * features, inner, bias=False)
        self.out = nn.Linear(inner, 1)
        self.dropout = nn.Dropout(dropout)
        self.rows = rows

    def forward(
        self, spans: Tensor, antecedents: Antecedents, speakers: Tensor, genre: Tensor
    ) -> Tensor:
        """Return (K, A), the coarse scores included; minus infinity where there is no antecedent.

        Args:
            spans: (K, F).
            antecedents: Those kept for each span.
            speakers: int64 (K,), 0 where unknown.
            genre: int64 (), 0 where unknown.
        """
        index = antecedents.spans
        one, other = self.of_span(spans), self.of_antecedent(spans)
        offset = torch.arange(len(spans), device=spans.device)[:, None] - index
        theirs = speakers[index]
        known = (speakers[:, None] > 0) & (theirs > 0)
        spoken = torch.where(known, 1 + (theirs == speakers[:, None]).long(), 0)
        near = buckets(offset.clamp(min=0))

        def scores(part: slice) -> Tensor:
            at = index[part]
            product = self.of_product(spans[part, None] * spans[at])
            properties = (
                self.speakers(spoken[part]),
                self.genres(genre.expand_as(at)),
                self.distances(near[part]),
            )
            pair = self.of_features(self.dropout(torch.cat(properties, dim=2)))
            hidden = torch.relu(one[part, None] + other[at] + product + pair)
            out: Tensor = self.out(self.dropout(hidden)).squeeze(-1)
            return out

        return in_parts(scores, len(spans), self.rows) + antecedents.scores


class Refinement(nn.Module):
    """Mixes each span with its expected antecedent by a gate (Lee et al. 2018).

    Args:
        width: Features of a span.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gate = nn.Linear(2 * width, width)

    def forward(self, spans: Tensor, antecedents: Antecedents, scores: Tensor) -> Tensor:
        """Return refined spans (K, F) for `scores` (K, A); without antecedent a span stays."""
        shares = torch.cat((scores.new_zeros(len(spans), 1), scores), dim=1).softmax(1)
        expected = shares[:, :1] * spans
        # One antecedent of every span at a time: all together would need A times the memory.
        for column in range(scores.shape[1]):
            share = shares[:, column + 1 : column + 2]
            expected = expected + share * spans[antecedents.spans[:, column]]
        gate = torch.sigmoid(self.gate(torch.cat((spans, expected), dim=1)))
        return gate * spans + (1 - gate) * expected
