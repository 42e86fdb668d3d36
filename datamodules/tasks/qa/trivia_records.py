"""Questions of TriviaQA as they stand in its files, of either form."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from datamodules.files.records import Record, RecordError, field_of
from datamodules.tasks.qa.squad import squad_records

__all__ = ["TriviaRecord", "official_answers", "question_of", "squad_form"]


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
    """

    question: str
    question_id: str
    files: tuple[str, ...]
    text: str
    answers: tuple[str, ...]
    spellings: tuple[str, ...]


def question_of(id: str) -> str:
    """Return the id of the question that an example `question--document` belongs to."""
    return id.partition("--")[0]


def official_answers(value: Any, source: str, id: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return what the official evaluation accepts, and all spellings of it."""
    if "Answer" not in value:  # the test set
        return (), ()
    answer = field_of(value, "Answer", dict, source, id)
    lists = {
        name: field_of(answer, name, list, source, id) if name in answer else []
        for name in ("NormalizedAliases", "HumanAnswers", "Aliases")
    }
    for name, texts in lists.items():
        if not all(isinstance(text, str) for text in texts):
            raise RecordError(source, id, name, f"must be a list of texts, got {texts!r:.60}")
    main = [field_of(answer, "Value", str, source, id)]
    spellings = dict.fromkeys([*main, *lists["Aliases"], *lists["HumanAnswers"]])
    normalized = lists["NormalizedAliases"]
    accepted = [*normalized, *lists["HumanAnswers"]] if normalized else list(spellings)
    return tuple(accepted), tuple(dict.fromkeys([*spellings, *normalized]))


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
