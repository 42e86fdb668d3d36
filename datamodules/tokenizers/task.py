"""Text to tokens with the place of each in the text, and the special tokens of the tasks."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import ClassVar, Protocol

from datamodules.files.cache import digest_of
from datamodules.tokenizers.library import TokenizerFile
from datamodules.tokenizers.text import ByteTokenizer

__all__ = [
    "FixedWords",
    "HashedWords",
    "MaskableVocabulary",
    "TaskTokenizer",
    "Utf8Bytes",
    "Vocabulary",
]

_SPECIAL = ("<pad>", "<s>", "</s>", "<unk>", "<mask>")
_WORD = re.compile(r"\w+|[^\w\s]")


class Vocabulary(Protocol):
    """What `TaskTokenizer` rests on."""

    @property
    def size(self) -> int:
        """How many tokens there are, its own special ones included."""

    @property
    def special(self) -> dict[str, int]:
        """Numbers of the special tokens it has, by role: "pad", "first", "separator", "mask"."""

    @property
    def fingerprint(self) -> str:
        """A text that differs where the mapping differs."""

    def number(self, token: str) -> int | None:
        """Return the number of a token of that very name, or None."""

    def pieces(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        """Return tokens and the characters [start, stop) of each."""

    def text(self, ids: Sequence[int]) -> str:
        """Return the text of tokens, roughly."""


class MaskableVocabulary(Vocabulary, Protocol):
    """What `MaskedTokenizer` rests on."""

    @property
    def special_numbers(self) -> frozenset[int]:
        """Numbers of all special tokens, those with a role included."""

    def pieces_within(self, text: str) -> tuple[list[int], list[int]]:
        """Return pieces as they are within a longer text, and the character each begins at."""


class HashedWords:
    """Each word, in lower case, is a token: a hash of it. Nothing to download; for small trials.

    Args:
        size: Different tokens; two words may share one.
    """

    special: ClassVar[dict[str, int]] = {"pad": 0, "first": 1, "separator": 2, "mask": 4}

    def __init__(self, size: int = 8192) -> None:
        if size < 16:
            raise ValueError(f"tokenizer 'words:N' needs N >= 16, got {size}")
        self.size = size
        self.fingerprint = f"hashed words {size}"
        self._known: dict[str, int] = {}

    def number(self, token: str) -> int | None:
        """Return the number of one of the special tokens."""
        return _SPECIAL.index(token) if token in _SPECIAL else None

    def pieces(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        """Return words and single marks; white space separates them."""
        found = list(_WORD.finditer(text))
        return [self._hash(m[0].lower()) for m in found], [m.span() for m in found]

    def text(self, ids: Sequence[int]) -> str:
        """Return numbers: a hash has no way back."""
        return " ".join(_SPECIAL[i] if i < len(_SPECIAL) else f"#{i}" for i in ids)

    def _hash(self, word: str) -> int:
        if word not in self._known:
            if len(self._known) >= 1 << 16:
                self._known.clear()
            digest = hashlib.blake2b(word.encode("utf-8", "surrogatepass"), digest_size=8).digest()
            number = int.from_bytes(digest, "little") % (self.size - len(_SPECIAL))
            self._known[word] = number + len(_SPECIAL)
        return self._known[word]


class FixedWords:
    """The words of a list, separated by spaces: for synthetic data."""

    special: ClassVar[dict[str, int]] = {"pad": 0, "first": 1, "separator": 2, "mask": 4}

    def __init__(self, words: Sequence[str]) -> None:
        self.words = [*_SPECIAL, *words]
        self.size = len(self.words)
        self.fingerprint = " ".join(self.words)
        self._numbers = {word: number for number, word in enumerate(self.words)}

    def number(self, token: str) -> int | None:
        """Return the number of a word."""
        return self._numbers.get(token)

    def pieces(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        """Return the words.

        Raises:
            ValueError: A word is not in the list.
        """
        found = list(re.finditer(r"\S+", text))
        for m in found:
            if m[0] not in self._numbers:
                raise ValueError(f"the word {m[0]!r} is outside the vocabulary")
        return [self._numbers[m[0]] for m in found], [m.span() for m in found]

    def text(self, ids: Sequence[int]) -> str:
        """Return the words of numbers."""
        return " ".join(self.words[i] for i in ids)


class Utf8Bytes:
    """Each byte of the UTF-8 text is a token, numbered after the special ones."""

    special: ClassVar[dict[str, int]] = {"pad": 0, "first": 1, "separator": 2, "mask": 4}
    size = 256 + len(_SPECIAL)
    special_numbers = frozenset(range(len(_SPECIAL)))
    fingerprint = "bytes"

    def number(self, token: str) -> int | None:
        """Return the number of one of the special tokens."""
        return _SPECIAL.index(token) if token in _SPECIAL else None

    def pieces(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        """Return bytes; those of one character share its place."""
        ids, places = [], []
        for place, character in enumerate(text):
            for byte in character.encode("utf-8", "replace"):
                ids.append(byte + len(_SPECIAL))
                places.append((place, place + 1))
        return ids, places

    def pieces_within(self, text: str) -> tuple[list[int], list[int]]:
        """Return bytes, and the character each is of."""
        ids, places = self.pieces(text)
        return ids, [start for start, _ in places]

    def text(self, ids: Sequence[int]) -> str:
        """Return the text; special tokens are left out."""
        return ByteTokenizer().decode([i - len(_SPECIAL) for i in ids if i >= len(_SPECIAL)])


class TaskTokenizer:
    """A vocabulary, followed by the special tokens that it lacks.

    Args:
        source: "words" or "words:N" (hashed words), "bytes", a JSON file of the `tokenizers`
            library, a folder as Hugging Face models are saved in, or a vocabulary itself.
        marks: Special tokens of the task, such as `[question]`. Where the vocabulary has one of
            that name it is used, as in a model that was saved with them.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The source is malformed, or the file cannot be read.
    """

    def __init__(self, source: str | Vocabulary, marks: Sequence[str] = ()) -> None:
        self.marks = tuple(marks)
        self.vocabulary = _vocabulary(source) if isinstance(source, str) else source

    @cached_property
    def _added(self) -> dict[str, int]:
        """Numbers of all special tokens; those that are new follow the vocabulary."""
        numbers: dict[str, int] = {}
        size = self.vocabulary.size
        roles = {"pad": "<pad>", "first": "<s>", "separator": "</s>"}
        for role, token in [*roles.items(), *((mark, mark) for mark in self.marks)]:
            number = self.vocabulary.special.get(role) if role in roles else None
            number = self.vocabulary.number(token) if number is None else number
            if number is None:
                number, size = size, size + 1
            numbers[role] = number
        numbers["size"] = size
        return numbers

    @property
    def vocabulary_size(self) -> int:
        """How many tokens there are, the task's marks included."""
        return self._added["size"]

    @property
    def pad_id(self) -> int:
        """What rows are padded with."""
        return self._added["pad"]

    @property
    def first_id(self) -> int:
        """The token that begins a row: `<s>` or `[CLS]`."""
        return self._added["first"]

    @property
    def separator_id(self) -> int:
        """The token between and after texts: `</s>` or `[SEP]`."""
        return self._added["separator"]

    def mark_id(self, mark: str) -> int:
        """Return the number of one of the task's marks."""
        return self._added[mark]

    @property
    def fingerprint(self) -> str:
        """A text that differs where the mapping differs."""
        return digest_of([self.vocabulary.fingerprint, self._added])

    def encode(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        """Return the tokens of a text and the characters [start, stop) of each in it."""
        return self.vocabulary.pieces(text)

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of tokens, without those that were added."""
        return self.vocabulary.text([i for i in ids if i < self.vocabulary.size])


def _vocabulary(name: str) -> Vocabulary:
    kind, _, size = name.partition(":")
    if kind == "words" and not Path(name).exists():
        if size and not size.isdecimal():
            raise ValueError(f"tokenizer must be 'words:N' with a whole number N, got {name!r}")
        return HashedWords(int(size)) if size else HashedWords()
    if name == "bytes":
        return Utf8Bytes()
    return TokenizerFile(name)
