"""Official files are found in folders and archives, or as the user names them."""

import gzip
import io
import tarfile
import zipfile
from pathlib import Path

import pytest

from datamodules.files.archives import open_folder, split_files

OFFICIAL = {"train": ("set/train.json", "train.json"), "val": ("dev.json",), "test": ("t/*.txt",)}
NONE = {"train": None, "val": None, "test": None}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "release"
    for name in ("v1/set/train.json", "v1/other/train.json", "v1/t/b.txt", "v1/t/a.txt"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(name)
    (root / "v1" / "t" / ".hidden.txt").write_text("no")
    (root / "v1" / "dev.json.gz").write_bytes(gzip.compress(b"dev"))
    return root


def texts(found) -> dict[str, list[bytes]]:
    return {split: [b"".join(d.pieces()) for d in documents] for split, documents in found.items()}


EXPECTED = {
    "train": [b"v1/set/train.json"],
    "val": [b"dev"],
    "test": [b"v1/t/a.txt", b"v1/t/b.txt"],
}


def test_files_of_a_folder_are_found_by_their_names(folder: Path, tmp_path: Path) -> None:
    for start in (folder, folder / "v1"):
        assert texts(split_files(str(start), NONE, OFFICIAL, tmp_path)) == EXPECTED


MODES = {".tar": "w", ".tgz": "w:gz", ".tar.gz": "w:gz", ".tar.bz2": "w:bz2", ".tar.xz": "w:xz"}


@pytest.mark.parametrize("ending", [".zip", *MODES])
def test_an_archive_is_unpacked_once(folder: Path, tmp_path: Path, cache: Path, ending) -> None:
    archive = tmp_path / f"release{ending}"
    if ending == ".zip":
        with zipfile.ZipFile(archive, "w") as file:
            for path in folder.rglob("*"):
                file.write(path, path.relative_to(folder))
    else:
        with tarfile.open(archive, MODES[ending]) as tar:
            tar.add(folder, "release")
    assert texts(split_files(str(archive), NONE, OFFICIAL, cache)) == EXPECTED
    first = open_folder(str(archive), cache)
    (first / "mark").touch()
    assert (open_folder(str(archive), cache) / "mark").exists()


def test_named_files_go_before_official_ones(folder: Path, tmp_path: Path) -> None:
    given = {**NONE, "val": str(folder / "v1" / "t" / "a.txt")}
    found = split_files(str(folder), given, {**OFFICIAL, "test": ()}, tmp_path)
    assert texts(found) == {"train": EXPECTED["train"], "val": [b"v1/t/a.txt"]}


def test_a_file_in_two_splits_is_refused(folder: Path, tmp_path: Path) -> None:
    file = str(folder / "v1" / "t" / "a.txt")
    with pytest.raises(ValueError, match=r"a\.txt is in the splits train and val"):
        split_files(None, {**NONE, "train": file, "val": [file]}, OFFICIAL, tmp_path)


def test_what_is_missing_is_named(tmp_path: Path, cache: Path) -> None:
    with pytest.raises(ValueError, match=r"name the files: path .* or train, val and test"):
        split_files(None, NONE, OFFICIAL, cache)
    with pytest.raises(FileNotFoundError, match=r"none of the official files \(train: set/train"):
        split_files(str(tmp_path), NONE, OFFICIAL, cache)
    with pytest.raises(FileNotFoundError, match="path: there is no 'nowhere'"):
        split_files("nowhere", NONE, OFFICIAL, cache)
    with pytest.raises(FileNotFoundError, match=r"files: 'nowhere\.json' names no text"):
        split_files(None, {**NONE, "train": "nowhere.json"}, OFFICIAL, cache)


@pytest.mark.parametrize(
    ("name", "split"),
    [
        *[("single.json", "train"), ("train.json", "train"), ("dev.json", "val")],
        *[("dev.json.gz", "val"), ("a.txt", "train")],
    ],
)
def test_a_single_file_is_of_the_split_of_its_name(tmp_path: Path, name: str, split: str) -> None:
    file = tmp_path / name
    file.write_bytes(gzip.compress(b"one") if name.endswith(".gz") else b"one")
    assert texts(split_files(str(file), NONE, OFFICIAL, tmp_path)) == {split: [b"one"]}
    other = tmp_path / "other"
    other.write_bytes(b"two")
    given = {**NONE, "test": str(other)}
    assert texts(split_files(str(file), given, OFFICIAL, tmp_path)) == {
        split: [b"one"],
        "test": [b"two"],
    }
    with pytest.raises(ValueError, match=rf"is a single file, of the {split} split, which {split}"):
        split_files(str(file), {**NONE, split: str(other)}, OFFICIAL, tmp_path)


@pytest.mark.parametrize("name", ["broken.zip", "broken.tgz", "broken.tar.xz"])
def test_a_broken_archive_is_named(tmp_path: Path, cache: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"nonsense" * 99)
    with pytest.raises(ValueError, match=rf"{name} cannot be unpacked"):
        open_folder(str(tmp_path / name), cache)
    assert list(cache.glob("unpacked-*")) == []


@pytest.mark.parametrize("filters", [True, False], ids=["with filters", "an older Python"])
def test_an_archive_that_writes_elsewhere_is_refused(
    filters: bool, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not filters:
        monkeypatch.delattr(tarfile, "data_filter", raising=False)
    with tarfile.open(tmp_path / "bad.tar", "w") as tar:
        member = tarfile.TarInfo("../../elsewhere.txt")
        member.size = 2
        tar.addfile(member, io.BytesIO(b"hi"))
    with pytest.raises(ValueError, match=r"bad\.tar cannot be unpacked"):
        open_folder(str(tmp_path / "bad.tar"), cache)
