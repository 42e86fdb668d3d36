"""Any text: splits by fraction and by file, tokenizers, and what is wrong with the files."""

import json
from pathlib import Path

import pytest

from datamodules import TextFiles

SPLITS = ("train", "val", "test")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "texts"
    root.mkdir()
    for i in range(60):
        (root / f"{i:02}.txt").write_text(f"<{i:02}>" + "abcd" * 24)
    return root


def texts(data: TextFiles) -> dict[str, str]:
    found = {}
    for name in SPLITS:
        split = data.split(name)
        if split is not None:
            found[name] = data.decode(split.tokens.read(0, len(split.tokens)).tolist())
    return found


def test_a_fraction_is_cut_from_the_whole(folder: Path) -> None:
    data = TextFiles(str(folder), val_fraction=0.1, test_fraction=0.2, separator="|")
    found = texts(data)
    assert list(found) == list(SPLITS)
    assert found["train"].startswith("<00>abcd")
    assert found["train"].count("|") == 41
    assert found["val"].startswith("<42>")
    assert found["test"].startswith("<48>")
    assert found["test"].endswith("|<59>" + "abcd" * 24)
    assert sum(len(t.replace("|", "")) for t in found.values()) == 6000


def test_a_cut_never_falls_into_a_character(tmp_path: Path) -> None:
    path = tmp_path / "x.txt"
    for extra in range(4):
        path.write_text("a" * extra + "茶" * 100)
        found = texts(TextFiles(str(path), val_fraction=0.33, test_fraction=0.33))
        assert "".join(found.values()) == "a" * extra + "茶" * 100
        assert all(30 < len(text) < 40 for text in found.values())


def test_by_file_keeps_files_whole_and_in_their_split(folder: Path) -> None:
    def members(data: TextFiles) -> dict[str, set[str]]:
        return {split: set(text.split("\n")) for split, text in texts(data).items()}

    before = members(TextFiles(str(folder), split="file", val_fraction=0.2, test_fraction=0.2))
    assert sum(map(len, before.values())) == 60
    assert all(len(text) == 100 for part in before.values() for text in part)
    assert all(5 < len(before[split]) < 20 for split in ("val", "test"))
    (folder / "05.txt").unlink()
    (folder / "new.txt").write_text("n" * 100)
    moved = folder.rename(folder.parent / "elsewhere")
    after = members(TextFiles(str(moved), split="file", val_fraction=0.2, test_fraction=0.2))
    for split in SPLITS:
        assert after[split] ^ before[split] <= {"<05>" + "abcd" * 24, "n" * 100}


def test_held_out_files_of_their_own_stay_out_of_training(folder: Path) -> None:
    data = TextFiles(
        str(folder),
        val_files=str(folder / "3*.txt"),
        test_files=[str(folder / "58.txt"), str(folder / "59.txt")],
    )
    found = texts(data)
    assert found["val"].count("<") == 10
    assert found["test"].count("<") == 2
    assert found["train"].count("<") == 48
    assert "<3" not in found["train"]
    with pytest.raises(ValueError, match=r"58\.txt is in val_files and in test_files"):
        texts(TextFiles(str(folder), val_files=str(folder), test_files=str(folder / "58.txt")))
    with pytest.raises(ValueError, match="leave nothing to train on"):
        texts(TextFiles(str(folder / "58.txt"), val_files=str(folder)))


def test_without_a_fraction_there_is_no_split(folder: Path) -> None:
    data = TextFiles(str(folder), val_fraction=0, test_fraction=0.1)
    assert list(texts(data)) == ["train", "test"]
    assert data.val_dataloader() == []


def test_a_tokenizer_counts_bytes(folder: Path, tmp_path: Path) -> None:
    tokenizers = pytest.importorskip("tokenizers")
    words = {"abcd": 0, "ab": 1, "c": 2, "d": 3, "<": 4, ">": 5, "?": 6}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordPiece(words, unk_token="?"))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.FixedLength(4)
    tokenizer.save(str(tmp_path / "t.json"))
    data = TextFiles(str(folder), tokenizer=str(tmp_path / "t.json"), eval_length=16)
    assert (data.vocabulary_size, data.unit) == (7, "byte")
    split = data.split("test")
    assert split is not None
    assert split.units is not None
    batches = list(data.test_dataloader())  # type: ignore[arg-type]
    scored = sum(int(batch["units_scored"].sum()) for batch in batches)
    tokens = sum(int((batch["labels"] >= 0).sum()) for batch in batches)
    assert tokens == len(split.tokens) - 1
    assert scored == int(split.units.read(1, len(split.tokens)).sum())
    assert int(split.units.read(0, len(split.units)).sum()) == 302  # with two separators
    assert scored > 3 * tokens
    batch = next(iter(data.train_dataloader()))
    assert batch["units_scored"].shape == (8,)


