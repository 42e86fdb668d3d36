"""Rows with named fields: JSON lines, CSV, tab-separated values and Parquet."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator
from pathlib import PurePath
from typing import Any

from datamodules.files.documents import COMPRESSED, Document
from datamodules.files.records import RecordError
from datamodules.files.text_records import json_lines, lines, texts

__all__ = ["TABLES", "is_table", "table_rows"]

# Documents are longer than the library's limit on a field; this is the most it takes anywhere.
_LONGEST_FIELD = 2**31 - 1


def table_rows(document: Document) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the place and the fields of each row, by the ending of the file.

    Raises:
        RecordError: A row is broken; the message names it.
        ValueError: The ending is none of `TABLES`, or the text is not UTF-8.
        ModuleNotFoundError: The file is Parquet, and pyarrow is not installed.
    """
    read = TABLES.get(_ending(document))
    if read is None:
        raise ValueError(f"{document}: the file's name must end in {', '.join(TABLES)}")
    for place, row in read(document):
        if not isinstance(row, dict):
            raise RecordError(document, place, "record", f"must be an object, got {row!r:.60}")
        yield place, row


def is_table(document: Document) -> bool:
    """Return whether the name ends as that of a table."""
    return _ending(document) in TABLES


def _ending(document: Document) -> str:
    name = PurePath(document.member or document.path.name)
    return name.with_suffix("").suffix if name.suffix in COMPRESSED else name.suffix


def _json(document: Document) -> Iterator[tuple[str, Any]]:
    for number, value in json_lines(document):
        yield f"line {number}", value


def _separated(document: Document, delimiter: str) -> Iterator[tuple[str, Any]]:
    csv.field_size_limit(_LONGEST_FIELD)
    # The library wants the ends of the lines, which may be within a field.
    ended = (line + "\n" for line in lines(texts(document)))
    reader = csv.reader(ended, delimiter=delimiter, strict=True)
    try:
        names = next(reader, None)
        if names is None:
            raise RecordError(document, "line 1", "header", "the names of the columns are missing")
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise RecordError(document, "line 1", "header", f"column {twice!r} is there twice")
        for number, values in enumerate(reader, 1):
            if len(values) != len(names):
                if not values:
                    continue  # an empty line
                problem = f"has {len(values)} fields, the header has {len(names)}"
                raise RecordError(document, f"row {number}", "row", problem)
            yield f"row {number}", dict(zip(names, values, strict=True))
    except csv.Error as error:
        place = f"line {reader.line_num}"
        raise RecordError(document, place, "row", f"not valid CSV: {error}") from error


def _csv(document: Document) -> Iterator[tuple[str, Any]]:
    return _separated(document, ",")


def _tsv(document: Document) -> Iterator[tuple[str, Any]]:
    return _separated(document, "\t")


def _parquet(document: Document) -> Iterator[tuple[str, Any]]:
    try:
        from pyarrow import ArrowInvalid
        from pyarrow.parquet import ParquetFile
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"{document} needs pyarrow: install sparse-patterns with the extra `tasks`",
            name="pyarrow",
        ) from error
    if document.member is not None or document.path.suffix != ".parquet":
        raise ValueError(f"{document}: unpack Parquet files, they are compressed in themselves")
    try:
        with ParquetFile(document.path) as file:
            number = 0
            for batch in file.iter_batches():
                for row in batch.to_pylist():
                    number += 1
                    yield f"row {number}", row
    except ArrowInvalid as error:
        raise ValueError(f"{document} is not a whole Parquet file: {error}") from error


TABLES: dict[str, Callable[[Document], Iterator[tuple[str, Any]]]] = {
    ".jsonl": _json,
    ".jsonlines": _json,
    ".csv": _csv,
    ".tsv": _tsv,
    ".parquet": _parquet,
}
"""How a table is read, by the ending of its name."""
