"""HotpotQA: the answer, the sentences that support it, and both together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from lit_modules.metrics.answers import Overlap, overlap, squad
from lit_modules.metrics.exact import ExactMetric
from lit_modules.nn.precision import figure_dtype

__all__ = ["HotpotScore"]

_PARTS = ("answer", "support", "joint")
_NUMBERS = ("exact_match", "f1", "precision", "recall")
# Answers that get no partial credit.
_WHOLE = {"yes", "no", "noanswer"}

Facts = Sequence[Sequence[Any]]
"""Supporting facts of one question, each (title, sentence index)."""


class HotpotScore(ExactMetric):
    """Exact match, F1, precision and recall of answer, support and both, as officially scored.

    Joint precision and recall of a question are the products of those of answer and support, joint
    exact match is one where both are.
    """

    higher_is_better = True
    sums: Tensor
    count: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_sum("sums", (len(_PARTS), len(_NUMBERS)))
        self.add_count("count")

    def update(
        self,
        answers: Sequence[str | None],
        facts: Sequence[Facts | None],
        gold_answers: Sequence[str],
        gold_facts: Sequence[Facts],
    ) -> None:
        """Add questions.

        Args:
            answers: The predicted answers; None where there is no prediction, which scores 0.
            facts: The predicted supporting facts of each, (title, sentence index); None likewise.
            gold_answers: The right answers.
            gold_facts: The right supporting facts.

        Raises:
            ValueError: The arguments differ in length.
        """
        lengths = [len(a) for a in (answers, facts, gold_answers, gold_facts)]
        if len(set(lengths)) > 1:
            raise ValueError(
                "answers, facts, gold_answers and gold_facts must be equally many, "
                f"got {', '.join(map(str, lengths))}"
            )
        rows = [
            _question(*one) for one in zip(answers, facts, gold_answers, gold_facts, strict=True)
        ]
        if rows:
            self.add("sums", torch.tensor(rows, dtype=torch.float64, device="cpu").sum(0))
        self.add("count", len(rows))

    def compute(self) -> dict[str, Tensor]:
        """Return `answer_exact_match`, `answer_f1`, ..., `joint_recall`, in 0 to 1.

        They are NaN before anything was scored.
        """
        sums = self.total("sums")
        means = (sums / self.count.to(sums.device)).to(figure_dtype())
        return {
            f"{part}_{number}": means[i, j]
            for i, part in enumerate(_PARTS)
            for j, number in enumerate(_NUMBERS)
        }


def _question(
    answer: str | None, facts: Facts | None, gold_answer: str, gold_facts: Facts
) -> list[list[float]]:
    """Return the numbers of one question, in the order of `_PARTS` and `_NUMBERS`."""
    exact, words = (0.0, Overlap(0.0, 0.0, 0.0)) if answer is None else _answer(answer, gold_answer)
    support_exact, support = (
        (0.0, Overlap(0.0, 0.0, 0.0)) if facts is None else _support(facts, gold_facts)
    )
    precision = words.precision * support.precision
    recall = words.recall * support.recall
    joint = _f1(precision, recall)
    return [[exact, *words], [support_exact, *support], [exact * support_exact, *joint]]


def _answer(answer: str, gold: str) -> tuple[float, Overlap]:
    said, right = squad(answer), squad(gold)
    if said != right and (said in _WHOLE or right in _WHOLE):
        return 0.0, Overlap(0.0, 0.0, 0.0)
    return float(said == right), overlap(said, right)


def _support(facts: Facts, gold: Facts) -> tuple[float, Overlap]:
    said, right = ({(str(title), int(at)) for title, at in side} for side in (facts, gold))
    same = len(said & right)
    return float(said == right), _f1(
        same / len(said) if said else 0.0, same / len(right) if right else 0.0
    )


def _f1(precision: float, recall: float) -> Overlap:
    both = precision + recall
    return Overlap(2 * precision * recall / both if both else 0.0, precision, recall)
