"""A small task for the tests of what all tasks share."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from datamodules.files.documents import Document
from datamodules.files.records import Record, RecordError, field_of
from datamodules.files.text_records import json_lines
from datamodules.tasks.base import TaskData
from datamodules.tasks.rows import Example


@dataclass(frozen=True)
class Text(Record):
    text: str
    label: int


class Toy(TaskData):
    """Texts with a class of 0 or 1."""

    task = "classification"
    official = {"train": ("train.jsonl",), "val": ("dev.jsonl",), "test": ("test.jsonl",)}  # noqa: RUF012

    def read(self, document: Document, split: str) -> Iterator[Record | RecordError]:
        for number, value in json_lines(document):
            try:
                id = field_of(value, "id", str, document, f"line {number}")
                text = field_of(value, "text", str, document, id)
                yield Text(id, str(document), text, field_of(value, "label", int, document, id))
            except RecordError as error:
                yield error

    def encode(self, record: Text, split: str) -> Example:
        if record.label not in (0, 1):
            raise RecordError(record.source, record.id, "label", f"not 0 or 1: {record.label}")
        rows, notes = self.rows(record, self.first(), self.pieces(record.text), self.separator())
        return Example(record.id, rows, {"label": record.label}, notes)

    def labels(self, examples: Sequence[Example]) -> dict[str, Any]:
        return {"labels": torch.tensor([example.fields["label"] for example in examples])}


def write(path: Path, records: Sequence[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return str(path)


def records_of(count: int, prefix: str = "r") -> list[dict[str, Any]]:
    return [
        {"id": f"{prefix}{i}", "text": "word " * (i % 7) + f"number {i}", "label": i % 2}
        for i in range(count)
    ]
