"""The wrapper of tokenizer files: what it finds, what it reads, what it refuses."""

from __future__ import annotations

import builtins
import json
import pickle
import re
from pathlib import Path
from typing import Any

import pytest

from datamodules.tokenizers.library import TokenizerFile, library
from datamodules.tokenizers.training import train_tokenizer

TEXT = "the quick brown fox jumps over the lazy dog\n" * 30


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A trained tokenizer in a folder of its own."""
    pytest.importorskip("tokenizers")
    (tmp_path / "text.txt").write_text(TEXT)
    return train_tokenizer(
        str(tmp_path / "text.txt"), tmp_path / "made" / "tokenizer.json", 300
    ).path


def test_a_file_and_its_folder_are_the_same(file: Path) -> None:
    alone, folder = TokenizerFile(str(file)), TokenizerFile(str(file.parent))
    assert alone.files == folder.files == (file,)
    assert alone.fingerprint == folder.fingerprint
    assert alone.special == folder.special == {"pad": 1, "first": 0, "separator": 2, "mask": 4}
    assert alone.special_numbers == frozenset(range(5))
    assert alone.size == len(json.loads(file.read_text())["model"]["vocab"])


def test_pieces_point_at_their_characters_without_white_space(file: Path) -> None:
    ids, places = TokenizerFile(str(file)).pieces("the fox é")
    text = "the fox é"
    assert len(ids) == len(places)
    assert not any(text[start:stop] != text[start:stop].strip() for start, stop in places)
    covered = {place for start, stop in places for place in range(start, stop)}
    assert covered == {place for place, sign in enumerate(text) if sign != " "}


def test_special_tokens_in_a_text_are_text(file: Path, tmp_path: Path) -> None:
    tokenizers = pytest.importorskip("tokenizers")
    bert = tmp_path / "bert"
    bert.mkdir()
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "[", "]", "sep", "the", "fox"]
    (bert / "vocab.txt").write_text("\n".join(words))
    marked = tokenizers.Tokenizer.from_file(str(file))
    marked.add_special_tokens(["[ent]"])
    marked.save(str(tmp_path / "marked.json"))
    for source, text in (
        (file, "the </s> fox <pad><mask> <s>"),
        (bert, "the [SEP] fox"),
        (tmp_path / "marked.json", "the [ent] fox"),
    ):
        tokenizer = TokenizerFile(str(source))
        for ids in (tokenizer.pieces(text)[0], tokenizer.pieces_within(text)[0]):
            assert not set(ids) & tokenizer.special_numbers
        places = tokenizer.pieces(text)[1]
        covered = {at for start, stop in places for at in range(start, stop)}
        assert covered == {at for at, sign in enumerate(text) if sign != " "}
    tokenizer = TokenizerFile(str(file))
    text = "the </s> fox"
    assert tokenizer.text(tokenizer.pieces_within(text)[0]) == text
    assert pickle.loads(pickle.dumps(tokenizer)).pieces(text) == tokenizer.pieces(text)


def test_text_comes_back(file: Path) -> None:
    tokenizer = TokenizerFile(str(file))
    ids, _ = tokenizer.pieces_within("the lazy fox")
    assert tokenizer.decode([0, *ids, 2]) == "<s>the lazy fox</s>"
    assert tokenizer.text([0, *ids, 2]) == "the lazy fox"


def test_names_in_the_folder_s_settings_go_before_usual_ones(file: Path) -> None:
    settings = {"pad_token": {"content": "</s>"}, "mask_token": "<unk>", "cls_token": "<none>"}
    (file.parent / "tokenizer_config.json").write_text(json.dumps(settings))
    special = TokenizerFile(str(file.parent)).special
    assert special == {"pad": 2, "first": 0, "separator": 2, "mask": 3}
    assert TokenizerFile(str(file)).special["pad"] == 1, "a file has no settings beside it"


def test_it_can_be_sent_to_another_process(file: Path) -> None:
    tokenizer = TokenizerFile(str(file))
    wanted = tokenizer.pieces("the fox")
    sent = pickle.dumps(tokenizer)
    assert len(sent) < 2000, "the content is read anew, not sent"
    assert pickle.loads(sent).pieces("the fox") == wanted


def test_what_is_missing_or_broken_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"tokenizer: there is no .*nowhere\.json"):
        TokenizerFile(str(tmp_path / "nowhere.json"))
    with pytest.raises(FileNotFoundError, match=r"has no tokenizer\.json, vocab\.json with merges"):
        TokenizerFile(str(tmp_path))
    (tmp_path / "broken.json").write_text("{}")
    with pytest.raises(ValueError, match=r"tokenizer '.*broken\.json' cannot be read: "):
        _ = TokenizerFile(str(tmp_path / "broken.json")).size


def test_a_missing_library_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *rest: Any) -> Any:
        if name == "tokenizers":
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    message = "this needs the tokenizers library: pip install 'sparse-patterns[hf]'"
    with pytest.raises(ImportError, match=re.escape(message)):
        library("this needs")
