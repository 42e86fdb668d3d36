"""The mention-ranking head: from the pieces of a document to scores of antecedents."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from lit_modules.nn.coref.antecedents import CoarseScorer, FineScorer, Refinement
from lit_modules.nn.coref.candidates import candidate_spans, keep_best
from lit_modules.nn.coref.parts import in_parts
from lit_modules.nn.coref.spans import MentionScorer, SpanVectors

__all__ = ["MentionRanker", "Ranking", "RankingSettings"]


@dataclass(frozen=True)
class RankingSettings:
    """Sizes of the head; memory grows with them and not with the number of candidate spans.

    Args:
        longest_span: Words of the longest mention.
        spans_per_word: Spans that are kept, per word of the document.
        most_spans: Spans that are kept at most, whatever the length.
        antecedents: Antecedents kept for each span after the coarse score. A right one that is not
            kept gets no gradient; Lee et al. keep 50, which lost a cluster of a document that was
            learned by heart, where 100 lost none.
        depth: How often spans are scored; between two times each is updated from its expected
            antecedent.
        inner: Features inside the feed-forward parts.
        features: Features of the vector for each property of a span or a pair.
        dropout: Share of features of the head that is dropped in training.
        span_part: Candidate spans that are computed together.
        pair_part: Spans whose pairs are computed together.
    """

    longest_span: int = 30
    spans_per_word: float = 0.4
    most_spans: int = 2000
    antecedents: int = 100
    depth: int = 2
    inner: int = 1000
    features: int = 20
    dropout: float = 0.3
    span_part: int = 2048
    pair_part: int = 128

    def __post_init__(self) -> None:
        """Check the values."""
        least = {"spans_per_word": 0.0, "dropout": 0.0}
        for name, value in vars(self).items():
            if name in least:
                if not value >= 0 or (name == "dropout" and value >= 1):
                    raise ValueError(f"ranking {name} must be in range, got {value!r}")
            elif isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"ranking {name} must be an int >= 1, got {value!r}")


class Ranking(NamedTuple):
    """The output of the head for a document.

    Attributes:
        spans: int64 (K, 2), first and last word of the kept spans, in order.
        mentions: (K,), their scores as mentions.
        antecedents: int64 (K, A), the kept spans that each may refer to.
        mask: bool (K, A), which of them are real.
        scores: (K, A); "refers to none" has score 0, what is not real minus infinity.
        wanted: Scores as mentions of the spans that were asked for, kept or not; none by default.
    """

    spans: Tensor
    mentions: Tensor
    antecedents: Tensor
    mask: Tensor
    scores: Tensor
    wanted: Tensor | None = None


class MentionRanker(nn.Module):
    """Scores spans as mentions, keeps the best, and ranks the antecedents of each.

    Args:
        width: Features of a piece.
        genres: Number of genres, the unknown one included.
        settings: Sizes.
    """

    def __init__(self, width: int, genres: int, settings: RankingSettings) -> None:
        super().__init__()
        s = self.settings = settings
        self.vectors = SpanVectors(width, s.features, s.longest_span, s.dropout)
        spans = self.vectors.width
        self.mentions = MentionScorer(spans, s.inner, s.features, s.longest_span, s.dropout)
        self.coarse = CoarseScorer(spans, s.features, s.dropout)
        self.fine = FineScorer(spans, s.inner, s.features, genres, s.dropout, s.pair_part)
        self.refinement = Refinement(spans) if s.depth > 1 else None

    def forward(
        self,
        pieces: Tensor,
        words: Tensor,
        sentences: Tensor,
        speakers: Tensor,
        genre: Tensor,
        wanted: Tensor | None = None,
    ) -> Ranking:
        """Rank one document.

        Args:
            pieces: (P, width), the encoder's tokens of the document in order.
            words: int64 (P,), the word of each piece, in ascending order.
            sentences: int64 (W,), the sentence of each word.
            speakers: int64 (W,), the speaker of each word; 0 where unknown.
            genre: int64 (), 0 where unknown.
            wanted: int64 (M, 2), spans whose scores as mentions are returned in any case; those
                that are longer than the settings allow are left out.

        Raises:
            ValueError: A word has no piece.
        """
        s = self.settings
        bounds = _piece_bounds(words, len(sentences))
        candidates = candidate_spans(sentences, s.longest_span)
        # Which spans are kept has no gradient; their scores have, below.
        with torch.no_grad():
            scores = in_parts(
                lambda part: self.mentions(*self._vectors(pieces, bounds, candidates[part])),
                len(candidates),
                s.span_part,
            )
        count = min(s.most_spans, int(s.spans_per_word * len(sentences)))
        kept = candidates[keep_best(candidates, scores, max(count, 1))]
        vectors = in_parts(
            lambda part: self._vectors(pieces, bounds, kept[part])[0], len(kept), s.pair_part
        )
        mentions = self.mentions(vectors, kept[:, 1] - kept[:, 0] + 1)
        left = self.coarse(vectors, mentions, s.antecedents)
        spoken = speakers[kept[:, 0]]
        ranked = self.fine(vectors, left, spoken, genre)
        for _ in range(s.depth - 1):
            assert self.refinement is not None
            vectors = self.refinement(vectors, left, ranked)
            ranked = self.fine(vectors, left, spoken, genre)
        return Ranking(
            kept,
            mentions,
            left.spans,
            left.mask,
            ranked,
            None if wanted is None else self._scores(pieces, bounds, wanted),
        )

    def _scores(self, pieces: Tensor, bounds: Tensor, spans: Tensor) -> Tensor:
        short = spans[spans[:, 1] - spans[:, 0] < self.settings.longest_span]
        return self.mentions(*self._vectors(pieces, bounds, short))

    def _vectors(self, pieces: Tensor, bounds: Tensor, spans: Tensor) -> tuple[Tensor, Tensor]:
        """Return vectors (S, F) and numbers of words (S,) of spans (S, 2) of words."""
        words = spans[:, 1] - spans[:, 0] + 1
        at = torch.stack((bounds[spans[:, 0], 0], bounds[spans[:, 1], 1]), dim=1)
        return self.vectors(pieces, at, words), words


def _piece_bounds(words: Tensor, count: int) -> Tensor:
    """Return first and last piece of each word, int64 (W, 2)."""
    pieces = torch.bincount(words, minlength=count)
    if len(pieces) != count or bool((pieces == 0).any()) or bool((words.diff() < 0).any()):
        raise ValueError(
            f"every one of the {count} words needs a piece, in order; "
            f"words has {len(words)} pieces of {words.unique().numel()} words"
        )
    last = pieces.cumsum(0) - 1
    return torch.stack((last - pieces + 1, last), dim=1)
