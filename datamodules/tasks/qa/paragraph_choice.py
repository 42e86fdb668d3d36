"""Which paragraphs the first of two stages has chosen."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from datamodules.files.cache import digest_of
from datamodules.files.documents import Document
from datamodules.files.records import RecordError
from datamodules.files.text_records import json_lines, whole_text

__all__ = ["ParagraphChoice"]

Paragraph = tuple[str, tuple[str, ...]]


class ParagraphChoice:
    """Reads a file of chosen paragraphs when it is first needed.

    Args:
        path: {id: [title, ...]}, or lines {"id": ..., "paragraphs": [title, ...]}; best first.
        most: The first so many titles count; None takes all.

    Raises:
        FileNotFoundError: There is no such file.
    """

    def __init__(self, path: str, most: int | None) -> None:
        given = Path(path).expanduser()
        if not given.is_file():
            raise FileNotFoundError(f"selected: there is no file {path!r}")
        self.document = Document(given, given.name)
        self.most = most

    @cached_property
    def fingerprint(self) -> str:
        """A hash of what is chosen."""
        return digest_of([self._titles, self.most])

    def of(self, id: str, source: str, context: Sequence[Paragraph]) -> tuple[Paragraph, ...]:
        """Return the chosen paragraphs of a question, in the order of the context.

        Raises:
            RecordError: The file has nothing for it, or a title that it has not.
        """
        if id not in self._titles:
            raise RecordError(source, id, "selected", f"{self.document} has nothing for it")
        titles = self._titles[id][: self.most]
        there = {title for title, _ in context}
        unknown = next((title for title in titles if title not in there), None)
        if unknown is not None:
            problem = f"{self.document} names {unknown!r}, which is none of its paragraphs"
            raise RecordError(source, id, "selected", problem)
        return tuple(paragraph for paragraph in context if paragraph[0] in titles)

    @cached_property
    def _titles(self) -> dict[str, list[str]]:
        if self.document.path.name.split(".")[1:2] == ["jsonl"]:
            return {
                self._text(value, "id", number): self._list(value, number)
                for number, value in json_lines(self.document)
            }
        try:
            found = json.loads(whole_text(self.document))
        except json.JSONDecodeError as error:
            raise ValueError(f"{self.document} is not valid JSON: {error}") from error
        if not isinstance(found, dict):
            raise ValueError(f"{self.document} must be {{id: [title, ...]}}, got {found!r:.40}")
        return {id: self._list({"paragraphs": titles}, id) for id, titles in found.items()}

    def _text(self, value: Any, name: str, place: object) -> str:
        if not isinstance(value, dict) or not isinstance(value.get(name), str):
            raise RecordError(self.document, place, name, f"must be text, got {value!r:.40}")
        return str(value[name])

    def _list(self, value: Any, place: object) -> list[str]:
        titles = value.get("paragraphs")
        if not isinstance(titles, list) or not all(isinstance(t, str) for t in titles):
            problem = f"must be a list of titles, got {titles!r:.40}"
            raise RecordError(self.document, place, "paragraphs", problem)
        return titles