def test_special_tokens_are_text_but_for_the_separator(tmp_path: Path) -> None:
    tokenizers = pytest.importorskip("tokenizers")
    words = {"<e>": 0, "<": 1, "e": 2, ">": 3, "a": 4, "?": 5}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="?"))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Split("", "isolated")
    tokenizer.add_special_tokens(["<e>"])
    tokenizer.save(str(tmp_path / "t.json"))
    for name in ("1", "2"):
        (tmp_path / name).write_text("a<e>a")
    files = [str(tmp_path / name) for name in ("1", "2")]
    text = [4, 1, 2, 3, 4]
    for separator, between in (("<e>", [0]), ("<e", [1, 2]), ("", [])):
        fields = {"val_fraction": 0, "test_fraction": 0, "separator": separator}
        split = TextFiles(files, tokenizer=str(tmp_path / "t.json"), **fields).split("train")
        assert split is not None
        assert split.units is not None
        assert split.tokens.read(0, len(split.tokens)).tolist() == [*text, *between, *text]
        assert int(split.units.read(0, len(split.units)).sum()) == 10 + len(separator)


def test_text_that_a_tokenizer_cannot_read_is_named(tmp_path: Path) -> None:
    tokenizers = pytest.importorskip("tokenizers")
    tokenizers.Tokenizer(tokenizers.models.WordLevel({"a": 0}, "a")).save(str(tmp_path / "t.json"))
    (tmp_path / "w.txt").write_bytes(b"a")
    (tmp_path / "x.txt").write_bytes(b"a b " * 20 + b"\xff")
    data = TextFiles(f"{tmp_path}/*.txt", str(tmp_path / "t.json"), separator="\n---\n")
    with pytest.raises(ValueError, match=r"x\.txt: the byte b'\\xff' at offset 80 is not UTF-8"):
        data.prepare_data()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"split": "random"}, "split must be 'fraction' or 'file', got 'random'"),
        ({"val_fraction": -0.1}, r"val_fraction must be >= 0 and < 1, got -0\.1"),
        ({"test_fraction": 1.0}, r"test_fraction must be >= 0 and < 1, got 1\.0"),
        ({"val_fraction": 0.5, "test_fraction": 0.5}, "leave nothing to train on"),
        ({"eval_step": 0}, "eval_step must be an int >= 1, got 0"),
        ({"eval_step": 4, "stream": True}, "eval_step 4 cannot be used with stream=True"),
        ({"sequence_length": 0}, "sequence_length must be an int >= 1, got 0"),
        ({"eval_batch_size": 0}, "eval_batch_size must be an int >= 1, got 0"),
    ],
)
def test_wrong_fields_are_refused(fields: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TextFiles("x", **fields)  # type: ignore[arg-type]


def test_few_files_cannot_be_split_by_file(tmp_path: Path) -> None:
    (tmp_path / "x.txt").write_text("text")
    with pytest.raises(ValueError, match=r"without one of the 1 files; .*split by fraction"):
        TextFiles(str(tmp_path / "x.txt"), split="file").prepare_data()


def test_a_missing_file_is_named() -> None:
    with pytest.raises(FileNotFoundError, match=r"files: 'no/such\.txt' names no text"):
        TextFiles(["no/such.txt"]).prepare_data()


def test_real_speeches(sample: Path) -> None:
    data = TextFiles(str(sample / "state-of-the-union.jsonl.gz"))
    data.setup()
    train, val, test = (data.split(split) for split in SPLITS)
    assert train is not None
    assert val is not None
    assert test is not None
    first = data.decode(train.tokens.read(0, 40_000).tolist()).split("\n")[0]
    assert set(json.loads(first)) == {"year", "name", "party", "text"}
    assert len(val.tokens) == pytest.approx(len(test.tokens), abs=10)
