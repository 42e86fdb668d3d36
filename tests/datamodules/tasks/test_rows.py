"""Rows: what is cut, how chunks overlap, and where a token of the text went."""

import itertools

import pytest

from datamodules.tasks.rows import Role, Row, Tokens, windows


@pytest.mark.parametrize(("room", "overlap"), [(5, 0), (5, 2), (5, 4), (1, 0), (40, 3)])
def test_chunks_cover_everything_and_overlap(room: int, overlap: int) -> None:
    for length in range(40):
        parts = windows(length, room, overlap, "chunks")
        assert sorted({i for part in parts for i in part}) == list(range(length))
        assert all(len(part) == room for part in parts[:-1]), length
        assert len(parts[-1]) <= room, length
        for before, after in itertools.pairwise(parts):
            assert before.stop - after.start == overlap, length
            assert after.stop > before.stop, f"a chunk of {length} has something new"


def test_a_cut_keeps_the_beginning() -> None:
    assert windows(9, 5, 3, "cut") == [range(5)]
    assert windows(3, 5, 3, "cut") == [range(3)]


def test_tokens_are_joined_and_cut() -> None:
    tokens = Tokens.of([1, 2], Role.QUESTION) + Tokens.of([3], Role.TEXT, [(4, 6)])
    assert len(tokens) == 3
    assert tokens.roles == [Role.QUESTION, Role.QUESTION, Role.TEXT]
    assert tokens.offsets == [(0, 0), (0, 0), (4, 6)]
    assert tokens.cut(1, 3) == Tokens([2, 3], [3, 0], [(0, 0), (4, 6)])


def test_a_row_knows_where_a_token_of_the_text_went() -> None:
    row = Row(Tokens(), prefix=3, part=range(10, 20))
    assert [row.place(i) for i in (9, 10, 19, 20)] == [None, 3, 12, None]
