"""The base of the tasks, by a small task: files, encoding, cache, batches, processes."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from datamodules.documents import Document
from datamodules.records import Record, RecordError, field_of
from datamodules.task import TaskData, padded
from datamodules.task_rows import Example
from datamodules.text_records import json_lines
from tests.datamodules.test_base import Recorder, assert_same, every_step, trainer_of

pytestmark = [
    pytest.mark.filterwarnings(
        "ignore:`isinstance.treespec, LeafSpec.` is deprecated:FutureWarning"
    ),
    pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`, callbacks"),
    pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty"),
]


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


@pytest.fixture
def folder(tmp_path: Path) -> str:
    (tmp_path / "data").mkdir()
    write(tmp_path / "data" / "train.jsonl", records_of(10))
    write(tmp_path / "data" / "dev.jsonl", records_of(5, "d"))
    return str(tmp_path / "data")


def test_a_batch_holds_padded_rows_with_masks(folder: str) -> None:
    data = Toy(path=folder, batch_size=3)
    (first, second) = list(data.val_dataloader())
    assert first["ids"] + second["ids"] == ["d0", "d1", "d2", "d3", "d4"]
    batch = first
    assert batch["input_ids"].shape == batch["key_mask"].shape == batch["global_mask"].shape
    assert batch["key_mask"].sum(1).tolist() == [4, 5]
    assert torch.equal(batch["input_ids"] != data.pad_id, batch["key_mask"])
    assert batch["global_mask"].nonzero().tolist() == [[0, 0], [1, 0]]
    assert batch["example"].tolist() == [0, 1]
    assert batch["labels"].tolist() == [0, 1]
    assert batch["input_ids"][0, 0] == data.tokenizer.first_id
    assert data.test_dataloader() == []


@pytest.mark.parametrize("number", [0, 7])
def test_resumed(folder: str, tmp_path: Path, number: int) -> None:
    fields = {"batch_size": 4, "num_workers": 1 if number else 0}
    whole = Recorder()
    trainer_of(tmp_path, every_step(tmp_path)).fit(whole, datamodule=Toy(path=folder, **fields))
    assert len(whole.seen) == 9
    for step in (1, 3, 7):
        model = Recorder()
        trainer_of(tmp_path / "again").fit(
            model, datamodule=Toy(path=folder, **fields), ckpt_path=tmp_path / f"step={step}.ckpt"
        )
        assert_same(model.seen, whole.seen[step:])


def test_padded() -> None:
    assert padded([[1], [2, 3]]).tolist() == [[1, -1], [2, 3]]
