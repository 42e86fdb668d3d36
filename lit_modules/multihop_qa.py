"""Multi-hop question answering, as in HotpotQA: the answer, and the sentences that prove it."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchmetrics import Metric

from lit_modules.extractive_qa import SpanScores, check_search, span_losses, span_text, spans_of
from lit_modules.metrics.hotpot import HotpotScore
from lit_modules.nn.answer_spans import gold_mask
from lit_modules.nn.evidence import choose_evidence, masked_bce
from lit_modules.nn.heads import TwoLayers
from lit_modules.nn.precision import widened
from lit_modules.nn.rows import at_positions
from lit_modules.task import Batch, TaskModule

__all__ = ["MultihopQA", "MultihopScores"]

ANSWERS = ("span", "yes", "no")
"""What an answer may be, by the number of its type."""


class MultihopScores(NamedTuple):
    """Logits.

    Attributes:
        spans: Of starts and ends, each `(rows, length)`.
        types: Of the type of the answer, `(rows, 3)`.
        sentences: `(rows, sentences)`.
        paragraphs: `(rows, paragraphs)`.
    """

    spans: SpanScores
    types: Tensor
    sentences: Tensor
    paragraphs: Tensor


class MultihopQA(TaskModule):
    """Answer span, type of the answer, and evidence, at once (Longformer, section 6.1, appendix D).

    Two layers on the first token give the type of the answer, two layers on the mark of each
    sentence and of each paragraph whether it is evidence, a linear layer the span. The loss is the
    weighted sum of the four. Evidence is taken from exactly two paragraphs. A prediction also lists
    the paragraphs from best to worst, with which a second run can read only the best. Metrics:
    exact match and F1 of the answer, of the evidence, and of both.

    Args:
        vocabulary_size: Number of token ids.
        top: Starts, and ends, that are looked at for the best span.
        longest_answer: Tokens of the longest answer.
        span_weight: Weight of the loss of the span.
        type_weight: Weight of the loss of the type of the answer.
        sentence_weight: Weight of the loss of the sentences.
        paragraph_weight: Weight of the loss of the paragraphs.
        **common: Arguments of `TaskModule`.

    Raises:
        ValueError: A number is out of range.
    """

    monitor = "val/joint_f1"
    monitor_mode = "max"

    def __init__(
        self,
        vocabulary_size: int,
        top: int = 20,
        longest_answer: int = 30,
        span_weight: float = 1.0,
        type_weight: float = 1.0,
        sentence_weight: float = 1.0,
        paragraph_weight: float = 1.0,
        **common: Any,
    ) -> None:
        super().__init__(vocabulary_size, **common)
        check_search(top, longest_answer)
        self.weights = (span_weight, type_weight, sentence_weight, paragraph_weight)
        if min(self.weights) < 0:
            raise ValueError(f"weights of losses must be >= 0, got {self.weights}")

    def build_head(self, width: int, dropout: float) -> None:
        """Make the layers."""
        self.qa_outputs = nn.Linear(width, 2)
        self.answer_type = TwoLayers(width, width, len(ANSWERS), dropout)
        self.sentence_score = TwoLayers(width, width, 1, dropout)
        self.paragraph_score = TwoLayers(width, width, 1, dropout)

    def head(self, hidden: Tensor, batch: Batch) -> MultihopScores:
        """Return the logits."""

        def marks(layers: nn.Module, name: str) -> Tensor:
            out: Tensor = layers(at_positions(hidden, batch[name])).squeeze(-1)
            return out

        return MultihopScores(
            SpanScores(*self.qa_outputs(hidden).unbind(2)),
            self.answer_type(hidden[:, 0]),
            marks(self.sentence_score, "sentence_positions"),
            marks(self.paragraph_score, "paragraph_positions"),
        )

    def losses(self, scores: MultihopScores, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return the weighted sum of the losses of each question whose answer is known.

        A part that is unknown counts 0: the span of "yes", or of an answer that was cut off.
        """
        types = batch["answer_type"]
        span = span_losses(scores.spans, batch, batch["context_mask"])
        span = torch.where(types == 0, span, 0.0)
        kind = F.cross_entropy(widened(scores.types), types.clamp(min=0), reduction="none")
        kind = torch.where(types >= 0, kind, 0.0)
        sentences = masked_bce(scores.sentences, batch["sentence_labels"])
        paragraphs = masked_bce(scores.paragraphs, batch["paragraph_labels"])
        parts = zip(self.weights, (span, kind, sentences, paragraphs), strict=True)
        total = torch.stack([weight * part for weight, part in parts]).sum(0)
        return total, types >= 0

    def decode(self, scores: MultihopScores, batch: Batch) -> list[dict[str, Any]]:
        """Return `id`, `answer`, `supporting_facts` and `paragraphs` of each question.

        A span is within one paragraph; a question without a paragraph gets no answer.
        """
        h = self.hparams
        # A mark begins each paragraph, so that counting them numbers these.
        marks = gold_mask(batch["paragraph_positions"], batch["input_ids"].shape[1])
        spans = spans_of(scores.spans, batch, h["top"], h["longest_answer"], marks.cumsum(1))
        types = scores.types.argmax(1).tolist()
        found = []
        for at, id_ in enumerate(batch["ids"]):
            facts = batch["facts"][at]
            owner = batch["sentence_paragraph"][at].tolist()[: len(facts)]
            real = int((batch["paragraph_positions"][at] >= 0).sum())
            evidence = choose_evidence(
                scores.sentences[at].tolist()[: len(facts)],
                scores.paragraphs[at].tolist()[:real],
                owner,
            )
            titles = {paragraph: facts[s][0] for s, paragraph in enumerate(owner)}
            kind = ANSWERS[types[at]] if facts else "span"
            found.append(
                {
                    "id": id_,
                    "answer": span_text(spans[at], batch, at) if kind == "span" else kind,
                    "supporting_facts": [list(facts[s]) for s in evidence.sentences],
                    "paragraphs": [titles[p] for p in evidence.paragraphs if p in titles],
                }
            )
        return found

    def build_metrics(self) -> dict[str, Metric]:
        """Return the scores of answer, evidence and both."""
        return {"hotpot": HotpotScore()}

    def update_metrics(
        self,
        metrics: dict[str, Metric],
        scores: MultihopScores,
        predictions: list[dict[str, Any]],
        batch: Batch,
    ) -> None:
        """Add the questions whose answer is known."""
        known = [at for at, some in enumerate(batch["answers"]) if some]
        metrics["hotpot"].update(
            [predictions[at]["answer"] for at in known],
            [predictions[at]["supporting_facts"] for at in known],
            [batch["answers"][at][0] for at in known],
            [batch["gold_facts"][at] for at in known],
        )
