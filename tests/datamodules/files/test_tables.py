"""Tables are read row by row, and what is wrong with one is named."""

import gzip
import json
import zipfile

import pytest

from datamodules.files.documents import Document
from datamodules.files.records import RecordError
from datamodules.files.tables import is_table, table_rows

ROWS = [{"text": 'a "b",\nc', "label": "x"}, {"text": "é " * 100_000, "label": "y"}]
CSV = "text,label\r\n" + '"a ""b"",\nc",x\r\n' + f'"{ROWS[1]["text"]}",y'


def write(path, text):
    path.write_bytes(text.encode())
    return Document(path, path.name)


@pytest.mark.parametrize("name", ["t.csv", "t.tsv", "t.jsonl", "t.jsonlines", "t.csv.gz"])
def test_rows(tmp_path, name):
    text = CSV.replace(",x", "\tx").replace(",y", "\ty").replace("text,", "text\t")
    if ".csv" in name:
        text = CSV
    if "json" in name:
        text = "\n".join(map(json.dumps, ROWS))
    document = write(tmp_path / name, text)
    if name.endswith(".gz"):
        document.path.write_bytes(gzip.compress(text.encode()))
    assert is_table(document)
    assert [row for _, row in table_rows(document)] == ROWS


def test_a_table_in_an_archive(tmp_path):
    with zipfile.ZipFile(tmp_path / "t.zip", "w") as archive:
        archive.writestr("folder/t.csv", CSV)
    assert len([*table_rows(Document(tmp_path / "t.zip", "t", "folder/t.csv"))]) == 2


def test_parquet(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "t.parquet"
    parquet.write_table(pyarrow.Table.from_pylist(ROWS), path)
    document = Document(path, path.name)
    assert [*table_rows(document)] == [("row 1", ROWS[0]), ("row 2", ROWS[1])]
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(ValueError, match=r"t\.parquet is not a whole Parquet file"):
        next(table_rows(document))


@pytest.mark.parametrize(
    ("name", "text", "match"),
    [
        ("t.csv", "", r"t\.csv: record 'line 1': header: the names of the columns are missing"),
        ("t.csv", "a,a\n1,2\n", "column 'a' is there twice"),
        ("t.csv", "a,b\n1,2\n\n3\n", "record 'row 3': row: has 1 fields, the header has 2"),
        ("t.csv", 'a,b\n1,"2\n', "record 'line 2': row: not valid CSV: unexpected end"),
        ("t.jsonl", '{"a": 1}\n{"a": \n', "record 'line 2': line: not valid JSON"),
        ("t.jsonl", "[1]\n", r"record 'line 1': record: must be an object, got \[1\]"),
    ],
)
def test_what_is_broken_is_named(tmp_path, name, text, match):
    with pytest.raises(RecordError, match=match):
        list(table_rows(write(tmp_path / name, text)))


def test_other_endings_are_refused(tmp_path):
    document = write(tmp_path / "t.txt", "a")
    assert not is_table(document)
    with pytest.raises(ValueError, match=r"t\.txt: the file's name must end in \.jsonl, .*parquet"):
        list(table_rows(document))


def test_another_encoding_is_named(tmp_path):
    (tmp_path / "t.csv").write_bytes("text\né".encode("latin-1"))
    with pytest.raises(ValueError, match=r"t\.csv: the byte b'\\xe9' at offset 5 is not UTF-8"):
        list(table_rows(Document(tmp_path / "t.csv", "t.csv")))
