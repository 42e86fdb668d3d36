"""Answers to questions: exact match and F1 over all accepted answers, by the official rules.

SQuAD v1.1 and TriviaQA differ in how an answer is normalised; SQuAD v2 adds questions that have no
answer (Rajpurkar et al. 2016, 2018; Joshi et al. 2017, and the scripts that came with them).
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from lit_modules.metrics.answers import NORMALISERS, overlap
from lit_modules.metrics.exact import ExactMetric
from lit_modules.nn.precision import figure_dtype, sum_dtype

__all__ = ["AnswerScore"]

_ALONE = -1.0


class _Row(NamedTuple):
    """What is kept of a prediction; the fields of a row of the state."""

    question: float
    score: float
    exact_match: float
    f1: float
    answerable: float
    answered: float
    no_answer_score: float


class AnswerScore(ExactMetric):
    """Exact match and F1 of answers, each with the accepted answer that fits best.

    A question may be asked of several documents: the prediction with the highest score counts, in
    any batch or process.

    Args:
        rules: How answers are compared: "squad" or "triviaqa".
        no_answer: Whether questions may have no answer, as in SQuAD v2: then "" is right for them,
            and accepted answers without a word do not count.

    Raises:
        ValueError: The rules are unknown.
    """

    higher_is_better = True
    rows: list[Tensor]

    def __init__(
        self, rules: Literal["squad", "triviaqa"] = "squad", no_answer: bool = False
    ) -> None:
        super().__init__()
        if rules not in NORMALISERS:
            raise ValueError(f"rules must be {' or '.join(NORMALISERS)}, got {rules!r}")
        self.normalise: Callable[[str], str] = NORMALISERS[rules]
        self.no_answer = no_answer
        self.add_state("rows", [], dist_reduce_fx="cat")

    def update(
        self,
        predictions: Sequence[str | None],
        answers: Sequence[Sequence[str]],
        *,
        questions: Sequence[str] | None = None,
        scores: Sequence[float] | None = None,
        no_answer_scores: Sequence[float] | None = None,
    ) -> None:
        """Add predictions.

        Args:
            predictions: An answer each, "" for "there is none"; None for no prediction, which
                scores 0.
            answers: All accepted answers of each; none where the question has no answer.
            questions: The question that each belongs to; None where all differ.
            scores: How good each prediction is among those of its question; needed with
                `questions`.
            no_answer_scores: How likely it is that there is no answer, for the best threshold; the
                predictions must be answers then, wherever the model has one.

        Raises:
            ValueError: The arguments differ in length or are incomplete, or a question has no
                accepted answer and `no_answer` is off.
        """
        count = len(predictions)
        given = {"answers": answers, "questions": questions, "scores": scores}
        given["no_answer_scores"] = no_answer_scores
        for name, values in given.items():
            if values is not None and len(values) != count:
                raise ValueError(f"{name} must be {count}, one a prediction, got {len(values)}")
        if (questions is None) != (scores is None):
            raise ValueError("questions and scores must be given together, got only one of them")
        rows = [
            _Row(
                _ALONE if questions is None else _number(questions[at]),
                0.0 if scores is None else float(scores[at]),
                *self._compare(predictions[at], answers[at]),
                math.nan if no_answer_scores is None else float(no_answer_scores[at]),
            )
            for at in range(count)
        ]
        if rows:
            self.rows.append(torch.tensor(rows, dtype=torch.float64, device=self._home))

    def compute(self) -> dict[str, Tensor]:
        """Return `exact_match` and `f1`, in 0 to 1; NaN before anything was scored.

        Where questions may have no answer there are also `has_answer_exact_match`,
        `has_answer_f1`, `no_answer_exact_match` and `no_answer_f1`, of those that have one and of
        the others; and where scores for "no answer" were given, `best_exact_match`, `best_f1` and
        the thresholds `best_exact_match_threshold`, `best_f1_threshold`: what is best if the answer
        is withheld where that score is higher.
        """
        rows = self._of_questions()
        found = _means(rows)
        if self.no_answer:
            found |= _means([row for row in rows if row.answerable], "has_answer_")
            found |= _means([row for row in rows if not row.answerable], "no_answer_")
            if rows and not any(math.isnan(row.no_answer_score) for row in rows):
                found |= _best(rows, "exact_match") | _best(rows, "f1")
        return {
            name: torch.tensor(value, dtype=figure_dtype(), device=self._home)
            for name, value in found.items()
        }

    def sync(self, *args: Any, **kwargs: Any) -> None:
        """Gather the predictions of all processes."""
        # A process without any must send as many columns, and of the same type, as the others.
        if isinstance(self.rows, list) and not self.rows:
            empty = torch.zeros(0, len(_Row._fields), dtype=torch.float64, device=self._home)
            self.rows.append(empty)
        super().sync(*args, **kwargs)

    @property
    def _home(self) -> torch.device:
        """Where the rows are: only float64 holds the number of a question."""
        exact = sum_dtype(self.device) == torch.float64 and self.device.type != "meta"
        return self.device if exact else torch.device("cpu")

    def _apply(self, fn: Callable[[Tensor], Tensor], exclude_state: Sequence[str] = "") -> Any:
        super()._apply(fn, (*exclude_state, "rows"))
        if isinstance(self.rows, list):
            self.rows = [row.to(self._home) for row in self.rows]
        return self

    def _compare(
        self, prediction: str | None, answers: Sequence[str]
    ) -> tuple[float, float, float, float]:
        """Return exact match, F1, whether there is an answer, and whether one was given."""
        accepted = [self.normalise(answer) for answer in answers]
        if self.no_answer:
            accepted = [answer for answer in accepted if answer]
        elif not accepted:
            raise ValueError("answers: a question has no accepted answer; allow it by no_answer")
        answerable = float(bool(accepted))
        if prediction is None:
            return 0.0, 0.0, answerable, 0.0
        said = self.normalise(prediction)
        answered = float(bool(prediction))
        if not accepted:
            right = float(not said)
            return right, right, 0.0, answered
        f1 = max(overlap(said, answer).f1 for answer in accepted)
        return float(said in accepted), f1, answerable, answered

    def _of_questions(self) -> list[_Row]:
        """Return the row of each question that counts."""
        tensors = self.rows if isinstance(self.rows, list) else [self.rows]
        alone: list[_Row] = []
        best: dict[float, _Row] = {}
        for row in (_Row(*values) for tensor in tensors for values in tensor.tolist()):
            if row.question == _ALONE:
                alone.append(row)
            elif row.question not in best or _rank(row) > _rank(best[row.question]):
                best[row.question] = row
        return alone + list(best.values())


def _rank(row: _Row) -> tuple[float, float, float]:
    # Of equal scores the worse answer counts, so that the order of processes does not matter.
    return row.score, -row.exact_match, -row.f1


def _number(question: str) -> float:
    """Return a number for a question, exact in float64 and almost surely unique."""
    digest = hashlib.blake2b(question.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return float(int.from_bytes(digest, "little") >> 12)


def _means(rows: Sequence[_Row], prefix: str = "") -> dict[str, float]:
    count = len(rows) or math.nan
    return {
        prefix + "exact_match": math.fsum(row.exact_match for row in rows) / count,
        prefix + "f1": math.fsum(row.f1 for row in rows) / count,
    }


def _best(rows: Sequence[_Row], name: str) -> dict[str, float]:
    """Return the best mean of `name` over all thresholds, and the threshold.

    An answer is given where the score for "no answer" is not above the threshold. Starting
    without any answer, answers are added in the order of that score, equal scores together.
    """
    gained = float(sum(not row.answerable for row in rows))
    best, threshold = gained, 0.0
    ordered = sorted(rows, key=lambda row: row.no_answer_score)
    for at, row in enumerate(ordered):
        gained += getattr(row, name) if row.answerable else -row.answered
        last_of_equals = at + 1 == len(ordered) or (
            ordered[at + 1].no_answer_score > row.no_answer_score
        )
        if last_of_equals and gained > best:
            best, threshold = gained, row.no_answer_score
    return {f"best_{name}": best / len(rows), f"best_{name}_threshold": threshold}
