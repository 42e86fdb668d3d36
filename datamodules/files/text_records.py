"""Records in text files: JSON arrays read one element at a time, JSON lines, and whole texts."""

from __future__ import annotations

import codecs
import json
from collections.abc import Iterable, Iterator
from typing import Any

from datamodules.files.documents import Document
from datamodules.files.records import RecordError

__all__ = ["json_array", "json_lines", "lines", "texts", "whole_text"]

_SPACE = " \t\r\n"


def texts(document: Document) -> Iterator[str]:
    """Read a UTF-8 text in parts, without a byte-order mark.

    Raises:
        ValueError: A byte is not UTF-8; the message names file, offset and byte.
    """
    decoder = codecs.getincrementaldecoder("utf-8-sig")()
    offset = 0
    for piece in _with_end(document.pieces()):
        pending = len(decoder.getstate()[0])
        try:
            text = decoder.decode(piece, final=not piece)
        except UnicodeDecodeError as error:
            place = offset - pending + error.start
            byte = error.object[error.start : error.start + 1]
            raise ValueError(
                f"{document}: the byte {byte!r} at offset {place} is not UTF-8 text; convert the "
                "file to UTF-8"
            ) from error
        offset += len(piece)
        yield text


def whole_text(document: Document) -> str:
    """Return a UTF-8 text.

    Raises:
        ValueError: A byte is not UTF-8; the message names file, offset and byte.
    """
    return "".join(texts(document))


def json_lines(document: Document) -> Iterator[tuple[int, Any]]:
    """Yield (line number from 1, value) of a JSON-lines file; empty lines are passed over.

    Raises:
        RecordError: A line is no JSON.
        ValueError: The text is not UTF-8.
    """
    for number, line in enumerate(lines(texts(document)), 1):
        if line.strip():
            try:
                yield number, json.loads(line)
            except json.JSONDecodeError as error:
                problem = f"not valid JSON: {error.msg} at column {error.colno}"
                raise RecordError(document, f"line {number}", "line", problem) from error


def json_array(document: Document, key: str | tuple[str, ...] | None = None) -> Iterator[Any]:
    """Yield the elements of a JSON array, without reading the whole of it into memory.

    Args:
        document: The file.
        key: None where the array is all of the file; else the member of the outermost object that
            it is, or several names of which the first to come is taken.

    Raises:
        RecordError: The JSON is broken or cut short; the message tells after how many records.
        ValueError: The text is not UTF-8, or holds something else.
    """
    reader = _Reader(document)
    if key is None:
        reader.expect("[", "a list of records")
        yield from reader.elements()
        return
    keys = (key,) if isinstance(key, str) else key
    wanted = " or ".join(map(repr, keys))
    reader.expect("{", f"an object with the member {wanted}")
    names: list[str] = []
    while reader.peek() != "}":
        if names:
            reader.expect(",", "a comma between members")
        name = reader.value("a member")
        reader.expect(":", f"a value of {name!r}")
        if name in keys:
            reader.expect("[", f"a list as {name!r}")
            yield from reader.elements()
            return
        reader.value(f"the value of {name!r}")
        names.append(name)
    found = ", ".join(map(repr, names)) or "none"
    raise ValueError(f"{document}: there is no member {wanted}; members there are: {found}")


class _Reader:
    """JSON values one after the other, from a text that is read as far as needed."""

    def __init__(self, document: Document) -> None:
        self.document = document
        self.parts = texts(document)
        self.buffer = ""
        self.place = 0
        self.decoder = json.JSONDecoder()
        self.count = 0
        self.last: Any = None

    def peek(self) -> str:
        """Return the next sign that is no white space; "" at the end."""
        while True:
            while self.place < len(self.buffer) and self.buffer[self.place] in _SPACE:
                self.place += 1
            if self.place < len(self.buffer):
                return self.buffer[self.place]
            if not self._more():
                return ""

    def expect(self, sign: str, what: str) -> None:
        """Pass over a sign."""
        found = self.peek()
        if found != sign:
            self._fail(f"expected {what}, found {found!r}" if found else f"ends before {what}")
        self.place += 1

    def value(self, what: str) -> Any:
        """Read a value, with as much more of the text as it takes."""
        self.peek()
        while True:
            try:
                value, stop = self.decoder.raw_decode(self.buffer, self.place)
            except json.JSONDecodeError as error:
                if not self._more(len(self.buffer) - self.place):
                    self._fail(f"{what} is cut short or not valid JSON: {error.msg}", error)
                continue
            # A number may continue after what was read, as in "12." of "12.5" or "1e+" of "1e+5".
            if len(self.buffer) - stop > 2 or not self._more():
                self.place = stop
                return value

    def elements(self) -> Iterator[Any]:
        """Read the rest of an array."""
        while self.peek() != "]":
            if self.count:
                self.expect(",", "a comma or the end of the list")
            self.last = self.value(f"record {self.count + 1}")
            self.count += 1
            yield self.last
        self.place += 1

    def _more(self, least: int = 0) -> bool:
        """Read on, by at least as much as was looked at in vain, which keeps the work linear."""
        added = []
        size = 0
        for part in self.parts:
            added.append(part)
            size += len(part)
            if size > least:
                break
        if not size:
            return False
        self.buffer = self.buffer[self.place :] + "".join(added)
        self.place = 0
        return True

    def _fail(self, problem: str, error: Exception | None = None) -> None:
        after = f"{self.count} records"
        identity = (
            self.last.get("id", self.last.get("_id")) if isinstance(self.last, dict) else None
        )
        if identity is not None:
            after += f", the last of them {identity!r}"
        raise RecordError(
            self.document, self.count + 1, "JSON", f"{problem} (after {after})"
        ) from error


def _with_end(pieces: Iterable[bytes]) -> Iterator[bytes]:
    for piece in pieces:
        if piece:
            yield piece
    yield b""


def lines(parts: Iterable[str]) -> Iterator[str]:
    """Cut a text at line feeds alone: JSON may hold other signs that Python takes for line ends."""
    rest = ""
    for part in parts:
        *whole, rest = (rest + part).split("\n")
        yield from whole
    if rest:
        yield rest
