"""Files, folders, globs and well-known archives are found, and what is not there is named."""

import zipfile
from pathlib import Path

import pytest

from datamodules.files.locate import find_corpus, find_documents


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    root = tmp_path / "tree"
    for name in ("b.txt", "a.txt", "sub/c.py", "sub/.hidden/d.txt", ".git/e.txt"):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    (root / "empty.txt").write_text("")
    return root


def names(files: str | list[str]) -> list[str]:
    return [document.name for document in find_documents(files)]


def test_a_folder_gives_all_below_but_hidden_and_empty_files(tree: Path) -> None:
    assert names(str(tree)) == ["a.txt", "b.txt", "sub/c.py"]


def test_a_glob_goes_through_folders(tree: Path) -> None:
    assert names(f"{tree}/**/*.py") == ["sub/c.py"]
    assert names([f"{tree}/*.txt"]) == ["a.txt", "b.txt"]


def test_a_file_named_twice_counts_once(tree: Path) -> None:
    assert names([f"{tree}/b.txt", str(tree)]) == ["b.txt", "a.txt", "sub/c.py"]


def test_members_of_an_archive_are_texts(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.writestr("d/two.txt", "2")
        archive.writestr("d/one.txt", "1")
    documents = find_documents(str(tmp_path / "x.zip"))
    assert [d.name for d in documents] == ["x.zip:d/one.txt", "x.zip:d/two.txt"]
    assert [b"".join(d.pieces()) for d in documents] == [b"1", b"2"]


@pytest.mark.parametrize("entry", ["nothing.txt", "*.nothing", "empty"])
def test_an_entry_without_text_is_named(
    tmp_path: Path, entry: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError) as caught:
        find_documents([entry])
    assert f"{entry!r} names no text" in str(caught.value)


def test_an_empty_file_and_an_empty_list_are_refused(tree: Path) -> None:
    with pytest.raises(ValueError, match=r"empty\.txt is empty"):
        find_documents(str(tree / "empty.txt"))
    with pytest.raises(ValueError, match="at least one file, folder or glob, got none"):
        find_documents([])


def test_a_corpus_is_found_in_its_folder_or_archive(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "text8.zip", "w") as archive:
        archive.writestr("text8", "abc")
    assert find_corpus(str(tmp_path), "text8", "").member == "text8"
    assert find_corpus(str(tmp_path / "text8.zip"), "text8", "").member == "text8"
    (tmp_path / "text8").write_text("abc")
    assert find_corpus(str(tmp_path), "text8", "").path == tmp_path / "text8"


def test_a_corpus_that_is_not_there_is_explained(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"there is no .*text8 or .*text8\.zip.*; get it"):
        find_corpus(str(tmp_path), "text8", "get it there")
    with pytest.raises(FileNotFoundError, match=r"there is no .*/x; get it"):
        find_corpus(str(tmp_path / "x"), "text8", "get it there")
    (tmp_path / "text8").write_text("")
    with pytest.raises(ValueError, match="text8 is empty"):
        find_corpus(str(tmp_path), "text8", "")


def test_an_archive_without_the_member_is_named(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "text8.zip", "w") as archive:
        archive.writestr("enwik8", "abc")
    with pytest.raises(ValueError, match=r"text8\.zip has no member 'text8'; it holds enwik8"):
        find_corpus(str(tmp_path), "text8", "")
    (tmp_path / "text8.zip").write_text("no archive")
    with pytest.raises(ValueError, match=r"text8\.zip is not a zip archive"):
        find_corpus(str(tmp_path), "text8", "")
