"""The two normalisations and where they differ; words in common."""

import pytest

from lit_modules.metrics.answers import overlap, squad, triviaqa


@pytest.mark.parametrize(
    ("answer", "by_squad", "by_triviaqa"),
    [
        ("The  Cat", "cat", "cat"),
        ("\ta cat\nand an owl ", "cat and owl", "cat and owl"),
        ("theatre", "theatre", "theatre"),
        ("well-known", "wellknown", "well known"),
        ("Tom_Hanks", "tomhanks", "tom hanks"),
        ("U.S.A.", "usa", "u s"),
        ("rock 'n' roll", "rock n roll", "rock n roll"),
        ("O’Neill", "o’neill", "o neill"),  # noqa: RUF001
        ("‘t Hooft´s `x`", "‘t hooft´s x", "t hooft s x"),  # noqa: RUF001
        ("“quoted”", "“quoted”", "“quoted”"),
        ("1,000", "1000", "1 000"),
        ("A", "", ""),
        ("É", "é", "é"),
        ("a-ha", "aha", "ha"),
        ("", "", ""),
    ],
)
def test_normalised(answer, by_squad, by_triviaqa):
    assert squad(answer) == by_squad
    assert triviaqa(answer) == by_triviaqa


def test_overlap_counts_words_as_often_as_both_have_them():
    found = overlap("x x y z", "x x x y")
    assert found == (3 / 4, 3 / 4, 3 / 4)
    assert overlap("x y", "x y z w") == (pytest.approx(2 / 3), 1.0, 0.5)
    assert overlap("x", "y") == overlap("", "x") == overlap("", "") == (0, 0, 0)
