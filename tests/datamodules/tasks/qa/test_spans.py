"""Answers are found wherever they stand, and become tokens."""

import re

import pytest

from datamodules.tasks.qa.spans import answer_spans, token_span

TEXT = "York is not Yorkshire. NEW  york! York\n(City of York) U.S. us"


@pytest.mark.parametrize(
    ("answers", "whole", "found"),
    [
        (["york"], True, ["York", "york", "York", "York"]),
        (["york"], False, ["York", "York", "york", "York", "York"]),
        (["New York"], True, ["NEW  york"]),
        (["York", "City of York"], True, ["York", "york", "York", "City of York", "York"]),
        (["york", "YORK", " York "], True, ["York", "york", "York", "York"]),
        (["York ("], True, ["York\n("]),
        (["U.S."], True, ["U.S."]),
        (["", "  ", "Leeds"], True, []),
    ],
)
def test_every_occurrence_is_found(answers: list[str], whole: bool, found: list[str]) -> None:
    spans = answer_spans(TEXT, answers, whole)
    assert [TEXT[start:stop] for start, stop in spans] == found
    assert spans == sorted(set(spans))


def test_signs_are_not_patterns() -> None:
    assert answer_spans("a.c abc (x)", ["a.c", "(x)"]) == [(0, 3), (8, 11)]


@pytest.mark.parametrize("gap", [1, 3])
def test_tokens_of_characters_are_all_that_share_one(gap: int) -> None:
    text = (" " * gap).join(["ab", "c", "defg", "h"])
    places = [m.span() for m in re.finditer(r"\S+", text)]
    for start in range(len(text)):
        for stop in range(start + 1, len(text) + 1):
            sharing = [i for i, (a, b) in enumerate(places) if a < stop and start < b]
            expected = (sharing[0], sharing[-1]) if sharing else None
            assert token_span(places, start, stop) == expected


def test_bytes_of_one_character_belong_together() -> None:
    places = [(0, 1), (1, 2), (1, 2), (1, 2), (2, 3)]
    assert token_span(places, 1, 2) == (1, 3)
    assert token_span([], 0, 1) is None
