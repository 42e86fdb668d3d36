"""The XML files of SemEval 2019 task 4: articles, and what was found of each."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from xml.etree.ElementTree import Element, ParseError, XMLPullParser

from datamodules.files.documents import Document
from datamodules.files.records import RecordError

__all__ = ["articles", "truths"]

# Where these begin and end, so does a paragraph. All others stand within one, as links do.
_BLOCKS = frozenset(
    "address article aside blockquote br caption center dd details div dl dt fieldset figcaption "
    "figure footer form h1 h2 h3 h4 h5 h6 header hr li main nav ol p pre section summary table "
    "tbody td tfoot th thead title tr ul".split()
)
# A quotation is a paragraph unless it is part of one.
_QUOTE, _PARAGRAPHS = "q", frozenset(("p", "li", "dd", "dt", "td", "th", "a"))
# What these hold is not text.
_NO_TEXT = frozenset(("script", "style"))
# Between paragraphs: a character that XML cannot hold.
_END = "\0"


def articles(document: Document) -> Iterator[tuple[str, str, int]]:
    """Yield id and text of each article: its title and all its text in order, a line a paragraph.

    The third is how many elements were left out, since they hold scripts and no text.

    Raises:
        RecordError: The XML is broken, or an article has no id.
    """
    for id, element in _elements(document):
        parts = [element.get("title", ""), _END]
        left_out = _gather(element, parts, quote_is_part=False)
        paragraphs = (" ".join(line.split()) for line in "".join(parts).split(_END))
        yield id, "\n".join(line for line in paragraphs if line), left_out


def _gather(element: Element, parts: list[str], quote_is_part: bool) -> int:
    """Add the text within an element to `parts`; return how many elements were left out."""
    left_out = 0
    parts.append(element.text or "")
    for child in element:
        name = child.tag.rpartition("}")[2].lower()
        if name in _NO_TEXT:
            left_out += 1
        else:
            block = name in _BLOCKS or (name == _QUOTE and not quote_is_part)
            parts.append(_END if block else "")
            left_out += _gather(child, parts, quote_is_part or name in _PARAGRAPHS)
            parts.append(_END if block else "")
        parts.append(child.tail or "")
    return left_out


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
