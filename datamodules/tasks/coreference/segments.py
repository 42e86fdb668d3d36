"""A document as rows of pieces without overlap, cut where sentences end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["Segment", "segments"]


@dataclass
class Segment:
    """Consecutive words.

    Attributes:
        ids: Their pieces.
        words: For each piece, the number of the word in the document.
    """

    ids: list[int]
    words: list[int]


def segments(sentences: Sequence[Sequence[Sequence[int]]], room: int) -> tuple[list[Segment], int]:
    """Put as many sentences into each segment as it has room for.

    A sentence that is longer than a segment begins a new one, and is cut between words.

    Args:
        sentences: The pieces of each word of each sentence, at least one each.
        room: Pieces of a segment, at least those of the longest word.

    Returns:
        The segments, and how many sentences were cut.
    """
    made: list[Segment] = []
    cut = 0
    word = 0
    for sentence in sentences:
        length = sum(map(len, sentence))
        if not made or len(made[-1].ids) + length > room:
            made.append(Segment([], []))
        cut += length > room
        for pieces in sentence:
            if len(made[-1].ids) + len(pieces) > room:
                made.append(Segment([], []))
            made[-1].ids += pieces
            made[-1].words += [word] * len(pieces)
            word += 1
    return [segment for segment in made if segment.ids], cut
