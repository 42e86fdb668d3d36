"""Classification of your own long documents, from JSON lines, CSV or Parquet."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from functools import cached_property
from types import MappingProxyType
from typing import Any

from datamodules.files.cache import cache_root, remembered
from datamodules.files.documents import Document
from datamodules.files.records import Record, RecordError, field_of
from datamodules.files.splitting import SplitName
from datamodules.files.tables import TABLES, table_rows
from datamodules.registry import register
from datamodules.tasks.classification.base import LabelledText, LabelledTexts, label_of

__all__ = ["Documents"]


def _names(*stems: str) -> tuple[str, ...]:
    return tuple(stem + ending for stem in stems for ending in TABLES)


@register("documents")
class Documents(LabelledTexts):
    """Documents of any number of classes: one a row of a .jsonl, .csv, .tsv or .parquet file.

    The splits are files of their own, or parts of the training files: by `val_groups` and
    `test_groups`, or else a share of `val_fraction` and `test_fraction`, chosen by a hash. With
    `group_field`, such as the author, all documents of a group are in the same split.

    Args:
        text_field: The field with the text.
        label_field: The field with the class: a text, a whole number, or true and false. It may be
            missing or null where there is nothing to train on.
        id_field: The field with the id. None takes `id` where there is one, and else the file and
            the number of the row.
        group_field: The field that decides the split.
        val_groups: The groups to validate on, where they are not drawn.
        test_groups: The groups to test on, where they are not drawn.
        label_names: The classes, in the order of their numbers; None takes those of the training
            files, sorted.
        **kwargs: As in `LabelledTexts`: path, train, val, test, val_fraction, test_fraction,
            tokenizer, max_length, long, keep_shared, submission_format, batch_size, and more.

    Raises:
        ValueError: An argument is out of range; the message names it.
    """

    official = MappingProxyType(
        {
            "train": _names("train"),
            "val": _names("val", "dev", "validation"),
            "test": _names("test"),
        }
    )

    def __init__(
        self,
        *,
        text_field: str = "text",
        label_field: str = "label",
        id_field: str | None = None,
        group_field: str | None = None,
        val_groups: list[str] | None = None,
        test_groups: list[str] | None = None,
        label_names: list[str] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if label_names is not None and (
            len(label_names) < 2 or len(set(label_names)) < len(label_names)
        ):
            raise ValueError(f"label_names must be two or more different ones, got {label_names}")
        self.groups: dict[SplitName, frozenset[str]] = {
            "val": frozenset(val_groups or ()),
            "test": frozenset(test_groups or ()),
        }
        if any(self.groups.values()) and group_field is None:
            raise ValueError("val_groups and test_groups need group_field, the field they are in")
        both = self.groups["val"] & self.groups["test"]
        if both:
            raise ValueError(f"group {min(both)!r} is in val_groups and in test_groups")
        self.text_field = text_field
        self.label_field = label_field
        self.id_field = id_field
        self.group_field = group_field
        self.label_names = label_names

    @cached_property
    def class_names(self) -> tuple[str, ...]:
        """The names of the classes, by number.

        Raises:
            ValueError: The training files have fewer than two classes.
        """
        if self.label_names is not None:
            return tuple(map(str, self.label_names))
        documents = self.documents()
        if "train" not in documents:
            raise ValueError("label_names must name the classes where there are no training files")
        root = cache_root(self.cache_dir)
        key = {
            "classes": self.label_field,
            "files": [document.digest(root) for document in documents["train"]],
        }
        found = tuple(json.loads(remembered(root, key, self._found_classes)))
        if len(found) < 2:
            raise ValueError(
                f"label_field {self.label_field!r} must have two or more classes, the training "
                f"files have {', '.join(map(repr, found)) or 'none'}"
            )
        return found

    def settings(self) -> dict[str, Any]:
        """Return what the examples depend on besides the base's fields."""
        fields = [self.text_field, self.label_field, self.id_field, self.group_field]
        groups = {split: sorted(names) for split, names in self.groups.items()}
        return {**super().settings(), "fields": fields, "groups": groups}

    def read(self, document: Document, split: SplitName) -> Iterator[Record | RecordError]:
        """Yield the rows of a file."""
        for place, row in table_rows(document):
            try:
                yield self._record(document, place, row, split)
            except RecordError as error:
                yield error

    def records(self, split: SplitName) -> Iterator[Record | RecordError]:
        """Yield the records of a split.

        Raises:
            ValueError: No record is of a group that was named, or a split that groups are named for
                has files of its own.
        """
        for part, groups in self.groups.items():
            if groups and part in self.documents():
                raise ValueError(f"{part}_groups: the {part} split has files of its own")
        missing = set(self.groups.get(split, ()))
        for record in super().records(split):
            if isinstance(record, LabelledText):
                missing.discard(record.group)
            yield record
        if missing:
            name = self.group_field
            raise ValueError(f"{split}_groups: no record has {name} {', '.join(sorted(missing))}")

    def parts(self) -> dict[SplitName, float]:
        """Return the splits that are parts of the training files, and the share that is drawn."""
        named: dict[SplitName, float] = {s: 0.0 for s, groups in self.groups.items() if groups}
        return {**super().parts(), **named}

    def part_of(self, record: LabelledText, shares: Mapping[SplitName, float]) -> SplitName:
        """Return the split of a record of the training files."""
        for split, groups in self.groups.items():
            if record.group in groups:
                return split
        return super().part_of(record, shares)

    def _record(
        self, document: Document, place: str, row: dict[str, Any], split: SplitName
    ) -> LabelledText:
        source = str(document)
        id_field = self.id_field or "id"
        if self.id_field is not None or id_field in row:
            id = label_of(row.get(id_field), source, place, id_field)
            if id is None:
                raise RecordError(source, place, id_field, "is missing")
        else:
            id = f"{document.name}:{place}"
        label = None
        if split == "train" or self.label_field in row:
            if self.label_field not in row:
                known = ", ".join(row)
                problem = f"is missing; fields there are: {known}"
                raise RecordError(source, id, self.label_field, problem)
            label = label_of(row[self.label_field], source, id, self.label_field)
            if label is None and split == "train":
                raise RecordError(source, id, self.label_field, "is empty")
        group = ""
        if self.group_field is not None:
            group = label_of(row.get(self.group_field), source, id, self.group_field) or ""
            if not group:
                raise RecordError(source, id, self.group_field, "is missing")
        return LabelledText(
            id, source, field_of(row, self.text_field, str, source, id), label, group
        )

    def _found_classes(self) -> str:
        """Return the classes of the training files as JSON, whole numbers in their order."""
        found = set()
        for document in self.documents()["train"]:
            for place, row in table_rows(document):
                label = label_of(row.get(self.label_field), document, place, self.label_field)
                if label is not None:
                    found.add(label)
        numbers = all(label.lstrip("-").isdecimal() for label in found)
        return json.dumps(sorted(found, key=int) if numbers else sorted(found))
