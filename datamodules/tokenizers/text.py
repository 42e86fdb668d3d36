"""From text to token numbers and back: bytes, a fixed alphabet, or any `tokenizers` file."""

from __future__ import annotations

import array
import codecs
import re
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import NamedTuple, Protocol

from datamodules.files.documents import PIECE
from datamodules.tokenizers.library import TokenizerFile
from datamodules.tokenizers.token_file import width_for

__all__ = [
    "AlphabetTokenizer",
    "ByteTokenizer",
    "Encoded",
    "JsonTokenizer",
    "Tokenizer",
    "bytes_of_tokens",
    "cut_between_words",
    "texts_of",
]

_CODES = {1: "B", 2: "H", 4: "I"}
_LINE_END = re.compile(r"(?<=\S)\n(?=\S)")
_SPACE = re.compile(r"(?<=\S) (?=\S)")


class Encoded(NamedTuple):
    """Tokens in the form of a token file.

    Attributes:
        ids: The tokens, each `width_for(vocabulary_size)` bytes.
        units: The units of text of each token, 4 bytes each; None where every token is one unit.
    """

    ids: bytes
    units: bytes | None = None


class Tokenizer(Protocol):
    """Maps text to numbers below `vocabulary_size`."""

    @property
    def vocabulary_size(self) -> int:
        """How many different tokens there are."""

    @property
    def unit(self) -> str:
        """What a text is measured in: "byte" or "character"."""

    @property
    def counts_units(self) -> bool:
        """Whether a token may have another number of units than one."""

    @property
    def fingerprint(self) -> str:
        """A text that differs where the mapping differs."""

    def encode(self, text: str) -> list[int]:
        """Return the tokens of a text."""

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of tokens; what is no valid text becomes U+FFFD."""

    def encode_pieces(
        self, pieces: Iterable[bytes], source: str, offset: int = 0
    ) -> Iterator[Encoded]:
        """Encode a long text piece by piece; errors name `source`, and count from `offset`."""


class ByteTokenizer:
    """Each byte of the UTF-8 text is a token."""

    vocabulary_size = 256
    unit = "byte"
    counts_units = False
    fingerprint = "bytes"

    def encode(self, text: str) -> list[int]:
        """Return the bytes of the text."""
        return list(text.encode())

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of bytes; what is not UTF-8 becomes U+FFFD."""
        return bytes(ids).decode("utf-8", errors="replace")

    def encode_pieces(
        self, pieces: Iterable[bytes], source: str, offset: int = 0
    ) -> Iterator[Encoded]:
        """Pass the bytes on as they are."""
        return (Encoded(piece) for piece in pieces)


