"""Classification of documents: RoBERTa's head on the first token."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.nn import functional as F
from torchmetrics import Metric

from lit_modules.metrics.labels import classification_metrics
from lit_modules.nn.heads import ClassificationHead
from lit_modules.nn.precision import widened
from lit_modules.nn.rows import mean_by_example
from lit_modules.task import Batch, TaskModule

__all__ = ["Classification"]


class Classification(TaskModule):
    """One of several classes for a document; weights and numbers are those of `transformers`.

    A document of several rows has the mean of their logits. Metrics: `accuracy`; `f1`, that of
    class 1 where there are two classes, else the mean over classes; `macro_f1`, always the mean.

    Args:
        vocabulary_size: Number of token ids.
        classes: Number of classes.
        **common: Arguments of `TaskModule`.

    Raises:
        ValueError: A number is out of range.
    """

    from_data = ("vocabulary_size", "pad_id", "classes")
    monitor = "val/accuracy"
    monitor_mode = "max"

    def __init__(self, vocabulary_size: int, classes: int = 2, **common: Any) -> None:
        super().__init__(vocabulary_size, **common)
        if classes < 2:
            raise ValueError(f"classes must be >= 2, got {classes}")
        self.classes = classes

    def build_head(self, width: int, dropout: float) -> None:
        """Make the head, named as in `transformers`."""
        self.classifier = ClassificationHead(width, self.classes, dropout)

    def head(self, hidden: Tensor, batch: Batch) -> Tensor:
        """Return logits `(examples, classes)`."""
        logits: Tensor = self.classifier(hidden[:, 0])
        return mean_by_example(logits, batch["example"], len(batch["ids"]))

    def losses(self, scores: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return the cross-entropy of each document that has a label."""
        labels = batch["labels"]
        known = labels >= 0
        return F.cross_entropy(widened(scores), labels.clamp(min=0), reduction="none"), known

    def decode(self, scores: Tensor, batch: Batch) -> list[dict[str, Any]]:
        """Return `id`, `label` and `scores` (probabilities) of each document."""
        shares = widened(scores).softmax(1)
        columns = zip(batch["ids"], shares.argmax(1).tolist(), shares.tolist(), strict=True)
        return [{"id": id_, "label": label, "scores": row} for id_, label, row in columns]

    def build_metrics(self) -> dict[str, Metric]:
        """Return accuracy and F1."""
        return classification_metrics(self.classes)

    def update_metrics(
        self,
        metrics: dict[str, Metric],
        scores: Tensor,
        predictions: list[dict[str, Any]],
        batch: Batch,
    ) -> None:
        """Add the documents that have a label."""
        for metric in metrics.values():
            metric.update(scores.argmax(1), batch["labels"])
