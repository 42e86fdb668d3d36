"""Documents in files: one a file, one a line, or one a record of jsonlines."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from typing import Literal, NamedTuple

from datamodules.files.documents import Section

__all__ = ["Kind", "Text", "texts_in"]

Kind = Literal["files", "lines", "jsonl"]
"""What is a document: a file, a line that is not blank, or a record with a field of text."""


class Text(NamedTuple):
    """One document.

    Attributes:
        pieces: Its UTF-8 text, in pieces.
        source: Where it is, for errors.
        offset: Where the pieces begin in the file.
    """

    pieces: Iterable[bytes]
    source: str
    offset: int


def texts_in(sections: Sequence[Section], kind: Kind, field: str = "text") -> Iterator[Text]:
    """Yield the documents in parts of files.

    A line belongs to the part in which it begins.

    Args:
        sections: Parts of files; a part of a file is a document of its own where `kind` is files.
        kind: What a document is.
        field: Where the text of a record is.

    Raises:
        ValueError: A record is no JSON object with a text; the message names file and place.
    """
    for section in sections:
        source = str(section.document)
        if kind == "files":
            yield Text(section.pieces(), source, section.start)
            continue
        for offset, line in _lines(section):
            if not line.strip():
                continue
            if kind == "jsonl":
                line = _text_of(line, field, f"{source}, the record at byte {offset}").encode()
            yield Text((line,), source, offset)


def _lines(section: Section) -> Iterator[tuple[int, bytes]]:
    """Yield the lines that begin in a section, with their offsets, without their ends."""
    begin = section.start
    # One byte earlier, so that a line that begins exactly at the start is seen to.
    pieces = section.document.pieces(max(begin - 1, 0))
    skipping = begin > 0
    offset = max(begin - 1, 0)
    rest = b""
    for piece in chain(pieces, (b"\n",)):
        parts = (rest + piece).split(b"\n")
        rest = parts.pop()
        for part in parts:
            if not skipping:
                if section.stop is not None and offset >= section.stop:
                    return
                yield offset, part.removesuffix(b"\r")
            skipping = False
            offset += len(part) + 1


def _text_of(line: bytes, field: str, place: str) -> str:
    try:
        record = json.loads(line)
    except ValueError as error:
        raise ValueError(f"{place} is not JSON: {error}") from error
    if not isinstance(record, dict) or not isinstance(record.get(field), str):
        found = ", ".join(record) if isinstance(record, dict) else type(record).__name__
        raise ValueError(f"{place} has no text in the field {field!r}; it has {found}")
    if not record[field].strip():
        raise ValueError(f"{place} has an empty text in the field {field!r}")
    text: str = record[field]
    return text
