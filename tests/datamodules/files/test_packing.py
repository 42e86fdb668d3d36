"""Documents are found whole, each once, however files are cut."""

from pathlib import Path

import pytest

from datamodules.files.documents import Document, Section
from datamodules.files.packing import texts_in


def write(folder: Path, name: str, content: bytes) -> Document:
    (folder / name).write_bytes(content)
    return Document(folder / name, name)


def found(sections: list[Section], kind: str, field: str = "text") -> list[str]:
    texts = texts_in(sections, kind, field)  # type: ignore[arg-type]
    return [b"".join(text.pieces).decode() for text in texts]


def test_a_file_is_a_document_and_so_is_a_part_of_one(tmp_path: Path) -> None:
    document = write(tmp_path, "a.txt", b"one\ntwo\n")
    assert found([Section(document)], "files") == ["one\ntwo\n"]
    assert found([Section(document, 0, 4), Section(document, 4)], "files") == ["one\n", "two\n"]


@pytest.mark.parametrize("end", ["\n", ""])
def test_lines_belong_to_the_part_in_which_they_begin(tmp_path: Path, end: str) -> None:
    lines = ["first", "zweite Zeile mit Übermaß", "x", "the last one"]
    content = ("\n\n".join(lines) + end).encode()
    document = write(tmp_path, "a.txt", content)
    assert found([Section(document)], "lines") == lines
    for cut in range(len(content) + 1):
        parts = [Section(document, 0, cut), Section(document, cut)]
        assert [line for part in parts for line in found([part], "lines")] == lines, cut


def test_windows_line_ends_are_no_part_of_a_line(tmp_path: Path) -> None:
    assert found([Section(write(tmp_path, "a", b"one\r\ntwo\r\n"))], "lines") == ["one", "two"]


def test_records_have_their_text_in_a_field(tmp_path: Path) -> None:
    document = write(tmp_path, "a.jsonl", b'{"id": 1, "body": "one\\ntwo"}\n\n{"body": "three"}\n')
    assert found([Section(document)], "jsonl", "body") == ["one\ntwo", "three"]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b'{"text": ', r"a\.jsonl, the record at byte 16 is not JSON"),
        (b"[1]", r"byte 16 has no text in the field 'text'; it has list"),
        (b'{"body": "x", "id": 3}', "no text in the field 'text'; it has body, id"),
        (b'{"text": 3}', "no text in the field 'text'; it has text"),
        (b'{"text": " "}', "has an empty text in the field 'text'"),
    ],
)
def test_a_record_without_text_is_named(tmp_path: Path, line: bytes, message: str) -> None:
    document = write(tmp_path, "a.jsonl", b'{"text": "one"}\n' + line)
    with pytest.raises(ValueError, match=message):
        found([Section(document)], "jsonl")
