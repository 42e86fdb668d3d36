"""WikiHop (QAngaroo): which of several candidates answers a question over many documents."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import torch

from datamodules.files.documents import Document
from datamodules.files.records import Record, RecordError, field_of
from datamodules.files.splitting import SplitName
from datamodules.files.text_records import json_array
from datamodules.registry import register
from datamodules.tasks.base import TaskData, padded
from datamodules.tasks.batch import PADDING
from datamodules.tasks.rows import Example, Long, Role, Tokens

__all__ = ["CandidateData", "WikiHop", "WikiHopRecord"]

_LOOSE = re.compile(r" (?=[.,!?)]|'s\b)|(?<=\() ")


@dataclass(frozen=True)
class WikiHopRecord(Record):
    """A question of WikiHop.

    Attributes:
        query: A relation and a subject, such as "country sms braunschweig".
        supports: The documents.
        candidates: What may be the answer.
        answer: Which of them is; None where it is not known.
    """

    query: str
    supports: tuple[str, ...]
    candidates: tuple[str, ...]
    answer: str | None


class CandidateData(TaskData):
    """Rows of `<s> [question] q [/question] [ent] c [/ent] ... </s> document </s></s> ...`.

    The candidates are before the documents in every row, so what is longer than a row becomes
    several: the documents are divided among them.

    Args:
        long: "chunks" divides the documents, "cut" keeps their beginning.
        overlap: Tokens that a chunk has in common with the one before.
        **kwargs: As in `TaskData`: path, tokenizer, max_length, batch_size, and more.
    """

    task = "candidate-choice"
    global_rule = "question-and-candidates"
    marks = ("[question]", "[/question]", "[ent]", "[/ent]")

    def __init__(self, *, long: Long = "chunks", overlap: int = 0, **kwargs: Any) -> None:
        super().__init__(long=long, overlap=overlap, **kwargs)

    def encode(self, record: WikiHopRecord, split: SplitName) -> Example:
        """Return the rows of a question."""
        prefix = [
            self.first(),
            self.mark("[question]", Role.QUESTION),
            self.pieces(_tight(record.query), Role.QUESTION),
            self.mark("[/question]", Role.QUESTION),
        ]
        places = []
        for candidate in record.candidates:
            places.append(sum(map(len, prefix)))
            prefix += [
                self.mark("[ent]", Role.CANDIDATE),
                self.pieces(_tight(candidate), Role.CANDIDATE),
                self.mark("[/ent]", Role.CANDIDATE),
            ]
        body, notes = [], []
        for support in record.supports:
            if not support.strip():
                notes.append("empty supporting document left out")
                continue
            body += [self.separator(), self.pieces(_tight(support)), self.separator()]
        rows, cut = self.rows(record, Tokens.joined(prefix), Tokens.joined(body), Tokens())
        for row in rows:
            row.columns["candidates"] = places
        known = record.answer is not None
        fields = {
            "candidates": list(record.candidates),
            "label": record.candidates.index(record.answer) if known else PADDING,
        }
        return Example(record.id, rows, fields, notes + cut)

    def labels(self, examples: Sequence[Example]) -> dict[str, Any]:
        """Return the fields of `CandidateBatch`."""
        rows = [row for example in examples for row in example.rows]
        return {
            "candidate_positions": padded([row.columns["candidates"] for row in rows]),
            "labels": torch.tensor([example.fields["label"] for example in examples]),
            "candidates": [example.fields["candidates"] for example in examples],
        }

    def references(self, split: SplitName) -> Iterator[tuple[str, str]]:
        """Yield (id, right candidate) of the records whose answer is known."""
        for record in self.good_records(split):
            if record.answer is not None:
                yield record.id, record.answer

    def submission(self, predictions: Iterable[Mapping[str, Any]]) -> str:
        """Return the official file: {id: answer}."""
        return json.dumps(
            {p["id"]: p["answer"] for p in predictions}, ensure_ascii=False, allow_nan=False
        )


@register("wikihop")
class WikiHop(CandidateData):
    """WikiHop of QAngaroo: choose the answer among candidates, from up to dozens of documents.

    Official files: train.json and dev.json, as in the folder `wikihop` of the release.

    Args:
        **kwargs: As in `CandidateData`: path, train, val, test, tokenizer, max_length, long,
            overlap, batch_size, and more.
    """

    official = MappingProxyType(
        {
            "train": ("wikihop/train.json", "train.json"),
            "val": ("wikihop/dev.json", "dev.json"),
            "test": ("wikihop/test.json", "test.json"),
        }
    )

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)

    def read(self, document: Document, split: SplitName) -> Iterator[Record | RecordError]:
        """Yield the questions of a file."""
        for number, value in enumerate(json_array(document), 1):
            try:
                yield _record(value, str(document), f"number {number}")
            except RecordError as error:
                yield error


def _record(value: Any, source: str, place: str) -> WikiHopRecord:
    id = field_of(value, "id", str, source, place)
    lists = {}
    for name in ("supports", "candidates"):
        texts = field_of(value, name, list, source, id)
        if not texts or not all(isinstance(text, str) for text in texts):
            problem = f"must be a list of texts with at least one, got {texts!r:.60}"
            raise RecordError(source, id, name, problem)
        lists[name] = tuple(texts)
    if not any(text.strip() for text in lists["supports"]):
        raise RecordError(source, id, "supports", "all documents are empty")
    candidates = lists["candidates"]
    twice = next((c for c in candidates if candidates.count(c) > 1), None)
    if twice is not None:
        raise RecordError(source, id, "candidates", f"{twice!r} is there twice")
    answer = field_of(value, "answer", str, source, id) if "answer" in value else None
    if answer is not None and answer not in candidates:
        problem = f"{answer!r} is not one of the {len(candidates)} candidates"
        raise RecordError(source, id, "answer", problem)
    query = field_of(value, "query", str, source, id)
    return WikiHopRecord(id, source, query, lists["supports"], candidates, answer)


def _tight(text: str) -> str:
    """Put marks to the words they belong to: the release has spaces around them."""
    return _LOOSE.sub("", " ".join(text.split()))
