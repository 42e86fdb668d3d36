"""Texts are read in pieces, from plain and compressed files, and broken ones are named."""

import bz2
import gzip
import lzma
import os
import zipfile
from pathlib import Path

import pytest

from datamodules.files import documents
from datamodules.files.documents import PIECE, Document

TEXT = bytes(range(256)) * 20


def write(folder: Path, ending: str) -> Document:
    path = folder / f"text{ending}"
    if ending == ".zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("inner/text", TEXT)
        return Document(path, "text", "inner/text")
    compress = {".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress}.get(ending, bytes)
    path.write_bytes(compress(TEXT))
    return Document(path, "text")


@pytest.mark.parametrize("ending", ["", ".gz", ".bz2", ".xz", ".zip"])
def test_parts_and_size(tmp_path: Path, ending: str) -> None:
    document = write(tmp_path, ending)
    assert b"".join(document.pieces()) == TEXT
    assert b"".join(document.pieces(300, 1000)) == TEXT[300:1000]
    assert b"".join(document.pieces(5000)) == TEXT[5000:]
    assert document.size(tmp_path / "cache") == len(TEXT)
    assert document.size(tmp_path / "cache") == len(TEXT)


@pytest.mark.parametrize("ending", [".gz", ".bz2", ".xz", ".zip"])
def test_a_broken_file_is_named(tmp_path: Path, ending: str) -> None:
    document = write(tmp_path, ending)
    document.path.write_bytes(b"not compressed at all")
    with pytest.raises(ValueError, match=rf"text\{ending}.* cannot be decompressed"):
        list(document.pieces())


@pytest.mark.parametrize("ending", [".gz", ".bz2", ".xz"])
def test_a_file_cut_short_is_named(tmp_path: Path, ending: str) -> None:
    document = write(tmp_path, ending)
    document.path.write_bytes(document.path.read_bytes()[:-20])
    with pytest.raises(ValueError, match=rf"text\{ending} cannot be decompressed"):
        list(document.pieces())


def test_pieces_are_small(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"a" * (2 * PIECE + 5))
    assert [len(p) for p in Document(tmp_path / "x", "x").pieces()] == [PIECE, PIECE, 5]


def test_digest_depends_on_content_alone(tmp_path: Path) -> None:
    a, b, c = (Document(tmp_path / name, name) for name in "abc")
    a.path.write_text("same")
    b.path.write_text("same")
    c.path.write_text("Same")
    assert a.digest(tmp_path) == b.digest(tmp_path) != c.digest(tmp_path)


def test_the_digest_of_a_large_file_is_remembered_until_it_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(documents, "_LARGE", 1)
    path = tmp_path / "x"
    path.write_text("before")
    os.utime(path, (1_000_000, 1_000_000))
    first = Document(path, "x").digest(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(Document, "_hash", lambda self: pytest.fail("hashed again"))
        assert Document(path, "x").digest(tmp_path) == first
    path.write_text("after!")
    os.utime(path, (1_000_001, 1_000_001))
    assert Document(path, "x").digest(tmp_path) != first


def test_a_file_that_was_just_written_may_change_within_its_time_stamp(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(documents, "_LARGE", 1)
    path = tmp_path / "x"
    path.write_text("before")
    stamp = path.stat().st_mtime_ns
    first = Document(path, "x").digest(tmp_path)
    path.write_text("after!")
    os.utime(path, ns=(stamp, stamp))
    assert Document(path, "x").digest(tmp_path) != first
