"""Accuracy and F1 of classes by torchmetrics, with the settings that the tasks are scored by."""

from __future__ import annotations

from torch import Tensor
from torchmetrics import Metric
from torchmetrics.classification import BinaryF1Score, MulticlassAccuracy, MulticlassF1Score

from lit_modules.metrics.exact import ExactMean

__all__ = ["UNKNOWN", "CandidateAccuracy", "classification_metrics"]

UNKNOWN = -1
"""The label of an example that is not scored."""


def classification_metrics(classes: int) -> dict[str, Metric]:
    """Return the metrics of a data set with `classes` classes.

    All take `update(predictions, labels)`, int64 (examples,) each: the predicted and the right
    class, `UNKNOWN` for what is not scored.

        accuracy   right ones among all examples (torchmetrics' default is the mean over classes)
        f1         of class 1 where there are two classes, else the mean over classes
        macro_f1   the mean over the classes that occur

    Raises:
        ValueError: There are fewer than two classes.
    """
    if classes < 2:
        raise ValueError(f"classes must be >= 2, got {classes}")

    def macro() -> Metric:
        found: Metric = MulticlassF1Score(classes, average="macro", ignore_index=UNKNOWN)
        return found

    return {
        "accuracy": MulticlassAccuracy(classes, average="micro", ignore_index=UNKNOWN),
        "f1": BinaryF1Score(ignore_index=UNKNOWN) if classes == 2 else macro(),
        "macro_f1": macro(),
    }


class CandidateAccuracy(ExactMean):
    """Right choices among all examples, each of which has candidates of its own."""

    higher_is_better = True

    def update(  # type: ignore[override]
        self, predictions: Tensor, labels: Tensor
    ) -> None:
        """Add examples.

        Args:
            predictions: int64 (examples,), the candidate chosen.
            labels: int64 (examples,), the right one; `UNKNOWN` is not scored.
        """
        known = labels != UNKNOWN
        super().update((predictions == labels)[known])
