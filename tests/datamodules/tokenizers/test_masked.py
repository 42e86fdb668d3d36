"""Tokens that can be masked know their characters, their words, and which of them are special."""

import json
from pathlib import Path

import pytest

from datamodules.tokenizers.masked import MaskedTokenizer
from datamodules.tokenizers.training import train_tokenizer

TEXT = "The quick brown fox, naïve as ever, jumps over 13 lazy dogs — \n and  then\nsome. " * 20


@pytest.fixture
def trained(tmp_path: Path) -> str:
    pytest.importorskip("tokenizers")
    (tmp_path / "text.txt").write_text(TEXT, encoding="utf-8")
    train_tokenizer(str(tmp_path / "text.txt"), tmp_path / "t.json", 320)
    return str(tmp_path / "t.json")


@pytest.mark.parametrize("kind", ["bytes", "bpe"])
def test_characters_add_up_and_words_begin_where_they_do(kind: str, trained: str) -> None:
    tokenizer = MaskedTokenizer("bytes" if kind == "bytes" else trained)
    content = TEXT.encode()
    # Pieces cut anywhere, inside a character as well.
    pieces = [content[i : i + 37] for i in range(0, len(content), 37)]
    parts = list(tokenizer.encode_document(pieces, "text"))
    assert sum(sum(part.units) for part in parts) == len(TEXT)
    ids = [i for part in parts for i in part.ids]
    assert all(len(p.ids) == len(p.units) == len(p.begins) for p in parts)
    assert tokenizer.decode(ids).strip() == TEXT.strip()
    assert not set(ids) & tokenizer.special_ids
    begins = [b for part in parts for b in part.begins]
    words: list[str] = []
    for number, begin in zip(ids, begins, strict=True):
        if begin:
            words.append("")
        words[-1] += "" if kind == "bytes" else tokenizer.decode([number])
    if kind == "bpe":
        assert {"The", "quick", "fox", "jumps"} <= {word.strip() for word in words}


def test_roles_by_the_names_of_both_families(tmp_path: Path, trained: str) -> None:
    tokenizer = MaskedTokenizer(trained)
    roles = (tokenizer.first_id, tokenizer.pad_id, tokenizer.separator_id, tokenizer.mask_id)
    assert roles == (0, 1, 2, 4)
    assert tokenizer.special_ids == frozenset(range(5))
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "fox", "##es"]
    (tmp_path / "bert").mkdir()
    (tmp_path / "bert" / "vocab.txt").write_text("\n".join(words))
    bert = MaskedTokenizer(str(tmp_path / "bert"))
    assert (bert.pad_id, bert.first_id, bert.separator_id, bert.mask_id) == (0, 2, 3, 4)
    assert bert.special_ids == frozenset(range(5))
    ids, units, begins = list[int](), list[int](), list[int]()
    for part in bert.encode_document([b"The foxes"], "text"):
        ids += part.ids
        units += part.units
        begins += part.begins
    # White space belongs to the token before it, or behind it where a piece begins with it.
    assert (ids, begins, units) == ([5, 6, 7], [1, 1, 0], [3, 4, 2])


def test_without_a_mask_there_is_no_masking(tmp_path: Path, trained: str) -> None:
    content = json.loads(Path(trained).read_text())
    content["added_tokens"] = [t for t in content["added_tokens"] if t["content"] != "<mask>"]
    content["model"]["vocab"].pop("<mask>")
    (tmp_path / "less.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"has no mask token \(<mask>\)"):
        _ = MaskedTokenizer(str(tmp_path / "less.json")).pad_id
    with pytest.raises(FileNotFoundError, match=r"there is no 'none\.json'"):
        MaskedTokenizer("none.json")
