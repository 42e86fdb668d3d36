"""Encoded examples on disk: whole pieces, read one at a time, kept over a kill."""

import os
from pathlib import Path

import pytest

import datamodules.tasks.store
from datamodules.files.records import Record, RecordError
from datamodules.tasks.rows import Example, Row, Tokens
from datamodules.tasks.store import Examples, encode_pieces


class Encode:
    """Makes rows out of ids, and can fail or leave records out."""

    def __init__(self, bad: tuple[str, ...] = (), calls: Path | None = None) -> None:
        self.bad = bad
        self.calls = calls

    def __call__(self, record: Record) -> Example:
        if self.calls is not None:
            with self.calls.open("a") as file:
                file.write(f"{record.id} ")
        if record.id in self.bad:
            raise RecordError(record.source, record.id, "text", "is bad")
        number = int(record.id)
        rows = [Row(Tokens([number] * (number % 5 + 1)))] if number % 4 else []
        notes = [] if rows else ["left out: a multiple of four"]
        return Example(record.id, rows, {"text": f"\u00e9{number}"}, notes)


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datamodules.tasks.store, "PIECE_RECORDS", 3)


def records(count: int) -> list[Record]:
    return [Record(str(i), "file") for i in range(count)]


@pytest.mark.parametrize("workers", [0, 2])
def test_examples_come_back_in_order(tmp_path: Path, workers: int) -> None:
    pieces = encode_pieces(tmp_path, "train", 1, records(20), Encode(), workers=workers)
    assert [piece.count for piece in pieces] == [2, 2, 2, 3, 2, 2, 2]
    examples = Examples(tmp_path, pieces)
    expected = [i for i in range(20) if i % 4]
    assert len(examples) == len(expected)
    assert [e.id for e in examples] == [str(i) for i in expected]
    assert examples[3] == Encode()(Record("5", "file"))
    notes = [id for piece in pieces for id in piece.notes.get("left out: a multiple of four", [])]
    assert notes == ["0", "4", "8", "12", "16"]
    with pytest.raises(IndexError, match="example 15 of 15"):
        examples[15]


@pytest.mark.parametrize("workers", [0, 2])
def test_a_bad_record_is_an_error_or_is_left_out_and_told(tmp_path: Path, workers: int) -> None:
    bad = Encode(bad=("7",))
    with pytest.raises(RecordError, match=r"^file: record '7': text: is bad$"):
        encode_pieces(tmp_path, "train", 1, records(20), bad, workers=workers)
    pieces = encode_pieces(tmp_path, "x", 2, records(20), bad, skip_bad=True, workers=workers)
    assert pieces[2].notes == {
        "left out: text: is bad": ["7"],
        "left out: a multiple of four": ["8"],
    }
    assert "7" not in [e.id for e in Examples(tmp_path, pieces)]


def test_what_was_done_before_a_kill_is_not_done_again(tmp_path: Path) -> None:
    killed, again = tmp_path / "killed.txt", tmp_path / "again.txt"

    class Killed(Encode):
        def __call__(self, record: Record) -> Example:
            if record.id == "7":
                raise KeyboardInterrupt
            return super().__call__(record)

    with pytest.raises(KeyboardInterrupt):
        encode_pieces(tmp_path, "train", 1, records(10), Killed(calls=killed))
    assert killed.read_text().split() == [str(i) for i in range(7)]
    pieces = encode_pieces(tmp_path, "train", 1, records(10), Encode(calls=again))
    assert again.read_text().split() == ["6", "7", "8", "9"], "two whole pieces were there"
    assert [e.id for e in Examples(tmp_path, pieces)] == ["1", "2", "3", "5", "6", "7", "9"]
    encode_pieces(tmp_path, "train", "another key", records(10), Encode(calls=again))
    assert len(again.read_text().split()) == 14, "another key shares nothing"


def test_no_records_make_no_examples(tmp_path: Path) -> None:
    assert len(Examples(tmp_path, encode_pieces(tmp_path, "val", 1, [], Encode()))) == 0


def test_work_is_done_by_other_processes(tmp_path: Path) -> None:
    class Who(Encode):
        def __call__(self, record: Record) -> Example:
            return Example(record.id, [Row(Tokens([os.getpid()]))])

    pieces = encode_pieces(tmp_path, "train", 1, records(12), Who(), workers=2)
    found = {example.rows[0].tokens.ids[0] for example in Examples(tmp_path, pieces)}
    assert os.getpid() not in found
    assert len(found) == 2
