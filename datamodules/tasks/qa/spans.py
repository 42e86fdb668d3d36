"""Answers in texts: where they stand, and which tokens these places are."""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence

__all__ = ["answer_spans", "token_span"]


def answer_spans(
    text: str, answers: Iterable[str], whole_words: bool = True
) -> list[tuple[int, int]]:
    """Return every place where one of the answers stands, as characters [start, stop), in order.

    Case is ignored, and white space counts as white space whatever it is. A place that two answers
    share is returned once; an answer within a longer one is a place of its own.

    Args:
        text: The evidence.
        answers: The answer and its aliases.
        whole_words: Whether an answer must begin and end where words do: "York" is then not found
            in "Yorkshire".
    """
    found: set[tuple[int, int]] = set()
    for answer in {" ".join(answer.split()).lower() for answer in answers}:
        if not answer:
            continue
        pattern = r"\s+".join(map(re.escape, answer.split()))
        if whole_words:
            # An answer may begin or end with a sign that is part of no word.
            pattern = (r"(?<!\w)" if answer[0].isalnum() else "") + pattern
            pattern += r"(?!\w)" if answer[-1].isalnum() else ""
        found.update(m.span() for m in re.finditer(pattern, text, re.IGNORECASE))
    return sorted(found)


def token_span(places: Sequence[tuple[int, int]], start: int, stop: int) -> tuple[int, int] | None:
    """Return the first and the last token, inclusive, of characters [start, stop).

    Args:
        places: Characters of each token of a text, in order.
        start: First character.
        stop: The one after the last.

    Returns:
        The tokens that share a character with it; None where there is none.
    """
    first = bisect_right(places, start, key=lambda place: place[1])
    last = bisect_left(places, stop, key=lambda place: place[0]) - 1
    return (first, last) if first <= last else None
