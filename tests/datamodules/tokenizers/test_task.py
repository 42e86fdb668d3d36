"""Tokens with their places in the text, and marks behind the vocabulary."""

import json
import pickle
from pathlib import Path
from typing import Any

import pytest

from datamodules.tokenizers.task import FixedWords, HashedWords, TaskTokenizer

TEXT = "Caf\u00e9 au lait, s'il vous pla\u00eet! \U0001f600 x"
MARKS = ("[question]", "[ent]")


@pytest.fixture
def trained(tmp_path: Path) -> Any:
    """A byte-level BPE as RoBERTa's, in the three forms it is found in."""
    tokenizers = pytest.importorskip("tokenizers")
    made = tokenizers.ByteLevelBPETokenizer()
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    made.train_from_iterator([TEXT * 3, "au lait au lait"], vocab_size=300, special_tokens=special)
    (tmp_path / "merges").mkdir()
    made.save_model(str(tmp_path / "merges"))
    (tmp_path / "folder").mkdir()
    made.save(str(tmp_path / "folder" / "tokenizer.json"))
    return tmp_path


def sources(trained: Path) -> list[str]:
    return [
        "words",
        "words:64",
        "bytes",
        str(trained / "folder" / "tokenizer.json"),
        str(trained / "folder"),
        str(trained / "merges"),
    ]


@pytest.mark.parametrize("index", range(6))
def test_places_point_at_the_text_of_each_token(trained: Path, index: int) -> None:
    tokenizer = TaskTokenizer(sources(trained)[index], MARKS)
    ids, places = tokenizer.encode(TEXT)
    assert len(ids) == len(places)
    assert all(0 <= i < tokenizer.vocabulary_size - len(MARKS) for i in ids)
    covered = {i for start, stop in places for i in range(start, stop)}
    wanted = {i for i, sign in enumerate(TEXT) if not sign.isspace()}
    if index != 2:
        assert covered == wanted, "each sign, no space"
    else:
        assert covered == set(range(len(TEXT))), "each byte"
    assert [p[0] for p in places] == sorted(p[0] for p in places)
    assert tokenizer.encode("") == ([], [])


@pytest.mark.parametrize("index", range(6))
def test_marks_follow_the_vocabulary(trained: Path, index: int) -> None:
    plain = TaskTokenizer(sources(trained)[index])
    tokenizer = TaskTokenizer(sources(trained)[index], MARKS)
    size = tokenizer.vocabulary_size
    assert size == plain.vocabulary_size + 2
    assert [tokenizer.mark_id(mark) for mark in MARKS] == [size - 2, size - 1]
    assert len({tokenizer.pad_id, tokenizer.first_id, tokenizer.separator_id}) == 3
    assert tokenizer.fingerprint != plain.fingerprint
    again = pickle.loads(pickle.dumps(tokenizer))
    assert again.encode(TEXT) == tokenizer.encode(TEXT)


@pytest.mark.parametrize("source", ["words", "bytes"])
def test_special_tokens_in_a_text_are_text(source: str) -> None:
    tokenizer = TaskTokenizer(source)
    special = {tokenizer.pad_id, tokenizer.first_id, tokenizer.separator_id}
    assert not special & set(tokenizer.encode("a </s> <s> <pad> b")[0])


def test_a_text_with_the_name_of_a_mark_is_no_mark() -> None:
    tokenizer = TaskTokenizer("words", MARKS)
    assert tokenizer.mark_id("[ent]") not in tokenizer.encode("a [ent] b")[0]


@pytest.mark.parametrize("index", [3, 4, 5])
def test_special_tokens_are_robertas(trained: Path, index: int) -> None:
    tokenizer = TaskTokenizer(sources(trained)[index])
    vocabulary = json.loads((trained / "merges" / "vocab.json").read_text())
    assert tokenizer.first_id == vocabulary["<s>"]
    assert tokenizer.pad_id == vocabulary["<pad>"]
    assert tokenizer.separator_id == vocabulary["</s>"]


def test_words_begin_with_their_space_wherever_they_stand(trained: Path) -> None:
    tokenizer = TaskTokenizer(str(trained / "folder"))
    first, _ = tokenizer.encode("lait")
    within, _ = tokenizer.encode("au lait")
    assert within[-len(first) :] == first
    assert tokenizer.encode("lait")[1][-1][1] == 4


def test_names_of_the_folder_go_before_the_usual_ones(trained: Path) -> None:
    settings = {"cls_token": {"content": "au"}, "pad_token": "<mask>"}
    (trained / "folder" / "special_tokens_map.json").write_text(json.dumps(settings))
    tokenizer = TaskTokenizer(str(trained / "folder"))
    vocabulary = json.loads((trained / "merges" / "vocab.json").read_text())
    assert tokenizer.pad_id == vocabulary["<mask>"]
    assert tokenizer.separator_id == vocabulary["</s>"]


def test_a_vocabulary_without_special_tokens_gets_them_behind_it(tmp_path: Path) -> None:
    tokenizers = pytest.importorskip("tokenizers")
    made = tokenizers.Tokenizer(tokenizers.models.WordLevel({"a": 0, "b": 7}, unk_token="a"))
    made.save(str(tmp_path / "t.json"))
    tokenizer = TaskTokenizer(str(tmp_path / "t.json"), ["[ent]"])
    found = [tokenizer.pad_id, tokenizer.first_id, tokenizer.separator_id]
    assert found == [8, 9, 10], "behind the last number, holes or not"
    assert tokenizer.mark_id("[ent]") == 11
    assert tokenizer.vocabulary_size == 12


def test_a_mark_that_was_saved_with_the_model_keeps_its_number(trained: Path) -> None:
    tokenizers = pytest.importorskip("tokenizers")
    file = str(trained / "folder" / "tokenizer.json")
    made = tokenizers.Tokenizer.from_file(file)
    made.add_special_tokens(["[ent]"])
    made.save(file)
    tokenizer = TaskTokenizer(file, MARKS)
    assert tokenizer.mark_id("[ent]") == made.token_to_id("[ent]")
    assert tokenizer.mark_id("[question]") == tokenizer.vocabulary_size - 1


def test_hashed_words_ignore_case_and_differ() -> None:
    words = HashedWords(4096)
    ids = words.pieces("Paris paris Berlin , !")[0]
    assert ids[0] == ids[1]
    assert len(set(ids)) == 4
    assert min(ids) >= 5
    assert max(ids) < 4096


def test_a_fixed_list_refuses_other_words() -> None:
    words = FixedWords(["a", "b"])
    assert words.pieces(" b a") == ([6, 5], [(1, 2), (3, 4)])
    assert words.text([5, 6]) == "a b"
    with pytest.raises(ValueError, match="the word 'c' is outside the vocabulary"):
        words.pieces("a c")


@pytest.mark.parametrize(
    ("source", "error", "message"),
    [
        ("words:x", ValueError, "tokenizer must be 'words:N' with a whole number N, got 'words:x'"),
        ("words:3", ValueError, "needs N >= 16, got 3"),
        ("nowhere.json", FileNotFoundError, "tokenizer: there is no 'nowhere.json' .*'bytes'"),
    ],
)
def test_wrong_sources_are_refused(source: str, error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        TaskTokenizer(source)


def test_a_folder_without_a_tokenizer_and_a_broken_file_are_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"has no tokenizer\.json, vocab\.json with merges"):
        TaskTokenizer(str(tmp_path))
    pytest.importorskip("tokenizers")
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(ValueError, match=r"tokenizer '.*tokenizer\.json' cannot be read"):
        TaskTokenizer(str(tmp_path)).encode("a")
