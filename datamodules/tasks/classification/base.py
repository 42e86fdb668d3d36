"""What all classification tasks share: texts with a class, `<s> text </s>`, and disjoint splits."""

from __future__ import annotations

import csv
import hashlib
import io
import json
from abc import abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import torch

from datamodules.files.records import Record, RecordError
from datamodules.files.splitting import SplitName
from datamodules.tasks.base import TaskData
from datamodules.tasks.batch import PADDING
from datamodules.tasks.rows import Example

__all__ = ["LabelledText", "LabelledTexts", "label_of"]

# A text of the one split may not be in the others.
_HELD_OUT: dict[SplitName, tuple[SplitName, ...]] = {
    "train": ("val", "test"),
    "val": ("test",),
    "test": (),
}


@dataclass(frozen=True)
class LabelledText(Record):
    """A text and its class.

    Attributes:
        text: The text.
        label: The name of its class; None where it is not known.
        group: What it shares with others, such as its author; "" where that does not matter.
        notes: What reading it left out, to be counted.
    """

    text: str
    label: str | None
    group: str = ""
    notes: tuple[str, ...] = ()


class LabelledTexts(TaskData):
    """Base of the classification tasks; the first token is global.

    A record of training whose text is also held out, or one of validation that is also tested on,
    is an error: figures on it would be too good. Where such records are taken all the same, they
    are counted.

    Attributes:
        unique_ids: Whether an id means the same record in all splits, so that these must not share
            any.

    Args:
        keep_shared: Take texts that are also in a held-out split all the same.
        split_seed: Decides which records are drawn by `val_fraction` and `test_fraction`.
        submission_format: "jsonl" writes {"id", "label"} lines, "csv" the columns id and label.
        **kwargs: As in `TaskData`: path, train, val, test, tokenizer, max_length, long, batch_size,
            and more.

    Raises:
        ValueError: An argument is out of range.
    """

    task = "classification"
    global_rule = "first"
    unique_ids: ClassVar[bool] = False
    version = 2

    def __init__(
        self,
        *,
        keep_shared: bool = False,
        split_seed: int = 0,
        submission_format: Literal["jsonl", "csv"] = "jsonl",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if submission_format not in ("jsonl", "csv"):
            raise ValueError(f"submission_format must be jsonl or csv, got {submission_format!r}")
        self.keep_shared = keep_shared
        self.split_seed = split_seed
        self.submission_format = submission_format

    @property
    @abstractmethod
    def class_names(self) -> tuple[str, ...]:
        """The names of the classes, by number."""

    @property
    def classes(self) -> int:
        """Number of classes."""
        return len(self.class_names)

    def settings(self) -> dict[str, Any]:
        """Return what the examples depend on besides the base's fields."""
        return {
            "classes": list(self.class_names),
            "keep_shared": self.keep_shared,
            "split_seed": self.split_seed,
        }

    def split_key(self, record: LabelledText) -> str:
        """Return what decides the split: the group of a record, or else its id."""
        return f"{self.split_seed}:{record.group or record.id}"

    def records(self, split: SplitName) -> Iterator[Record | RecordError]:
        """Yield the records of a split; those that are also held out as errors, or noted."""
        texts, ids = self._held_out(split)
        for record in super().records(split):
            if isinstance(record, LabelledText):
                other = texts.get(_digest(record.text))
                field = "text"
                if other is None:
                    field, other = "id", ids.get(record.id)
                if other is not None and self.keep_shared:
                    shared = f"{field} is also that of a held-out record"
                    record = replace(record, notes=(*record.notes, shared))
                elif other is not None:
                    record = RecordError(
                        record.source,
                        record.id,
                        field,
                        f"is also that of a held-out record, {other}; set skip_bad_records to "
                        f"leave such records out of the {split} split, keep_shared to take them",
                    )
            yield record

    def encode(self, record: LabelledText, split: SplitName) -> Example:
        """Return the rows of a text, and its class."""
        if not record.text.strip():
            raise RecordError(record.source, record.id, "text", "is empty")
        rows, notes = self.rows(record, self.first(), self.pieces(record.text), self.separator())
        notes[:0] = record.notes
        if record.label is None:
            notes.append("no label, so it is not scored")
        return Example(record.id, rows, {"label": self.number(record)}, notes)

    def labels(self, examples: Sequence[Example]) -> dict[str, Any]:
        """Return the fields of `ClassificationBatch`."""
        return {"labels": torch.tensor([example.fields["label"] for example in examples])}

    def number(self, record: LabelledText) -> int:
        """Return the class of a record, -1 where it is not known.

        Raises:
            RecordError: There is no such class.
        """
        if record.label is None:
            return PADDING
        if record.label not in self.class_names:
            known = ", ".join(self.class_names)
            problem = f"{record.label!r} is none of the classes {known}"
            raise RecordError(record.source, record.id, "label", problem)
        return self.class_names.index(record.label)

    def references(self, split: SplitName) -> Iterator[tuple[str, int]]:
        """Yield (id, class) of the records whose class is known."""
        for record in self.good_records(split):
            if record.label is not None:
                yield record.id, self.number(record)

    def submission(self, predictions: Iterable[Mapping[str, Any]]) -> str:
        """Return the predicted classes by name, in the format chosen."""
        rows = [{"id": p["id"], "label": self.class_names[p["label"]]} for p in predictions]
        if self.submission_format == "jsonl":
            return "".join(
                json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n" for row in rows
            )
        made = io.StringIO(newline="")
        writer = csv.DictWriter(made, ["id", "label"], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        return made.getvalue()

    def _held_out(self, split: SplitName) -> tuple[dict[bytes, str], dict[str, str]]:
        """Return where the texts, and the ids, are that `split` must not have."""
        texts: dict[bytes, str] = {}
        ids: dict[str, str] = {}
        there = self.splits()
        for other in _HELD_OUT[split]:
            for record in super().records(other) if other in there else ():
                if isinstance(record, LabelledText):
                    where = f"{record.id!r} of {record.source} ({other})"
                    texts[_digest(record.text)] = where
                    if self.unique_ids:
                        ids[record.id] = where
        return texts, ids


def label_of(value: Any, source: object, record: object, field: str) -> str | None:
    """Return a class as text: JSON may have it as a number or as true and false.

    Raises:
        RecordError: It is something else.
    """
    if value is None or value == "":
        return None
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (str, int)):
        return str(value).strip()
    raise RecordError(source, record, field, f"must be a text or a whole number, got {value!r:.60}")


def _digest(text: str) -> bytes:
    """Return what equal texts share, whatever the white space between words."""
    plain = " ".join(text.split()).encode("utf-8", "surrogatepass")
    return hashlib.blake2b(plain, digest_size=16).digest()
