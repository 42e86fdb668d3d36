"""A tokenizer trained on text of one's own: its size, its special tokens, and its file."""

import json
from pathlib import Path

import pytest

from datamodules.tokenizers.training import SPECIAL, train_tokenizer

TEXT = "The quick brown fox, naïve as ever, jumps over 13 lazy dogs — \n and  then\nsome. " * 20


def test_training_makes_a_tokenizer_of_the_size_that_is_asked_for(tmp_path: Path) -> None:
    tokenizers = pytest.importorskip("tokenizers")
    lines = "\n".join(json.dumps({"body": f"{TEXT} {i}"}) for i in range(3))
    (tmp_path / "a.jsonl").write_text(lines)
    made = train_tokenizer(
        [str(tmp_path / "a.jsonl")], tmp_path / "t.json", 290, documents="jsonl", field="body"
    )
    assert made.vocabulary_size == 290
    assert made.characters == 3 * (len(TEXT) + 2)
    tokenizer = tokenizers.Tokenizer.from_file(str(made.path))
    assert [tokenizer.token_to_id(token) for token in SPECIAL] == [0, 1, 2, 3, 4]
    assert tokenizer.decode(tokenizer.encode("für 🦊").ids) == "für 🦊"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.jsonl", "t.json"]


def test_the_least_vocabulary_has_all_bytes(tmp_path: Path) -> None:
    tokenizers = pytest.importorskip("tokenizers")
    (tmp_path / "a.txt").write_text(TEXT, encoding="utf-8")
    with pytest.raises(ValueError, match=r"vocabulary_size must be >= 261 .*, got 260"):
        train_tokenizer(str(tmp_path / "a.txt"), tmp_path / "t.json", 260)
    made = train_tokenizer(str(tmp_path / "a.txt"), tmp_path / "t.json", 261)
    assert made.vocabulary_size == 261
    every = bytes(range(1, 128)).decode() + "Ā🦊"
    tokenizer = tokenizers.Tokenizer.from_file(str(made.path))
    assert tokenizer.decode(tokenizer.encode(every).ids) == every


def test_a_pair_must_occur_often_enough(tmp_path: Path) -> None:
    pytest.importorskip("tokenizers")
    (tmp_path / "a.txt").write_text("ab ab ab", encoding="utf-8")
    sizes = [
        train_tokenizer(
            str(tmp_path / "a.txt"), tmp_path / "t.json", 400, min_frequency=least
        ).vocabulary_size
        for least in (2, 4)
    ]
    assert sizes[0] > sizes[1] == 261


def test_text_that_is_not_utf8_leaves_the_old_file(tmp_path: Path) -> None:
    pytest.importorskip("tokenizers")
    (tmp_path / "a.txt").write_bytes(b"abc \xff def")
    (tmp_path / "t.json").write_text("old")
    with pytest.raises(ValueError, match=r"a\.txt: the byte .* at offset 4 is not UTF-8"):
        train_tokenizer(str(tmp_path / "a.txt"), tmp_path / "t.json", 300)
    assert (tmp_path / "t.json").read_text() == "old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.txt", "t.json"]
