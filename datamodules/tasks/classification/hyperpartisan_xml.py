"""The XML files of SemEval 2019 task 4: articles, and what was found of each."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from xml.etree.ElementTree import Element, ParseError, XMLPullParser

from datamodules.files.documents import Document
from datamodules.files.records import RecordError

__all__ = ["articles", "truths"]


def articles(document: Document) -> Iterator[tuple[str, str]]:
    """Yield id and text of each article: its title and its paragraphs, a line each.

    Raises:
        RecordError: The XML is broken, or an article has no id.
    """
    for id, element in _elements(document):
        lines = [element.get("title", "")]
        paragraphs = element.findall("p") or [element]
        lines += ["".join(paragraph.itertext()) for paragraph in paragraphs]
        plain = (" ".join(line.split()) for line in lines)
        yield id, "\n".join(line for line in plain if line)


def truths(document: Document) -> Iterator[tuple[str, str]]:
    """Yield id and "true" or "false" of each article.

    Raises:
        RecordError: The XML is broken, or an article has no id or another value.
    """
    for id, element in _elements(document):
        said = element.get("hyperpartisan")
        if said not in ("true", "false"):
            problem = f"must be true or false, got {said!r}"
            raise RecordError(document, id, "hyperpartisan", problem)
        yield id, said


def _elements(document: Document) -> Iterator[tuple[str, Element]]:
    """Yield each `article` with its id, and forget it."""
    parser: Any = XMLPullParser(["start", "end"])
    root: Element | None = None
    last = "none"
    try:
        for piece in document.pieces():
            parser.feed(piece)
            for event, element in parser.read_events():
                if event == "start":
                    root = element if root is None else root
                elif element.tag == "article":
                    id = element.get("id")
                    if not id:
                        raise RecordError(document, f"after {last}", "id", "is missing")
                    yield id, element
                    last = id
                    assert root is not None
                    root.clear()
        parser.close()
    except ParseError as error:
        raise RecordError(document, f"after {last}", "XML", f"is not well formed: {error}") from (
            error
        )
