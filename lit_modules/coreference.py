"""Coreference resolution: mention ranking from coarse to fine over the segments of a document."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torchmetrics import Metric

from lit_modules.metrics.coref import CoreferenceScore
from lit_modules.nn.coref.clusters import (
    decode_clusters,
    gold_clusters,
    marginal_loss,
    mention_loss,
)
from lit_modules.nn.coref.ranking import MentionRanker, Ranking, RankingSettings
from lit_modules.task import Batch, TaskModule

__all__ = ["Coreference"]

DEFAULT = RankingSettings()


class Coreference(TaskModule):
    """Clusters of mentions of a document (Lee et al. 2018; Longformer, section 6.1).

    Spans of words are scored as mentions, the best are kept, a cheap score keeps a few
    antecedents of each, and a better one ranks them. The loss is the marginal log-likelihood of all
    correct antecedents. A batch is one document. Metrics: MUC, B-cubed, CEAF-phi4, their average.

    Args:
        vocabulary_size: Number of token ids.
        genres: Number of genres, the unknown one included.
        ranking: Sizes of the head, which also bound its memory.
        mention_weight: Weight of a further loss that teaches which spans are mentions, for few data
            or fresh weights; 0, as in the paper, for none.
        singletons: Whether mentions that refer to nothing are predicted, as clusters of one, and
            scored; needs `mention_weight`. Otherwise a model can only predict links: those of the
            data set (LitBank has them, OntoNotes has none) are not scored but counted, as
            `gold_singletons_left_out`.
        **common: Arguments of `TaskModule`.
    """

    from_data = ("vocabulary_size", "pad_id", "genres")
    monitor = "val/average_f1"
    monitor_mode = "max"

    def __init__(
        self,
        vocabulary_size: int,
        genres: int = 1,
        ranking: RankingSettings = DEFAULT,
        mention_weight: float = 0.0,
        singletons: bool = False,
        **common: Any,
    ) -> None:
        super().__init__(vocabulary_size, **common)
        if genres < 1:
            raise ValueError(f"genres must be >= 1, got {genres}")
        if mention_weight < 0:
            raise ValueError(f"mention_weight must be >= 0, got {mention_weight}")
        if singletons and not mention_weight:
            raise ValueError(
                "singletons needs mention_weight > 0, got 0: without the loss of mentions nothing "
                "tells a mention that refers to nothing from any other span"
            )
        self.genres, self.mention_weight = genres, mention_weight
        self.singletons = singletons
        plain = ranking if isinstance(ranking, Mapping) else vars(ranking)
        self.ranking = RankingSettings(**plain)
        self.save_hyperparameters({"ranking": dict(vars(self.ranking))})

    def build_head(self, width: int, dropout: float) -> None:
        """Make the head."""
        self.ranker = MentionRanker(width, self.genres, self.ranking)

    def draw_head(self, module: nn.Module, std: float) -> None:
        """Keep torch's fresh weights: the head is wide, and BERT's would be far too small."""

    def head(self, hidden: Tensor, batch: Batch) -> Ranking:
        """Return the antecedents of the document's spans, and their scores."""
        real = batch["words"] >= 0
        ranking: Ranking = self.ranker(
            hidden[real],
            batch["words"][real],
            batch["sentences"],
            batch["speakers"],
            batch["genre"],
            batch["mentions"] if self.mention_weight else None,
        )
        return ranking

    def losses(self, scores: Ranking, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return the loss of the document."""
        loss = marginal_loss(scores, batch["mentions"], batch["clusters"])[None]
        if self.mention_weight:
            loss = loss + self.mention_weight * mention_loss(scores, batch["mentions"])
        return loss, torch.ones(1, dtype=torch.bool, device=loss.device)

    def decode(self, scores: Ranking, batch: Batch) -> list[dict[str, Any]]:
        """Return `id` and `clusters`, each a list of [first word, last word]."""
        clusters = decode_clusters(scores, self.singletons)
        plain = [[list(span) for span in cluster] for cluster in clusters]
        return [{"id": batch["ids"][0], "clusters": plain}]

    def build_metrics(self) -> dict[str, Metric]:
        """Return the scores of the CoNLL task."""
        return {"coreference": CoreferenceScore(self.singletons)}

    def update_metrics(
        self,
        metrics: dict[str, Metric],
        scores: Ranking,
        predictions: list[dict[str, Any]],
        batch: Batch,
    ) -> None:
        """Add the document."""
        gold = gold_clusters(batch["mentions"], batch["clusters"])
        metrics["coreference"].update(predictions[0]["clusters"], gold)
