"""Pages of a Wikipedia dump as plain text, split into training and held-out pages."""

from __future__ import annotations

import bz2
import hashlib
import html
import json
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from pathlib import Path

__all__ = ["plain", "write_pages"]

SHORTEST = 2000
"""Pages with fewer characters, such as redirections, are left out."""

_REMOVED = re.compile(
    r"<!--.*?-->|<ref[^>/]*/>|<(ref|math|gallery|timeline|imagemap|pre)\b.*?</\1\s*>|<[^<>]*>",
    re.DOTALL | re.IGNORECASE,
)
# The innermost template or table; repeated until there is none.
_TEMPLATE = re.compile(r"\{\{[^{}]*\}\}|\{\|(?:(?!\{\||\|\}).)*\|\}", re.DOTALL)
_FILE = re.compile(r"\[\[[^\[\]:|]+:(?:[^\[\]]|\[\[[^\[\]]*\]\])*\]\]")
_LINK = re.compile(r"\[\[(?:[^\[\]|]*\|)?([^\[\]]*)\]\]")
_OUTSIDE = re.compile(r"\[[a-z]+://[^\s\]]*\s*([^\]]*)\]")
_MARKS = re.compile(r"'{2,}|^[*#:;]+\s*|^=+\s*|\s*=+\s*$|^__[A-Z]+__$", re.MULTILINE)
_GAPS = re.compile(r"\n{2,}")


def plain(markup: str) -> str:
    """Return a page without templates, tables, notes, files and marks; links as they read."""
    text = _REMOVED.sub("", html.unescape(markup))
    for pattern in (_TEMPLATE, _FILE):
        count = 1
        while count:
            text, count = pattern.subn("", text)
    text = _OUTSIDE.sub(r"\1", _LINK.sub(r"\1", text))
    return _GAPS.sub("\n", _MARKS.sub("", text)).strip()


def write_pages(dump: Path, folder: Path, *, held_out: int, shortest: int | None = None) -> None:
    """Write `train.jsonl` and `val.jsonl`, one page a line: `{"title", "text"}`.

    Args:
        dump: An XML dump, plain or compressed by bzip2.
        folder: Where the two files go.
        held_out: Pages that are not trained on: those whose title has the smallest SHA-256.
        shortest: In place of `SHORTEST`.
    """
    least = SHORTEST if shortest is None else shortest
    pages = [
        {"title": title, "text": text}
        for title, markup in _pages(dump)
        if len(text := plain(markup)) >= least
    ]
    pages.sort(key=lambda page: hashlib.sha256(page["title"].encode()).hexdigest())
    folder.mkdir(parents=True, exist_ok=True)
    for split, part in (("val", pages[:held_out]), ("train", pages[held_out:])):
        lines = "".join(json.dumps(page, ensure_ascii=False) + "\n" for page in part)
        (folder / f"{split}.jsonl").write_text(lines, encoding="utf-8")


def _pages(dump: Path) -> Iterator[tuple[str, str]]:
    """Yield title and markup of the articles, without other name spaces."""
    opened = bz2.open(dump, "rb") if dump.suffix == ".bz2" else open(dump, "rb")
    with opened as file:
        for _, element in ElementTree.iterparse(file):
            if element.tag.rpartition("}")[2] != "page":
                continue
            found = {child.tag.rpartition("}")[2]: child.text or "" for child in element.iter()}
            if found.get("ns", "0") == "0":
                yield found["title"], found.get("text", "")
            element.clear()
