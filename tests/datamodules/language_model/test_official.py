"""text8 and enwik8: the official split, and clear words for any other file."""

import bz2
import zipfile
from pathlib import Path

import pytest

from datamodules import Enwik8, Text8
from datamodules.language_model import official

# The same shares in small.
SIZES = {"train": 900, "val": 50, "test": 50}
LETTERS = ("the quick brown fox jumps over a lazy dog " * 30)[:1000]


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(official, "OFFICIAL_SIZES", SIZES)


def texts(data: Text8 | Enwik8) -> dict[str, str]:
    found = {}
    for split in SIZES:
        part = data.split(split)
        assert part is not None
        found[split] = data.decode(part.tokens.read(0, len(part.tokens)).tolist())
    return found


def test_the_official_sizes() -> None:
    assert dict(official.OFFICIAL_SIZES) == {
        "train": 90_000_000,
        "val": 5_000_000,
        "test": 5_000_000,
    }


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("ending", ["", ".zip", ".bz2"])
@pytest.mark.parametrize("kind", [Text8, Enwik8])
def test_split_of_the_official_file(tmp_path: Path, ending: str, kind) -> None:
    name = kind.official_name
    if ending == ".zip":
        with zipfile.ZipFile(tmp_path / f"{name}.zip", "w") as archive:
            archive.writestr(name, LETTERS)
    else:
        write = bz2.compress if ending else bytes
        (tmp_path / f"{name}{ending}").write_bytes(write(LETTERS.encode()))
    expected = {"train": LETTERS[:900], "val": LETTERS[900:950], "test": LETTERS[950:]}
    assert texts(kind(str(tmp_path))) == expected


def test_vocabularies() -> None:
    assert (Text8.official_name, Text8("x").vocabulary_size, Text8("x").unit) == (
        "text8",
        27,
        "character",
    )
    assert (Enwik8("x").vocabulary_size, Enwik8("x").unit) == (256, "byte")
    assert Text8("x").encode(" az") == [0, 1, 26]
    assert Text8("x").decode([0, 1, 26]) == " az"


@pytest.mark.parametrize("kind", [Text8, Enwik8])
def test_another_size_is_refused_or_split_in_proportion(tmp_path: Path, kind) -> None:
    path = tmp_path / "file"
    path.write_text(LETTERS)
    with pytest.raises(
        ValueError, match=r"file has 1,000 bytes, the official \w+ 100,000,000: .*'proportional'"
    ):
        kind(str(path)).prepare_data()
    data = kind(str(path), split="proportional")
    with pytest.warns(UserWarning, match=r"file has 1,000 bytes.*split 90/5/5 %"):
        data.prepare_data()
    assert {split: len(text) for split, text in texts(data).items()} == SIZES


@pytest.mark.usefixtures("small")
def test_text8_names_the_byte_outside_its_vocabulary(tmp_path: Path, cache: Path) -> None:
    path = tmp_path / "text8"
    path.write_text(LETTERS[:933] + "É" + LETTERS[935:])
    with pytest.raises(ValueError, match=r"text8: the byte b'\\xc3' at offset 933 is outside"):
        Text8(str(path)).prepare_data()
    assert not any(p.name.startswith("text8-") for p in cache.iterdir()), "nothing half done"


def test_wrong_fields_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="split must be 'official' or 'proportional', got 'all'"):
        Enwik8(split="all")  # type: ignore[arg-type]
    with pytest.raises(FileNotFoundError, match=r"there is no .*enwik8; get enwik8\.zip from"):
        Enwik8(str(tmp_path / "enwik8")).prepare_data()


@pytest.mark.slow
def test_a_real_dump(sample: Path) -> None:
    path = sample / "enwiki-sample.xml.bz2"
    data = Enwik8(str(path), split="proportional", eval_length=4096, eval_batch_size=4)
    with pytest.warns(UserWarning, match="split 90/5/5"):
        data.setup("fit")
    whole = bz2.decompress(path.read_bytes())
    sizes = {split: len(data.split(split).tokens) for split in SIZES}  # type: ignore[union-attr]
    assert sum(sizes.values()) == len(whole)
    for split, share in (("train", 0.9), ("val", 0.05), ("test", 0.05)):
        assert sizes[split] == pytest.approx(share * len(whole), abs=1)
    test = b"".join(
        bytes(b["labels"][b["labels"] >= 0].tolist())
        for b in data.test_dataloader()  # type: ignore[union-attr]
    )
    assert test == whole[-sizes["test"] + 1 :]
