"""Questions of TriviaQA as they stand in its files, of either form."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from datamodules.files.records import Record, RecordError
from datamodules.tasks.qa.squad import squad_records

__all__ = ["TriviaRecord", "question_of", "squad_form"]


@dataclass(frozen=True)
class TriviaRecord(Record):
    """A question with its evidence.

    Attributes:
        question: The question.
        question_id: Its id; the record's own names the document too.
        files: The documents' files; where there are none, `text` is the document.
        text: The document.
        answers: Accepted answers, as the official evaluation takes them.
        spellings: What is looked for in the evidence: the answer and its aliases.
        verified: Whether annotators found that the document answers the question.
        notes: What of the evidence is not there, to be counted.
    """

    question: str
    question_id: str
    files: tuple[str, ...]
    text: str
    answers: tuple[str, ...]
    spellings: tuple[str, ...]
    verified: bool = False
    notes: tuple[str, ...] = ()


def question_of(id: str) -> str:
    """Return the id of the question that an example `question--document` belongs to."""
    return id.partition("--")[0]


def squad_form(value: Any, source: str, place: str) -> Iterator[TriviaRecord | RecordError]:
    """Yield the questions of one element of `data` in SQuAD's form."""
    for record in squad_records(value, source, place):
        if isinstance(record, RecordError):
            yield record
            continue
        found = [text for text, _ in record.answers]
        answers = tuple(dict.fromkeys([*record.aliases, *found]))
        yield TriviaRecord(
            record.id,
            source,
            record.question,
            question_of(record.id),
            (),
            record.context,
            answers,
            answers,
        )
