"""Records come out of text files one by one; what is broken is told with file and place."""

import json
from pathlib import Path

import pytest

import datamodules.files.documents
from datamodules.files.documents import Document
from datamodules.files.records import RecordError
from datamodules.files.text_records import json_array, json_lines, texts, whole_text

VALUES = [{"id": i, "text": "\u00e9\u2028" * (i % 9), "n": [i, -1.5, None]} for i in range(200)]


@pytest.fixture(params=[1 << 20, 64, 3])
def piece(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """Bytes that are read at a time: all at once, and less than a record."""
    monkeypatch.setattr(datamodules.files.documents, "PIECE", request.param)
    return request.param


def document_of(tmp_path: Path, text: str | bytes) -> Document:
    path = tmp_path / "data.json"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return Document(path, "data.json")


@pytest.mark.parametrize("ascii", [True, False])
@pytest.mark.parametrize("indent", [None, 1])
def test_an_array_is_what_json_reads(tmp_path: Path, piece: int, ascii: bool, indent) -> None:
    text = json.dumps(VALUES, ensure_ascii=ascii, indent=indent)
    assert list(json_array(document_of(tmp_path, text))) == VALUES
    wrapped = json.dumps({"version": 1, "other": [[]], "data": VALUES, "end": 2}, indent=indent)
    assert list(json_array(document_of(tmp_path, wrapped), "data")) == VALUES
    assert list(json_array(document_of(tmp_path, wrapped), ("Data", "data"))) == VALUES


def test_numbers_are_read_to_their_end(tmp_path: Path, piece: int) -> None:
    numbers = [123456789, 1.25e10, 1.5e-300, 7]
    assert list(json_array(document_of(tmp_path, json.dumps(numbers)))) == numbers


@pytest.mark.parametrize("text", ["[]", " [ ] ", "\ufeff[]"])
def test_an_empty_array(tmp_path: Path, text: str) -> None:
    assert list(json_array(document_of(tmp_path, text))) == []


def test_truncated_json_tells_after_which_record(tmp_path: Path, piece: int) -> None:
    text = json.dumps(VALUES)
    document = document_of(tmp_path, text[: text.index('"id": 150') + 20])
    values = json_array(document)
    assert [next(values) for _ in range(150)] == VALUES[:150], "what is whole is read before"
    message = r"data\.json: record '151': JSON: .* .after 150 records, the last of them 149"
    with pytest.raises(RecordError, match=message):
        next(values)


@pytest.mark.parametrize(
    ("text", "key", "message"),
    [
        ("", None, "ends before a list of records"),
        ('{"a": 1}', None, "expected a list of records, found '{'"),
        ("[1, 2", None, "ends before a comma or the end of the list .after 2 records"),
        ('[{"id": 1} {"id": 2}]', None, "expected a comma or the end of the list, found '{'"),
        ("[1]", "data", "expected an object with the member 'data', found '\\['"),
        ('{"data": {}}', "data", "expected a list as 'data', found '{'"),
        ('{"a": [], "b": 1}', "data", "no member 'data'; members there are: 'a', 'b'"),
        ("[nonsense]", None, "record 1 is cut short or not valid JSON: Expecting value"),
    ],
)
def test_broken_json_is_told(tmp_path: Path, text: str, key, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        list(json_array(document_of(tmp_path, text), key))


def test_json_lines_are_numbered_and_cut_at_line_feeds_alone(tmp_path: Path, piece: int) -> None:
    lines = [json.dumps(value, ensure_ascii=False) for value in VALUES]
    found = list(json_lines(document_of(tmp_path, "\n".join(lines[:3]) + "\n\n" + lines[3])))
    assert found == [(1, VALUES[0]), (2, VALUES[1]), (3, VALUES[2]), (5, VALUES[3])]


def test_a_broken_line_is_told(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match=r"record 'line 2': line: not valid JSON: .* at column 7"):
        list(json_lines(document_of(tmp_path, '{"a": 1}\n{"a": \n')))


def test_a_wrong_encoding_is_told_with_its_place(tmp_path: Path, piece: int) -> None:
    document = document_of(tmp_path, b'["\xc3\xa9", "caf\xe9"]')
    with pytest.raises(
        ValueError, match=r"data\.json: the byte b'\\xe9' at offset 11 is not UTF-8"
    ):
        list(json_array(document))
    with pytest.raises(ValueError, match=r"the byte b'\\xc3' at offset 1 is not UTF-8"):
        whole_text(document_of(tmp_path, b"a\xc3"))
    assert "".join(texts(document_of(tmp_path, "\ufeffa\u00e9"))) == "a\u00e9"
