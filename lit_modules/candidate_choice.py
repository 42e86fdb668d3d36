"""Choice among candidates, as in WikiHop: a logit at the mark of each."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torchmetrics import Metric

from lit_modules.metrics.labels import CandidateAccuracy
from lit_modules.nn.precision import widened
from lit_modules.nn.rows import at_positions, mean_by_example
from lit_modules.task import Batch, TaskModule

__all__ = ["CandidateChoice"]


class CandidateChoice(TaskModule):
    """The answer among candidates that precede the documents (Longformer, section 6.1).

    A linear layer without bias gives a logit at the mark of each candidate; where the documents
    are several rows, each begins with the candidates, and their logits are averaged. Metric:
    `accuracy`.

    Args:
        vocabulary_size: Number of token ids.
        **common: Arguments of `TaskModule`.
    """

    monitor = "val/accuracy"
    monitor_mode = "max"

    def __init__(self, vocabulary_size: int, **common: Any) -> None:
        super().__init__(vocabulary_size, **common)

    def build_head(self, width: int, dropout: float) -> None:
        """Make the linear layer."""
        self.answer_score = nn.Linear(width, 1, bias=False)

    def head(self, hidden: Tensor, batch: Batch) -> Tensor:
        """Return logits `(examples, candidates)`; minus infinity where there is no candidate."""
        positions = batch["candidate_positions"]
        logits = self.answer_score(at_positions(hidden, positions)).squeeze(-1)
        examples, real = len(batch["ids"]), positions >= 0
        mean = mean_by_example(logits, batch["example"], examples, real)
        exists = torch.zeros(mean.shape, dtype=torch.int64, device=mean.device)
        exists.index_add_(0, batch["example"], real.long())
        return mean.masked_fill(exists == 0, -torch.inf)

    def losses(self, scores: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return the cross-entropy over the candidates of each question that has an answer.

        Raises:
            ValueError: The answer is not one of the candidates.
        """
        labels = batch["labels"]
        known = labels >= 0
        own = widened(scores).gather(1, labels.clamp(min=0)[:, None])[:, 0]
        wrong = known & (own == -torch.inf)
        if bool(wrong.any()):
            at = int(wrong.nonzero()[0])
            raise ValueError(
                f"label {int(labels[at])} of {batch['ids'][at]!r} is none of its candidates, of "
                f"which there are {len(batch['candidates'][at])}"
            )
        losses = widened(scores).logsumexp(1) - own
        return torch.where(known, losses, 0.0), known

    def decode(self, scores: Tensor, batch: Batch) -> list[dict[str, Any]]:
        """Return `id`, `answer` and `scores` (probabilities of the candidates) of each question."""
        shares = widened(scores).softmax(1).tolist()
        best = scores.argmax(1).tolist()
        columns = zip(batch["ids"], batch["candidates"], best, shares, strict=True)
        return [
            {"id": id_, "answer": names[at], "scores": row[: len(names)]}
            for id_, names, at, row in columns
        ]

    def build_metrics(self) -> dict[str, Metric]:
        """Return the accuracy."""
        return {"accuracy": CandidateAccuracy()}

    def update_metrics(
        self,
        metrics: dict[str, Metric],
        scores: Tensor,
        predictions: list[dict[str, Any]],
        batch: Batch,
    ) -> None:
        """Add the questions whose answer is known."""
        metrics["accuracy"].update(scores.argmax(1), batch["labels"])
