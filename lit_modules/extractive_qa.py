"""Extractive question answering: start and end of the answer, over one row or several."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torchmetrics import Metric

from lit_modules.metrics.qa import AnswerScore
from lit_modules.nn.answer_spans import Span, best_spans, gold_mask, no_answer_scores, or_loss
from lit_modules.nn.precision import widened
from lit_modules.task import Batch, TaskModule

__all__ = [
    "ExtractiveQA",
    "SpanScores",
    "check_search",
    "known_spans",
    "span_losses",
    "span_text",
    "spans_of",
]


class SpanScores(NamedTuple):
    """Logits of starts and of ends, each `(rows, length)`."""

    starts: Tensor
    ends: Tensor


class ExtractiveQA(TaskModule):
    """The answer as a span of the text; weights and logits are those of `transformers`.

    The loss is the or-loss over all occurrences of an answer (Longformer, section 6.1). All rows of
    an example share one softmax, so that the best span is comparable over rows. Training leaves
    out a question whose answer does not occur in its text. With `no_answer` the first token of each
    row represents "there is no answer", as in SQuAD v2. Metrics: `exact_match` and `f1`.

    Args:
        vocabulary_size: Number of token ids.
        rules: How answers are normalised and compared: squad or triviaqa.
        no_answer: Whether a question may have no answer.
        no_answer_threshold: An answer is given unless "no answer" scores higher by more than this.
        top: Starts, and ends, of a row that are considered for the best span.
        longest_answer: Tokens of the longest answer.
        **common: Arguments of `TaskModule`.

    Raises:
        ValueError: A number is out of range.
    """

    monitor = "val/f1"
    monitor_mode = "max"

    def __init__(
        self,
        vocabulary_size: int,
        rules: Literal["squad", "triviaqa"] = "squad",
        no_answer: bool = False,
        no_answer_threshold: float = 0.0,
        top: int = 20,
        longest_answer: int = 30,
        **common: Any,
    ) -> None:
        super().__init__(vocabulary_size, **common)
        check_search(top, longest_answer)
        if rules not in ("squad", "triviaqa"):
            raise ValueError(f"rules must be squad or triviaqa, got {rules!r}")

    def build_head(self, width: int, dropout: float) -> None:
        """Make the linear layer, named as in `transformers`."""
        self.qa_outputs = nn.Linear(width, 2)

    def head(self, hidden: Tensor, batch: Batch) -> SpanScores:
        """Return the logits."""
        starts, ends = self.qa_outputs(hidden).unbind(2)
        return SpanScores(starts, ends)

    def losses(self, scores: SpanScores, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return the or-loss, the mean of start and end, of each question with an answer.

        Raises:
            ValueError: A question has no answer, and `no_answer` is not set.
        """
        unanswerable = self._unanswerable(batch)
        allowed = self._choices(batch)
        first = torch.zeros_like(allowed)
        if bool(unanswerable.any()):
            first[:, 0] = unanswerable[batch["example"]]
        losses = span_losses(scores, batch, allowed, also=first)
        return losses, known_spans(batch) | unanswerable

    def decode(self, scores: SpanScores, batch: Batch) -> list[dict[str, Any]]:
        """Return `id`, `question`, `answer`, `score` and `no_answer_score` of each example.

        Several examples may ask one question of different documents; its answer is the one with the
        highest score.
        """
        example, examples = batch["example"], len(batch["ids"])
        nothing = no_answer_scores(scores.starts, scores.ends, example, examples)
        h = self.hparams
        found = []
        for at, span in enumerate(spans_of(scores, batch, h["top"], h["longest_answer"])):
            answer = span_text(span, batch, at)
            if h["no_answer"] and nothing[at] > span.score + h["no_answer_threshold"]:
                answer = ""
            found.append(
                {
                    "id": batch["ids"][at],
                    "question": batch.get("questions", batch["ids"])[at],
                    "answer": answer,
                    "score": span.score,
                    "no_answer_score": nothing[at],
                }
            )
        return found

    def build_metrics(self) -> dict[str, Metric]:
        """Return exact match and F1."""
        h = self.hparams
        return {"answer": AnswerScore(h["rules"], no_answer=h["no_answer"])}

    def update_metrics(
        self,
        metrics: dict[str, Metric],
        scores: SpanScores,
        predictions: list[dict[str, Any]],
        batch: Batch,
    ) -> None:
        """Add the questions whose answers are known."""
        known = [
            at for at, some in enumerate(batch["answers"]) if some or not batch["answerable"][at]
        ]
        questions = batch.get("questions", batch["ids"])
        metrics["answer"].update(
            [predictions[at]["answer"] for at in known],
            [batch["answers"][at] for at in known],
            questions=[questions[at] for at in known],
            scores=[predictions[at]["score"] for at in known],
        )

    def _choices(self, batch: Batch) -> Tensor:
        """Return what the softmax is over: the text, and with `no_answer` each first token."""
        allowed: Tensor = batch["context_mask"].clone()
        if self.hparams["no_answer"]:
            allowed[:, 0] = True
        return allowed

    def _unanswerable(self, batch: Batch) -> Tensor:
        unanswerable: Tensor = ~batch["answerable"]
        if bool(unanswerable.any()) and not self.hparams["no_answer"]:
            at = int(unanswerable.nonzero()[0])
            raise ValueError(
                f"{batch['ids'][at]!r} has no answer; set model.no_answer=true for a data set with "
                "such questions"
            )
        return unanswerable


def check_search(top: int, longest_answer: int) -> None:
    """Refuse numbers with which no span would be found."""
    for name, value in (("top", top), ("longest_answer", longest_answer)):
        if value < 1:
            raise ValueError(f"{name} must be >= 1, got {value}")


def span_losses(
    scores: SpanScores, batch: Batch, allowed: Tensor, also: Tensor | None = None
) -> Tensor:
    """Return the mean of the or-losses of start and end, `(examples,)`; 0 without an answer.

    Args:
        scores: The logits.
        batch: With `answer_starts`, `answer_ends` and `example`.
        allowed: bool `(rows, length)`, what the softmax is over.
        also: bool `(rows, length)`, tokens that are right besides the answers.
    """
    losses = []
    for logits, name in zip(scores, ("answer_starts", "answer_ends"), strict=True):
        gold = gold_mask(batch[name], logits.shape[1])
        gold = gold if also is None else gold | also
        example, examples = batch["example"], len(batch["ids"])
        losses.append(or_loss(widened(logits), gold, allowed, example, examples))
    return (losses[0] + losses[1]) / 2


def known_spans(batch: Batch) -> Tensor:
    """Return which examples have an answer in their text, bool `(examples,)`."""
    known = torch.zeros(len(batch["ids"]), dtype=torch.bool, device=batch["example"].device)
    known[batch["example"][(batch["answer_starts"] >= 0).any(1)]] = True
    return known


def spans_of(
    scores: SpanScores, batch: Batch, top: int, longest: int, part: Tensor | None = None
) -> list[Span]:
    """Return the best span of each example; see `best_spans`."""
    example, examples = batch["example"], len(batch["ids"])
    return best_spans(
        *scores, batch["context_mask"], example, examples, top=top, longest=longest, part=part
    )


def span_text(span: Span, batch: Batch, example: int) -> str:
    """Return the characters of a span; none where an example has no text."""
    if span.row < 0:
        return ""
    offsets = batch["offsets"][span.row]
    text: str = batch["texts"][example]
    return text[int(offsets[span.start, 0]) : int(offsets[span.end, 1])]
