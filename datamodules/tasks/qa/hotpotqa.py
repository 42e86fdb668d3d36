"""HotpotQA: questions over several paragraphs, with the sentences that prove the answer."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import torch

from datamodules.files.documents import Document
from datamodules.files.records import Record, RecordError, field_of
from datamodules.files.splitting import SplitName
from datamodules.files.text_records import json_array
from datamodules.loading.resumable import check_at_least
from datamodules.registry import register
from datamodules.tasks.base import TaskData, padded
from datamodules.tasks.batch import PADDING
from datamodules.tasks.qa.base import extractive_labels, mark_spans
from datamodules.tasks.qa.hotpot_page import Page
from datamodules.tasks.qa.paragraph_choice import ParagraphChoice
from datamodules.tasks.qa.spans import answer_spans
from datamodules.tasks.rows import Example, Role, Row, Tokens

__all__ = ["ANSWER_TYPES", "HotpotQA", "HotpotRecord"]

ANSWER_TYPES = ("span", "yes", "no")
"""What `answer_type` counts."""


@dataclass(frozen=True)
class HotpotRecord(Record):
    """A question of HotpotQA.

    Attributes:
        question: The question.
        answer: A span of the context, "yes" or "no"; None where it is not known.
        context: Titles and sentences of the paragraphs.
        facts: (title, sentence index) of the supporting facts; None where they are not known.
    """

    question: str
    answer: str | None
    context: tuple[tuple[str, tuple[str, ...]], ...]
    facts: tuple[tuple[str, int], ...] | None


@register("hotpotqa")
class HotpotQA(TaskData):
    """HotpotQA: the answer, its type, and the sentences and paragraphs that prove it.

    A row is `<s> [question] q [/question] <t> title </t> sentence [sent] ... [/par] yes no null
    </s>`. All paragraphs are in it, up to the first sentence that does not fit. An answer is marked
    wherever it stands in a supporting paragraph, or, where it is in none, in any; never across two.
    A question without context, which the retrieval of the full wiki can leave, is left out of
    training; in evaluation it gets no answer, and counts as wrong.

    Official files: hotpot_train_v1.1.json, hotpot_dev_distractor_v1.json, and for the test split
    hotpot_test_fullwiki_v1.json.

    Args:
        max_question: The first so many tokens of a question are kept.
        selected: A file that tells which paragraphs to keep, for the second of two stages:
            {id: [title, ...]}, or lines {"id": ..., "paragraphs": [title, ...]} as the first stage
            predicts them, the best first. None keeps all.
        most_paragraphs: The first so many of the selected paragraphs are kept; None keeps all.
        **kwargs: As in `TaskData`: path, train, val, test, tokenizer, max_length, batch_size, and
            more.
    """

    task = "multihop-qa"
    global_rule = "question-titles-and-sentences"
    version = 2
    marks = ("[question]", "[/question]", "<t>", "</t>", "[sent]", "[/par]")
    official = MappingProxyType(
        {
            "train": ("hotpot_train_v1.1.json", "hotpot_train_v1.json"),
            "val": ("hotpot_dev_distractor_v1.json", "hotpot_dev_fullwiki_v1.json"),
            "test": ("hotpot_test_fullwiki_v1.json",),
        }
    )

    def __init__(
        self,
        *,
        max_question: int = 55,
        selected: str | None = None,
        most_paragraphs: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        check_at_least(1, max_question=max_question)
        if self.long != "cut":
            raise ValueError("long must be 'cut': the evidence of a question is chosen in one row")
        if most_paragraphs is not None:
            check_at_least(1, most_paragraphs=most_paragraphs)
            if selected is None:
                raise ValueError("most_paragraphs needs selected: a file that ranks paragraphs")
        self.max_question = max_question
        self.choice = ParagraphChoice(selected, most_paragraphs) if selected is not None else None

    def settings(self) -> dict[str, Any]:
        """Return the length of questions, and which paragraphs are kept."""
        choice = self.choice.fingerprint if self.choice is not None else None
        return {**super().settings(), "max_question": self.max_question, "selected": choice}

    def read(self, document: Document, split: SplitName) -> Iterator[Record | RecordError]:
        """Yield the questions of a file."""
        for number, value in enumerate(json_array(document), 1):
            try:
                record = _record(value, str(document), f"number {number}")
                if not record.context and split == "train":
                    raise RecordError(record.source, record.id, "context", "is empty")
                yield record
            except RecordError as error:
                yield error

    def encode(self, record: HotpotRecord, split: SplitName) -> Example:
        """Return the row of a question.

        Raises:
            RecordError: The selection has nothing for the question, or max_length leaves no room.
        """
        notes = []
        question = self.pieces(record.question, Role.QUESTION)
        if len(question) > self.max_question:
            notes.append(f"question cut to max_question {self.max_question} tokens")
            question = question.cut(0, self.max_question)
        prefix = Tokens.joined(
            (
                self.first(),
                self.mark("[question]", Role.QUESTION),
                question,
                self.mark("[/question]", Role.QUESTION),
            )
        )
        suffix = self.pieces("yes no null", Role.ANSWER_WORD) + self.separator()
        context = record.context
        if self.choice is not None and context:
            context = self.choice.of(record.id, record.source, context)
        page = Page(self, context, self.max_length - len(prefix) - len(suffix))
        if not context:
            notes.append("has no context, so it counts as wrong")
        elif not page.facts:
            problem = f"no sentence fits into max_length {self.max_length} tokens; raise it"
            raise RecordError(record.source, record.id, "length", problem)
        notes += page.notes
        row = Row(prefix + page.tokens + suffix, {}, len(prefix), range(len(page.tokens)))
        shift = len(prefix)
        row.columns["sentences"] = [shift + place for place in page.sentences]
        row.columns["paragraphs"] = [shift + place for place in page.paragraphs]
        row.columns["sentence_paragraph"] = page.paragraph_of
        notes += _mark_evidence(row, page, record)
        kind = PADDING
        if record.answer is not None:
            kind = ANSWER_TYPES.index(record.answer) if record.answer in ("yes", "no") else 0
        spans = _occurrences(page, record) if kind == 0 else []
        mark_spans([row], page.tokens, spans)
        rows = [row]
        if kind == 0 and not row.columns["starts"]:
            notes.append("answer not found in the paragraphs that are kept")
            if split == "train":
                rows = []
                notes.append("left out of training: no row has an answer")
        fields = {
            "text": page.text,
            "answers": [record.answer] if record.answer is not None else [],
            "answerable": True,
            "question": record.id,
            "type": kind,
            "facts": page.facts,
            "gold_facts": list(record.facts or ()),
        }
        return Example(record.id, rows, fields, notes)

    def labels(self, examples: Sequence[Example]) -> dict[str, Any]:
        """Return the fields of `MultihopBatch`."""
        rows = [row for example in examples for row in example.rows]
        names = {
            "sentence_positions": "sentences",
            "paragraph_positions": "paragraphs",
            "sentence_labels": "sentence_labels",
            "paragraph_labels": "paragraph_labels",
            "sentence_paragraph": "sentence_paragraph",
        }
        return {
            **extractive_labels(examples),
            **{name: padded([r.columns[column] for r in rows]) for name, column in names.items()},
            "answer_type": torch.tensor([example.fields["type"] for example in examples]),
            "facts": [example.fields["facts"] for example in examples],
            "gold_facts": [example.fields["gold_facts"] for example in examples],
        }

    def references(self, split: SplitName) -> Iterator[tuple[str, dict[str, Any]]]:
        """Yield (id, {"answer": text, "supporting_facts": [(title, index), ...]}) where known."""
        for record in self.good_records(split):
            if record.answer is not None and record.facts is not None:
                yield record.id, {"answer": record.answer, "supporting_facts": list(record.facts)}

    def submission(self, predictions: Iterable[Mapping[str, Any]]) -> str:
        """Return the official file: {"answer": {id: text}, "sp": {id: [[title, index], ...]}}."""
        found = list(predictions)
        content = {
            "answer": {p["id"]: p["answer"] for p in found},
            "sp": {p["id"]: [list(fact) for fact in p["supporting_facts"]] for p in found},
        }
        return json.dumps(content, ensure_ascii=False, allow_nan=False)


def _occurrences(page: Page, record: HotpotRecord) -> list[tuple[int, int]]:
    """Return where the answer stands: in supporting paragraphs, or else in any."""
    titles = {title for title, _ in record.facts or ()}
    everywhere, proven = [], []
    for (begin, end), title in zip(page.areas, page.titles, strict=True):
        found = answer_spans(page.text[begin:end], [record.answer or ""])
        spans = [(begin + start, begin + stop) for start, stop in found]
        everywhere += spans
        proven += spans if title in titles else []
    return proven or everywhere


def _mark_evidence(row: Row, page: Page, record: HotpotRecord) -> list[str]:
    """Write the labels of sentences and paragraphs; return a note where evidence is not there."""
    row.columns["sentence_labels"] = [PADDING] * len(page.facts)
    row.columns["paragraph_labels"] = [PADDING] * len(page.titles)
    if record.facts is None:
        return []
    gold = set(record.facts)
    titles = {title for title, _ in gold}
    row.columns["sentence_labels"] = [int(fact in gold) for fact in page.facts]
    row.columns["paragraph_labels"] = [int(title in titles) for title in page.titles]
    lost = gold - set(page.facts)
    return ["supporting facts that are not among the sentences that are kept"] if lost else []


def _record(value: Any, source: str, place: str) -> HotpotRecord:
    id = field_of(value, "_id", str, source, place)
    context = []
    for paragraph in field_of(value, "context", list, source, id):
        match paragraph:
            case [str(title), [*sentences]] if all(isinstance(s, str) for s in sentences):
                context.append((title, tuple(sentences)))
            case _:
                problem = f"must be [title, [sentence, ...]] each, got {paragraph!r:.60}"
                raise RecordError(source, id, "context", problem)
    if not any(sentence.strip() for _, sentences in context for sentence in sentences):
        context = []
    facts = None
    if "supporting_facts" in value:
        facts = []
        for fact in field_of(value, "supporting_facts", list, source, id):
            match fact:
                case [str(title), int(index)]:
                    facts.append((title, index))
                case _:
                    problem = f"must be [title, sentence index] each, got {fact!r:.60}"
                    raise RecordError(source, id, "supporting_facts", problem)
    answer = field_of(value, "answer", str, source, id) if "answer" in value else None
    question = field_of(value, "question", str, source, id)
    found = tuple(dict.fromkeys(facts)) if facts is not None else None
    return HotpotRecord(id, source, question, answer, tuple(context), found)
