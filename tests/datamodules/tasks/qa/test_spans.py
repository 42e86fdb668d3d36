"""Answers are found wherever they stand, and become tokens."""

import random
import re
import unicodedata

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


COMPOSED, APART = "S\u00e3o Jos\u00e9", "Sa\u0303o Jose\u0301"
ISTANBUL = "\u0130stanbul"
HANGUL, JAMO = "\uc11c\uc6b8", "\u1109\u1165\u110b\u116e\u11af"


@pytest.mark.parametrize(
    ("text", "answer", "found"),
    [
        (f"In {COMPOSED}, ok", APART, [COMPOSED]),
        (f"In {APART}, ok", COMPOSED, [APART]),
        (f"In {APART}, ok", "Jose", []),
        (f"In {COMPOSED}, ok", "Jose", []),
        (f"\u0130\u0130 {ISTANBUL} x {ISTANBUL}", ISTANBUL, [ISTANBUL, ISTANBUL]),
        (f"in {ISTANBUL}!", "istanbul", [ISTANBUL]),
        (f"in {ISTANBUL}!", "I\u0307STANBUL", [ISTANBUL]),
        ("in istanbul and ISTANBUL", ISTANBUL, ["istanbul", "ISTANBUL"]),
        (f"in {ISTANBUL}li", "istanbul", []),
        (f"x {JAMO} y", HANGUL, [JAMO]),
        (f"x {HANGUL} y", JAMO, [HANGUL]),
        ("\u00c5 and \u212b and A\u030a", "\u00e5", ["\u00c5", "\u212b", "A\u030a"]),
        ("q\u0303uebec", "uebec", []),
        ("q\u0303uebec", "q", []),
        (
            "\u039f\u0394\u039f\u03a3 \u03bf\u03b4\u03bf\u03c2",
            "\u03bf\u03b4\u03bf\u03c2",
            ["\u039f\u0394\u039f\u03a3", "\u03bf\u03b4\u03bf\u03c2"],
        ),
    ],
)
def test_a_letter_is_the_same_however_it_is_composed(
    text: str, answer: str, found: list[str]
) -> None:
    spans = answer_spans(text, [answer])
    assert [text[start:stop] for start, stop in spans] == found


@pytest.mark.parametrize("whole", [True, False])
def test_composition_moves_no_place(whole: bool) -> None:
    """Against a search that tries every pair of places."""
    drawn = random.Random(5)
    signs = [
        "a",
        "e\u0301",
        "\u00e9",
        "\u0130",
        "i",
        "I",
        " ",
        "x\u0323\u0301",
        "\u1109\u1165",
        ".",
    ]
    for _ in range(60):
        text = "".join(drawn.choices(signs, k=12))
        answer = "".join(drawn.choices(signs[:7], k=drawn.randint(1, 3))).strip()
        spans = answer_spans(text, [answer], whole)
        assert spans == brute(text, answer, whole), (text, answer)


def plain(text: str) -> str:
    lower = unicodedata.normalize("NFD", text).lower()
    return " ".join(lower.replace("i\u0307", "i").split())


def brute(text: str, answer: str, whole: bool) -> list[tuple[int, int]]:
    def parts(at: int) -> bool:
        after = text[at : at + 1]
        return bool(after) and (bool(unicodedata.combining(after)) or after == "\u1165")

    def word(sign: str) -> bool:
        return bool(sign) and (sign.isalnum() or bool(unicodedata.combining(sign)))

    wanted = plain(answer)
    found = []
    # Matches do not overlap: each begins where the last one ended, or later.
    begin = 0
    while wanted and begin < len(text):
        ends = [
            end
            for end in range(begin + 1, len(text) + 1)
            if plain(text[begin:end]) == wanted
            and not text[begin].isspace()
            and not text[end - 1].isspace()
            and not parts(begin)
            and not parts(end)
            and not (whole and word(wanted[0]) and word(text[begin - 1 : begin]))
            and not (whole and word(wanted[-1]) and word(text[end : end + 1]))
        ]
        if ends:
            found.append((begin, ends[0]))
        begin = ends[0] if ends else begin + 1
    return found
