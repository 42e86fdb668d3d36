"""Answers in texts: where they stand, and which tokens these places are."""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence

from datamodules.tasks.qa.folding import Folded

__all__ = ["answer_spans", "token_span"]

# Those that are composed with no letter stay; Python does not count them to words.
_ACCENTS = "\u0300-\u036f"


def answer_spans(
    text: str, answers: Iterable[str], whole_words: bool = True
) -> list[tuple[int, int]]:
    """Return every place where one of the answers stands, as characters [start, stop), in order.

    Case is ignored, white space counts as white space whatever it is, and a letter with its accents
    is the same however it is composed (Unicode's canonical equivalence). A place that two answers
    share is returned once; an answer within a longer one is a place of its own.

    Args:
        text: The evidence.
        answers: The answer and its aliases.
        whole_words: Whether an answer must begin and end where words do: "York" is then not found
            in "Yorkshire".
    """
    folded = Folded(text)
    found: set[tuple[int, int]] = set()
    for answer in {Folded(" ".join(answer.split()).lower()).text for answer in answers}:
        if not answer:
            continue
        pattern = r"\s+".join(map(re.escape, answer.split()))
        if whole_words:
            # An answer may begin or end with a sign that is part of no word.
            pattern = (rf"(?<![\w{_ACCENTS}])" if answer[0].isalnum() else "") + pattern
            pattern += r"(?!\w)" if answer[-1].isalnum() else ""
        for match in re.finditer(pattern, folded.text, re.IGNORECASE):
            span = folded.span(*match.span())
            if span is not None:
                found.add(span)
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
