"""IMDB: film reviews that praise or pan (Maas et al. 2011)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from html import unescape
from pathlib import PurePath
from types import MappingProxyType
from typing import Any, Literal

from datamodules.files.documents import Document
from datamodules.files.records import Record, RecordError, field_of
from datamodules.files.splitting import SplitName
from datamodules.files.tables import is_table, table_rows
from datamodules.files.text_records import whole_text
from datamodules.registry import register
from datamodules.tasks.classification.base import LabelledText, LabelledTexts, label_of
from datamodules.tasks.rows import Example

__all__ = ["Imdb"]

_SENTIMENT = {"neg": 0, "negative": 0, "0": 0, "pos": 1, "positive": 1, "1": 1}
_FOLDERS = {"neg": "neg", "pos": "pos", "unsup": None}
_BREAK = re.compile(r"<br\s*/?>", re.IGNORECASE)
_TABLES = (".csv", ".parquet", ".jsonl")


def _names(split: str, *folders: str) -> tuple[str, ...]:
    tables = tuple(split + ending for ending in _TABLES)
    return (*folders, *tables, f"{split}-*.parquet")


@register("imdb")
class Imdb(LabelledTexts):
    """IMDB reviews; class 0 is negative, 1 positive.

    Official files: `train/pos/*.txt`, `train/neg/*.txt` and the same of `test`, in a folder or in
    the archive aclImdb_v1.tar.gz. Also tables (.csv, .parquet, .jsonl) with the columns text and
    label (or review and sentiment): neg and pos, negative and positive, or 0 and 1. There is no
    official validation split: `val_fraction` draws one. Training and test share a few reviews,
    which are counted.

    Args:
        markup: "text" makes line breaks of `<br />` and characters of entities such as `&amp;`;
            "keep" takes the reviews as they stand in the files.
        source: Of tables with a column `source`, only rows with this value are taken.
        keep_shared: Take training reviews that are also in the test split.
        **kwargs: As in `LabelledTexts`: path, train, val, test, val_fraction, tokenizer,
            max_length, long, batch_size, and more.
    """

    official = MappingProxyType(
        {
            # One pattern for both folders, and nothing of the reviews without a class.
            "train": _names("train", "train/[pn][oe][sg]/*.txt"),
            "val": _names("val", "val/[pn][oe][sg]/*.txt"),
            "test": _names("test", "test/[pn][oe][sg]/*.txt"),
        }
    )

    def __init__(
        self,
        *,
        markup: Literal["text", "keep"] = "text",
        source: str = "imdb",
        keep_shared: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(keep_shared=keep_shared, **kwargs)
        if markup not in ("text", "keep"):
            raise ValueError(f"markup must be 'text' or 'keep', got {markup!r}")
        self.markup = markup
        self.source = source

    @property
    def class_names(self) -> tuple[str, ...]:
        """The names of the classes, by number."""
        return ("neg", "pos")

    def documents(self) -> dict[SplitName, list[Document]]:
        """Return the files of each split, the classes by turns, so that `limit` takes of both."""
        if self._documents is None:
            found = super().documents()
            self._documents = {split: sorted(files, key=_turn) for split, files in found.items()}
        return self._documents

    def settings(self) -> dict[str, Any]:
        """Return what the examples depend on besides the base's fields."""
        return {**super().settings(), "source": self.source, "markup": self.markup}

    def read(self, document: Document, split: SplitName) -> Iterator[Record | RecordError]:
        """Yield the review of a file, or those of a table."""
        if not is_table(document):
            yield self._written(_review(document))
            return
        for place, row in table_rows(document):
            try:
                yield self._written(self._row(document, place, row, split))
            except RecordError as error:
                yield error

    def _written(self, review: LabelledText) -> LabelledText:
        """Return a review as it is to be read: with its markup, or as plain text."""
        return review if self.markup == "keep" else replace(review, text=_plain(review.text))

    def encode(self, record: LabelledText, split: SplitName) -> Example:
        """Return the rows of a review, and its class; none of a review from elsewhere."""
        if record.group:
            return Example(record.id, [], {}, [f"source is {record.group}, not {self.source}"])
        return super().encode(record, split)

    def _row(
        self, document: Document, place: str, row: dict[str, Any], split: SplitName
    ) -> LabelledText:
        source, id = str(document), f"{document.name}:{place}"
        if "id" in row:
            id = label_of(row["id"], source, place, "id") or id
        text_field = "review" if "review" in row and "text" not in row else "text"
        label_field = "sentiment" if "sentiment" in row and "label" not in row else "label"
        said = label_of(row.get(label_field), source, id, label_field)
        elsewhere = label_of(row.get("source"), source, id, "source")
        if said is None and split == "train":
            raise RecordError(source, id, label_field, "is missing")
        # Kaggle and the datasets hub have -1 where there is no class.
        if said is not None and said.lower() not in (*_SENTIMENT, "-1"):
            known = ", ".join(_SENTIMENT)
            raise RecordError(source, id, label_field, f"{said!r} is none of {known}")
        number = _SENTIMENT.get(said.lower()) if said is not None else None
        return LabelledText(
            id,
            source,
            field_of(row, text_field, str, source, id),
            None if number is None else self.class_names[number],
            elsewhere if elsewhere not in (None, self.source) else "",
        )


def _plain(text: str) -> str:
    """Return the text that HTML shows."""
    return unescape(_BREAK.sub("\n", text))


def _turn(document: Document) -> tuple[int, str]:
    number = PurePath(document.member or document.name).name.split("_")[0]
    return int(number) if number.isdecimal() else 0, document.name


def _review(document: Document) -> LabelledText:
    """Return the review that is a file: its folder is its class."""
    name = PurePath(document.member or document.name)
    folder = name.parent.name or document.path.parent.name
    id = f"{folder}/{name.name.split('.')[0]}"
    if folder not in _FOLDERS:
        problem = f"must be {', '.join(_FOLDERS)}, got {folder!r}"
        raise RecordError(document, id, "folder", problem)
    return LabelledText(id, str(document), whole_text(document), _FOLDERS[folder])
