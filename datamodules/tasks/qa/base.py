"""Questions answered by spans of a text: what SQuAD and TriviaQA share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from datamodules.files.records import Record
from datamodules.files.splitting import SplitName
from datamodules.loading.resumable import check_at_least
from datamodules.tasks.base import TaskData, padded
from datamodules.tasks.qa.spans import token_span
from datamodules.tasks.rows import Example, Role, Row, Tokens

__all__ = ["Asked", "ExtractiveData", "extractive_labels", "mark_spans"]


@dataclass(frozen=True)
class Asked:
    """A question with its text, as it is encoded.

    Attributes:
        record: The record it is from.
        question: The question.
        text: The text the answer is looked for in.
        spans: Characters [start, stop) of every occurrence of an answer.
        answers: All accepted answers.
        answerable: False where the data set marks that there is no answer.
        question_id: The id of the question, where several records share it.
    """

    record: Record
    question: str
    text: str
    spans: Sequence[tuple[int, int]]
    answers: Sequence[str]
    answerable: bool
    question_id: str


class ExtractiveData(TaskData):
    """Rows of `<s> question </s> text </s>`, with the answers' spans.

    Args:
        max_question: The first so many tokens of a question are kept.
        **kwargs: As in `TaskData`: path, tokenizer, max_length, long, batch_size, and more.
    """

    task = "extractive-qa"
    global_rule = "question"

    def __init__(self, *, max_question: int = 55, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        check_at_least(1, max_question=max_question)
        self.max_question = max_question

    def settings(self) -> dict[str, Any]:
        """Return the length of questions."""
        return {**super().settings(), "max_question": self.max_question}

    def encode_question(self, asked: Asked, split: SplitName) -> Example:
        """Return the rows of a question.

        Training leaves out what it cannot learn from: an answer that is not in the text, or beyond
        where it was cut. Evaluation keeps everything.
        """
        question = self.pieces(asked.question, Role.QUESTION)
        notes = []
        if len(question) > self.max_question:
            notes.append(f"question cut to max_question {self.max_question} tokens")
            question = question.cut(0, self.max_question)
        prefix = Tokens.joined((self.first(), question, self.separator()))
        body = self.placed_pieces(asked.text)
        rows, cut = self.rows(asked.record, prefix, body, self.separator())
        lost = mark_spans(rows, body, asked.spans)
        wanted = asked.answerable and bool(asked.answers)
        if wanted and not asked.spans:
            cut.append("answer not found in the text")
        elif wanted and lost == len(asked.spans):
            cut.append("every answer is beyond where the text was cut, or across two chunks")
        if split == "train" and wanted and not any(row.columns["starts"] for row in rows):
            notes.append("left out of training: no row has an answer")
            rows = []
        fields = {
            "text": asked.text,
            "answers": list(asked.answers),
            "answerable": asked.answerable,
            "question": asked.question_id,
        }
        return Example(asked.record.id, rows, fields, notes + cut)

    def labels(self, examples: Sequence[Example]) -> dict[str, Any]:
        """Return the fields of `QuestionBatch`."""
        return extractive_labels(examples)


def mark_spans(rows: Sequence[Row], body: Tokens, spans: Sequence[tuple[int, int]]) -> int:
    """Note in the columns of each row which tokens are an answer; return the spans in no row.

    Args:
        rows: Rows made of `body`.
        body: The text's tokens with their places.
        spans: Characters [start, stop) of the answers.
    """
    for row in rows:
        row.columns["starts"], row.columns["ends"] = [], []
    # Marks, and pieces without a character, have no place among the others.
    placed = [i for i, (start, stop) in enumerate(body.offsets) if stop > start]
    places_of = [body.offsets[i] for i in placed]
    lost = 0
    marked = set()
    for span in spans:
        found = token_span(places_of, *span)
        tokens = [placed[token] for token in found] if found is not None else None
        inside = False
        for number, row in enumerate(rows):
            places = [row.place(token) for token in tokens] if tokens is not None else [None]
            if None in places:
                continue
            inside = True
            if (number, *places) not in marked:
                marked.add((number, *places))
                row.columns["starts"].append(places[0])  # type: ignore[arg-type]
                row.columns["ends"].append(places[1])  # type: ignore[arg-type]
        lost += not inside
    return lost


def extractive_labels(examples: Sequence[Example]) -> dict[str, Any]:
    """Return the fields of `QuestionBatch` that are not in `TaskBatch`."""
    rows = [row for example in examples for row in example.rows]
    longest = max(len(row.tokens) for row in rows)
    offsets = torch.zeros(len(rows), longest, 2, dtype=torch.int64)
    for row, places in zip(rows, offsets, strict=True):
        places[: len(row.tokens)] = torch.tensor(row.tokens.offsets)
    return {
        # A token without a character of the text cannot be pointed at.
        "context_mask": offsets[..., 1] > offsets[..., 0],
        "answer_starts": padded([row.columns["starts"] for row in rows]),
        "answer_ends": padded([row.columns["ends"] for row in rows]),
        "offsets": offsets,
        "texts": [example.fields["text"] for example in examples],
        "answers": [example.fields["answers"] for example in examples],
        "answerable": torch.tensor([example.fields["answerable"] for example in examples]),
        "questions": [example.fields["question"] for example in examples],
    }
