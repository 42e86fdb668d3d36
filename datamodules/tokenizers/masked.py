"""Text to tokens that can be masked: with their characters, their words, and special tokens."""

from __future__ import annotations

import array
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from typing import Any, NamedTuple

from datamodules.tokenizers.library import TokenizerFile
from datamodules.tokenizers.task import MaskableVocabulary, Utf8Bytes
from datamodules.tokenizers.text import cut_between_words, texts_of

__all__ = ["EncodedWords", "MaskedTokenizer"]


class EncodedWords(NamedTuple):
    """Tokens of a piece of text.

    Attributes:
        ids: The tokens.
        units: Characters of text of each token; together, all of them.
        begins: 1 where a word begins, else 0, a byte each. Words are runs of letters and digits;
            other marks are words of their own.
    """

    ids: list[int]
    units: array.array[int]
    begins: bytes


class MaskedTokenizer:
    """A tokenizer with the special tokens that masked language models need.

    Args:
        name: A JSON file of the `tokenizers` library, a folder as Hugging Face models are saved in,
            or "bytes".

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It has no token for padding, for the mask, or for the ends of a text.
    """

    unit = "character"
    counts_units = True

    def __init__(self, name: str) -> None:
        self.name = name
        self._vocabulary: MaskableVocabulary = (
            Utf8Bytes() if name == "bytes" else TokenizerFile(name)
        )

    @cached_property
    def _roles(self) -> dict[str, int]:
        found = self._vocabulary.special
        usual = {"pad": "<pad>", "mask": "<mask>", "first": "<s>", "separator": "</s>"}
        for role, token in usual.items():
            if role not in found:
                raise ValueError(
                    f"tokenizer {self.name!r} has no {role} token ({token}); masked language "
                    f"models need {', '.join(usual.values())}, by these or by BERT's names"
                )
        return found

    @property
    def vocabulary_size(self) -> int:
        """How many tokens there are, special ones included."""
        return self._vocabulary.size

    @property
    def pad_id(self) -> int:
        """What rows are padded with."""
        return self._roles["pad"]

    @property
    def mask_id(self) -> int:
        """What stands in place of a masked token."""
        return self._roles["mask"]

    @property
    def first_id(self) -> int:
        """The token that begins a row."""
        return self._roles["first"]

    @property
    def separator_id(self) -> int:
        """The token that ends a document and a row."""
        return self._roles["separator"]

    @property
    def special_ids(self) -> frozenset[int]:
        """Tokens that are never masked, and never take the place of another."""
        return self._vocabulary.special_numbers

    @property
    def fingerprint(self) -> str:
        """A text that differs where the mapping differs."""
        return f"masked {self._vocabulary.fingerprint}"

    def encode(self, text: str) -> list[int]:
        """Return the tokens of a text, without special tokens around it."""
        return self._vocabulary.pieces_within(text)[0]

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of tokens, without special ones."""
        return self._vocabulary.text(ids)

    def encode_document(
        self, pieces: Iterable[bytes], source: str, offset: int = 0
    ) -> Iterator[EncodedWords]:
        """Encode a document piece by piece; errors name `source`, and count from `offset`.

        Raises:
            ValueError: The text is not UTF-8.
        """
        for text in cut_between_words(texts_of(pieces, source, offset)):
            ids, starts = self._vocabulary.pieces_within(text)
            # What is before the first token belongs to it; parts of a character all start with it.
            stops = [*starts[1:], len(text)] if starts else []
            units, begin = array.array("I"), 0
            for stop in stops:
                stop = max(begin, stop)
                units.append(stop - begin)
                begin = stop
            yield EncodedWords(ids, units, _beginnings(text, starts))

    def encode_pieces(self, pieces: Iterable[bytes], source: str, offset: int = 0) -> Iterator[Any]:
        """Refuse: tokens here have words, see `encode_document`."""
        raise NotImplementedError


def _beginnings(text: str, starts: Sequence[int]) -> bytes:
    found = bytearray(len(starts))
    last = -1
    for index, start in enumerate(starts):
        if start != last:
            inside = 0 < start < len(text) and text[start - 1].isalnum() and text[start].isalnum()
            found[index] = not inside
        last = start
    if found:
        found[0] = 1
    return bytes(found)
