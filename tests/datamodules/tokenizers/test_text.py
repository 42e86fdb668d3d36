"""Text to tokens and back; pieces give what the whole gives; foreign bytes are named."""

import array
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from datamodules.tokenizers import text as tokenization
from datamodules.tokenizers.text import AlphabetTokenizer, ByteTokenizer, JsonTokenizer, Tokenizer
from datamodules.tokenizers.token_file import width_for

TEXT = "Ein Täßchen “tea” — 茶\n\n  im   Garten 🌿\n" * 30


@pytest.fixture(scope="module")
def tokenizer_file(tmp_path_factory: pytest.TempPathFactory) -> str:
    tokenizers = pytest.importorskip("tokenizers")
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE())
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=300,
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([TEXT], trainer)
    # A file may ask for cutting and padding; a corpus wants neither.
    tokenizer.enable_truncation(3)
    tokenizer.enable_padding(length=9)
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    tokenizer.save(str(path))
    return str(path)


def cut(text: bytes, size: int) -> Iterator[bytes]:
    for start in range(0, len(text), size):
        yield text[start : start + size]


def encoded(tokenizer: Tokenizer, text: str, size: int) -> tuple[list[int], list[int]]:
    ids, units = b"", b""
    for part in tokenizer.encode_pieces(cut(text.encode(), size), "source"):
        ids += part.ids
        units += part.units or b""
    code = {1: "B", 2: "H", 4: "I"}[width_for(tokenizer.vocabulary_size)]
    return list(array.array(code, ids)), list(array.array("I", units))


def test_bytes() -> None:
    tokenizer = ByteTokenizer()
    assert tokenizer.encode("ä") == [0xC3, 0xA4]
    assert tokenizer.decode(tokenizer.encode(TEXT)) == TEXT
    assert tokenizer.decode([65, 0xC3]) == "A�"
    assert encoded(tokenizer, TEXT, 7) == (list(TEXT.encode()), [])


def test_alphabet() -> None:
    tokenizer = AlphabetTokenizer(" abc")
    assert tokenizer.vocabulary_size == 4
    assert tokenizer.encode("cab a") == [3, 1, 2, 0, 1]
    assert tokenizer.decode([3, 1, 2, 0, 1]) == "cab a"


def test_a_foreign_byte_is_named_with_its_offset() -> None:
    with pytest.raises(ValueError, match=r"file\.txt: the byte b'X' at offset 6 is outside"):
        list(AlphabetTokenizer(" abc").encode_pieces([b"abc", b"abca"[:3] + b"Xb"], "file.txt"))
    with pytest.raises(ValueError, match=r"the text: the byte .* at offset 0"):
        AlphabetTokenizer(" abc").encode("é")


@pytest.mark.parametrize("size", [5, 100, 10**6])
def test_json_pieces_stand_for_the_whole_text(tokenizer_file: str, size: int) -> None:
    tokenizer = JsonTokenizer(tokenizer_file)
    ids, units = encoded(tokenizer, TEXT, size)
    assert tokenizer.decode(ids) == TEXT
    assert sum(units) == len(TEXT.encode())
    assert len(ids) == len(units) < len(TEXT.encode())
    assert max(units) > 1


@pytest.mark.parametrize("size", [5, 100])
def test_json_pieces_do_not_change_the_tokens(tokenizer_file: str, size: int) -> None:
    tokenizer = JsonTokenizer(tokenizer_file)
    assert encoded(tokenizer, TEXT, size)[0] == tokenizer.encode(TEXT)


def test_json_text_without_a_place_to_cut_is_cut_all_the_same(
    tokenizer_file: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tokenization, "PIECE", 50)
    tokenizer = JsonTokenizer(tokenizer_file)
    parts = list(tokenizer.encode_pieces(cut(b"x" * 500, 10), "source"))
    assert len(parts) == 10
    assert sum(sum(array.array("I", part.units or b"")) for part in parts) == 500


def test_json_counts_bytes_that_are_dropped(tmp_path: Path) -> None:
    tokenizers = pytest.importorskip("tokenizers")
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel({"a": 0, "?": 1}, unk_token="?"))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    tokenizer.save(str(tmp_path / "t.json"))
    ids, units = encoded(JsonTokenizer(str(tmp_path / "t.json")), "\n \n  a   word  a\n", 3)
    assert ids == [0, 1, 0]
    assert sum(units) == len("\n \n  a   word  a\n")


def test_bytes_of_tokens_add_up_whatever_the_order_of_their_beginnings() -> None:
    assert tokenization.bytes_of_tokens("aä茶b", [0, 1, 1, 2, 3]) == [1, 0, 2, 3, 1]
    assert tokenization.bytes_of_tokens("  aä茶", [2, 4, 3]) == [5, 0, 3]
    assert tokenization.bytes_of_tokens("x", []) == []


def test_json_says_what_to_install(tokenizer_file: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(ImportError, match=r"needs the tokenizers library: pip install 'sparse-p"):
        JsonTokenizer(tokenizer_file).encode("x")


def test_json_fingerprint_and_errors(tokenizer_file: str, tmp_path: Path) -> None:
    other = tmp_path / "other.json"
    other.write_text(Path(tokenizer_file).read_text() + "\n")
    assert JsonTokenizer(tokenizer_file).fingerprint != JsonTokenizer(str(other)).fingerprint
    with pytest.raises(FileNotFoundError, match=r"tokenizer: there is no file '.*no\.json'"):
        JsonTokenizer(str(tmp_path / "no.json"))
    other.write_text("{}")
    with pytest.raises(ValueError, match=r"tokenizer '.*other\.json' cannot be read"):
        _ = JsonTokenizer(str(other)).vocabulary_size
    with pytest.raises(ValueError, match=r"file\.txt: the byte b'\\xff' at offset 5 is not UTF-8"):
        list(JsonTokenizer(tokenizer_file).encode_pieces([b"ab\xc3", b"\xa4c\xffd"], "file.txt"))
    with pytest.raises(ValueError, match=r"file\.txt: the byte b'\\xc3' at offset 2 is not UTF-8"):
        list(JsonTokenizer(tokenizer_file).encode_pieces([b"ab\xc3"], "file.txt"))
