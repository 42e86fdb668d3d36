"""SQuAD: questions on one paragraph, versions 1 and 2, and whatever is in the same form."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from datamodules.files.documents import Document
from datamodules.files.records import Record, RecordError, field_of
from datamodules.files.splitting import SplitName
from datamodules.files.text_records import json_array
from datamodules.registry import register
from datamodules.tasks.qa.base import Asked, ExtractiveData
from datamodules.tasks.rows import Example

__all__ = ["Squad", "SquadRecord", "squad_records"]


@dataclass(frozen=True)
class SquadRecord(Record):
    """A question of a file in SQuAD's form.

    Attributes:
        question: The question.
        context: The paragraph.
        answers: Texts of the answers and where they start, in characters.
        aliases: Further accepted answers.
        answerable: False where the file marks that the paragraph has no answer.
    """

    question: str
    context: str
    answers: tuple[tuple[str, int], ...]
    aliases: tuple[str, ...]
    answerable: bool


@register("squad")
class Squad(ExtractiveData):
    """SQuAD 1.1 and 2.0: the answer is a span of a paragraph, or (2.0) there is none.

    Official files: train-v1.1.json and dev-v1.1.json, or train-v2.0.json and dev-v2.0.json.

    Args:
        **kwargs: As in `ExtractiveData`: path, train, val, test, tokenizer, max_length, long,
            max_question, batch_size, and more.
    """

    official = MappingProxyType(
        {
            "train": ("train-v1.1.json", "train-v2.0.json"),
            "val": ("dev-v1.1.json", "dev-v2.0.json"),
            "test": ("test-v1.1.json", "test-v2.0.json"),
        }
    )

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)

    def read(self, document: Document, split: SplitName) -> Iterator[Record | RecordError]:
        """Yield the questions of a file."""
        for number, article in enumerate(json_array(document, "data"), 1):
            yield from squad_records(article, str(document), f"article {number}")

    def encode(self, record: SquadRecord, split: SplitName) -> Example:
        """Return the rows of a question; the answers are at the places in the file.

        Raises:
            RecordError: An answer is not at the place that the file names.
        """
        spans = []
        for text, start in record.answers:
            there = record.context[max(start, 0) : start + len(text)]
            if start < 0 or there != text:
                problem = f"{text!r} is not at character {start} of the context: {there!r} is"
                raise RecordError(record.source, record.id, "answers", problem)
            spans.append((start, start + len(text)))
        texts = dict.fromkeys([text for text, _ in record.answers])
        asked = Asked(
            record,
            record.question,
            record.context,
            sorted(set(spans)),
            [*texts, *(alias for alias in record.aliases if alias not in texts)],
            record.answerable,
            record.id,
        )
        return self.encode_question(asked, split)

    def references(self, split: SplitName) -> Iterator[tuple[str, list[str]]]:
        """Yield (question id, accepted answers); [] where there is no answer."""
        for record in self.good_records(split):
            yield record.id, list(dict.fromkeys(text for text, _ in record.answers))

    def submission(self, predictions: Iterable[Mapping[str, Any]]) -> str:
        """Return the official file: {question id: answer}, "" for no answer."""
        return json.dumps(
            {p["id"]: p["answer"] for p in predictions}, ensure_ascii=False, allow_nan=False
        )


def squad_records(article: Any, source: str, place: str) -> Iterator[SquadRecord | RecordError]:
    """Yield the questions of one element of `data`.

    Args:
        article: `{paragraphs: [{context, qas: [{id, question, answers, aliases?, ...}]}]}`.
        source: The file, for messages.
        place: Which element it is, for messages.
    """
    try:
        paragraphs = field_of(article, "paragraphs", list, source, place)
    except RecordError as error:
        yield error
        return
    for number, paragraph in enumerate(paragraphs, 1):
        where = f"{place}, paragraph {number}"
        try:
            context = field_of(paragraph, "context", str, source, where)
            questions = field_of(paragraph, "qas", list, source, where)
        except RecordError as error:
            yield error
            continue
        for position, question in enumerate(questions, 1):
            try:
                yield _record(question, context, source, f"{where}, question {position}")
            except RecordError as error:
                yield error


def _record(question: Any, context: str, source: str, place: str) -> SquadRecord:
    id = field_of(question, "id", str, source, place)
    if not context.strip():
        raise RecordError(source, id, "context", "is empty")
    impossible = bool(question.get("is_impossible", False))
    answers = question.get("answers")
    if answers is None:  # a test set without answers
        answers = []
    if not isinstance(answers, list):
        raise RecordError(source, id, "answers", f"must be a list, got {answers!r:.40}")
    found = tuple(
        (field_of(a, "text", str, source, id), field_of(a, "answer_start", int, source, id))
        for a in answers
    )
    if impossible and found:
        raise RecordError(source, id, "is_impossible", "is true, but there are answers")
    aliases = question.get("aliases") or []
    if not isinstance(aliases, list) or not all(isinstance(a, str) for a in aliases):
        raise RecordError(source, id, "aliases", f"must be a list of texts, got {aliases!r:.40}")
    text = field_of(question, "question", str, source, id)
    return SquadRecord(id, source, text, context, found, tuple(aliases), not impossible)
