"""How answers are compared: the official normalisations, and the words two answers share."""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Callable
from typing import NamedTuple

__all__ = ["NORMALISERS", "Overlap", "overlap", "squad", "triviaqa"]

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_DELETE = str.maketrans("", "", string.punctuation)
# Besides ASCII punctuation: the quotation marks that question writers use.
_SPACE = str.maketrans({mark: " " for mark in string.punctuation + "‘’´`"})  # noqa: RUF001


def squad(answer: str) -> str:
    """Normalise as SQuAD and HotpotQA: "The U.S.A.!" is "usa".

    Lower case, no ASCII punctuation, no articles, single spaces.
    """
    return _plain(answer.lower().translate(_DELETE))


def triviaqa(answer: str) -> str:
    """Normalise as TriviaQA: "The U.S.A.!" is "u s".

    As `squad`, but punctuation, the underscores of page titles and quotation marks become spaces,
    so that single letters "a" become articles.
    """
    return _plain(answer.lower().translate(_SPACE))


NORMALISERS: dict[str, Callable[[str], str]] = {"squad": squad, "triviaqa": triviaqa}
"""Normalisations by the name of their rules."""


class Overlap(NamedTuple):
    """How well the words of an answer are those of another, each number in 0 to 1."""

    f1: float
    precision: float
    recall: float


def overlap(answer: str, gold: str) -> Overlap:
    """Compare normalised answers as bags of words; answers without a word share none."""
    words, wanted = answer.split(), gold.split()
    same = (Counter(words) & Counter(wanted)).total()
    if not same:
        return Overlap(0.0, 0.0, 0.0)
    precision, recall = same / len(words), same / len(wanted)
    return Overlap(2 * precision * recall / (precision + recall), precision, recall)


def _plain(text: str) -> str:
    return " ".join(_ARTICLES.sub(" ", text).split())