class AlphabetTokenizer:
    """Each character of a fixed set of ASCII characters is a token, numbered in the order given."""

    unit = "character"
    counts_units = False

    def __init__(self, alphabet: str) -> None:
        self.alphabet = alphabet
        self.fingerprint = f"alphabet {alphabet}"
        self.vocabulary_size = len(alphabet)
        self._allowed = alphabet.encode("ascii")
        self._table = bytes(max(self._allowed.find(byte), 0) for byte in range(256))

    def encode(self, text: str) -> list[int]:
        """Return the tokens of the text.

        Raises:
            ValueError: A character is not in the alphabet.
        """
        return [b for part in self.encode_pieces([text.encode()], "the text") for b in part.ids]

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of tokens."""
        return "".join(self.alphabet[i] for i in ids)

    def encode_pieces(
        self, pieces: Iterable[bytes], source: str, offset: int = 0
    ) -> Iterator[Encoded]:
        """Encode piece by piece.

        Raises:
            ValueError: A byte is not in the alphabet; the message names source, offset and byte.
        """
        for piece in pieces:
            foreign = piece.translate(None, delete=self._allowed)
            if foreign:
                place = offset + piece.index(foreign[0])
                raise ValueError(
                    f"{source}: the byte {foreign[:1]!r} at offset {place} is outside "
                    f"the vocabulary, which is {self.alphabet!r}"
                )
            offset += len(piece)
            yield Encoded(piece.translate(self._table))


class JsonTokenizer:
    """A tokenizer of the `tokenizers` library, saved as a JSON file.

    A token counts the bytes from its beginning to the beginning of the next one, so that the
    bytes of all tokens add up to those of the text.

    Args:
        path: The file, often called tokenizer.json.
    """

    unit = "byte"
    counts_units = True

    def __init__(self, path: str) -> None:
        file = Path(path).expanduser()
        if not file.is_file():
            raise FileNotFoundError(
                f"tokenizer: there is no file {str(file)!r} "
                "(a JSON file of the tokenizers library is expected)"
            )
        self.path = file
        self._file = TokenizerFile(path)

    @cached_property
    def fingerprint(self) -> str:
        """A hash of the file, and of how it is read."""
        return self._file.fingerprint

    @property
    def vocabulary_size(self) -> int:
        """How many tokens there are, added ones included."""
        return self._file.size

    def encode(self, text: str) -> list[int]:
        """Return the tokens of a text, without special tokens around it."""
        return self._file.pieces_within(text)[0]

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of tokens, special ones included."""
        return self._file.decode(ids)

    def special_token(self, name: str) -> Encoded | None:
        """Return the special token of a name, such as `<|endoftext|>`; None where it is a text."""
        number = self._file.number(name)
        if number is None or number not in self._file.special_numbers:
            return None
        code = _CODES[width_for(self.vocabulary_size)]
        units = array.array("I", [len(name.encode())])
        return Encoded(array.array(code, [number]).tobytes(), units.tobytes())

    def encode_pieces(
        self, pieces: Iterable[bytes], source: str, offset: int = 0
    ) -> Iterator[Encoded]:
        """Encode piece by piece, with the tokens that the whole text would have.

        Raises:
            ValueError: The text is not UTF-8; the message names source, offset and byte.
        """
        code = _CODES[width_for(self.vocabulary_size)]
        for text in cut_between_words(texts_of(pieces, source, offset)):
            ids, starts = self._file.pieces_within(text)
            units = bytes_of_tokens(text, starts)
            yield Encoded(array.array(code, ids).tobytes(), array.array("I", units).tobytes())


def texts_of(pieces: Iterable[bytes], source: str, offset: int = 0) -> Iterator[str]:
    """Decode pieces of UTF-8 text; a character may lie across two of them.

    Raises:
        ValueError: The text is not UTF-8; the message names source, offset and byte.
    """
    decoder = codecs.getincrementaldecoder("utf-8")()
    for piece, final in _with_last(pieces):
        pending = len(decoder.getstate()[0])
        try:
            text = decoder.decode(piece, final)
        except UnicodeDecodeError as error:
            raise ValueError(
                f"{source}: the byte {error.object[error.start : error.start + 1]!r} at offset "
                f"{offset - pending + error.start} is not UTF-8 text, which this tokenizer needs"
            ) from error
        offset += len(piece)
        yield text


def _with_last(pieces: Iterable[bytes]) -> Iterator[tuple[bytes, bool]]:
    for piece in pieces:
        yield piece, False
    yield b"", True


def cut_between_words(texts: Iterable[str]) -> Iterator[str]:
    """Move the cuts between texts to where tokenizers do not look across.

    That is after an end of line, or before a space, with a word on either side of it: longer white
    space is often taken as one.
    """
    rest = ""
    for text in texts:
        rest += text
        cut = max((m.end() for m in _LINE_END.finditer(rest)), default=0)
        cut = cut or max((m.start() for m in _SPACE.finditer(rest)), default=0)
        if not cut and len(rest) < PIECE:
            continue
        cut = cut or len(rest)
        yield rest[:cut]
        rest = rest[cut:]
    if rest:
        yield rest


def bytes_of_tokens(text: str, starts: list[int]) -> list[int]:
    """Return the bytes from each token to the next; the first also counts what is before it."""
    if not starts:
        return []
    counts = []
    begin = 0
    for start in [*starts[1:], len(text)]:
        end = max(begin, start)  # the parts of one character all start where it does
        counts.append(len(text[begin:end].encode()))
        begin = end
    return counts
