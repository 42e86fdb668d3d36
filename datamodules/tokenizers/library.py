"""Tokenizers on disk: a JSON file of the `tokenizers` library, or a Hugging Face model's folder."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from datamodules.files.cache import digest_of

if TYPE_CHECKING:
    from tokenizers import Tokenizer

__all__ = ["TokenizerFile", "library"]

# How the files of a folder name the special tokens, and how they are called where none does.
_ROLES = {
    "pad": (("pad_token",), ("<pad>", "[PAD]")),
    "first": (("cls_token", "bos_token"), ("<s>", "[CLS]", "<|endoftext|>")),
    "separator": (("sep_token", "eos_token"), ("</s>", "[SEP]", "<|endoftext|>")),
    "mask": (("mask_token",), ("<mask>", "[MASK]")),
}
_SETTINGS = ("tokenizer_config.json", "special_tokens_map.json")
_MERGES = ("vocab.json", "merges.txt")


class TokenizerFile:
    """The files of a tokenizer: pieces of words, with their places in the text.

    A special token within a text is text like any other: `</s>` in a review ends nothing.

    Args:
        path: The JSON file, or a folder with `tokenizer.json`, with `vocab.json` and `merges.txt`
            (RoBERTa), or with `vocab.txt` (BERT).

    Raises:
        FileNotFoundError: There is neither.
    """

    def __init__(self, path: str) -> None:
        given = Path(path).expanduser()
        self.folder = given if given.is_dir() else None
        choices: list[tuple[Path, ...]] = [(given,)]
        if self.folder is not None:
            choices = [
                (given / "tokenizer.json",),
                tuple(given / name for name in _MERGES),
                (given / "vocab.txt",),
            ]
        found = next((c for c in choices if all(file.is_file() for file in c)), None)
        if found is None:
            where = (
                f"the folder {path!r} has no tokenizer.json, vocab.json with merges.txt, or "
                "vocab.txt"
                if self.folder is not None
                else f"there is no {path!r} (a tokenizers JSON file, a Hugging Face folder, "
                "'words', 'words:N' or 'bytes' is expected)"
            )
            raise FileNotFoundError(f"tokenizer: {where}")
        self.files = found

    @cached_property
    def fingerprint(self) -> str:
        """A hash of the files, and of what is made of a text that holds special tokens."""
        contents = [file.read_text(encoding="utf-8") for file in self.files]
        return digest_of([*contents, "special tokens are text"])

    @cached_property
    def size(self) -> int:
        """How many tokens there are: numbers may have holes, so the last one counts."""
        return max(self._tokenizer.get_vocab(with_added_tokens=True).values()) + 1

    @cached_property
    def special(self) -> dict[str, int]:
        """Numbers of the special tokens, by role."""
        settings: dict[str, Any] = {}
        for name in _SETTINGS if self.folder is not None else ():
            path = self.folder / name  # type: ignore[operator]
            if path.is_file():
                settings.update(json.loads(path.read_text(encoding="utf-8")))
        found = {}
        for role, (keys, usual) in _ROLES.items():
            said = [settings.get(key) for key in keys]
            names = [s["content"] if isinstance(s, dict) else s for s in said if s]
            for name in (*names, *usual):
                number = self.number(name)
                if number is not None:
                    found[role] = number
                    break
        return found

    def number(self, token: str) -> int | None:
        """Return the number of a token of that very name, or None."""
        number: int | None = self._tokenizer.token_to_id(token)
        return number

    @cached_property
    def special_numbers(self) -> frozenset[int]:
        """Numbers of all tokens that are marked as special, those with a role included."""
        added = self._tokenizer.get_added_tokens_decoder()
        marked = {number for number, token in added.items() if token.special}
        return frozenset(marked | set(self.special.values()))

    def pieces_within(self, text: str) -> tuple[list[int], list[int]]:
        """Return pieces as they are within a longer text, and the character each begins at."""
        encoding = self._tokenizer.encode(text, add_special_tokens=False)
        return list(encoding.ids), [start for start, _ in encoding.offsets]

    def pieces(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        """Return pieces, without special tokens around, and their characters without white space.

        Where words in a text begin with their space (RoBERTa), the first one is taken as such too.
        """
        shift = 1 if self._wants_space and text[:1].strip() else 0
        encoding = self._tokenizer.encode(" " * shift + text, add_special_tokens=False)
        places = []
        for start, stop in encoding.offsets:
            start, stop = max(start - shift, 0), max(stop - shift, 0)
            while start < stop and text[start].isspace():
                start += 1
            while stop > start and text[stop - 1].isspace():
                stop -= 1
            places.append((start, stop))
        return list(encoding.ids), places

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of pieces as it is, special tokens included."""
        text: str = self._tokenizer.decode(list(ids), skip_special_tokens=False)
        return text

    def text(self, ids: Sequence[int]) -> str:
        """Return the text of pieces, without special tokens and white space around it."""
        text: str = self._tokenizer.decode(list(ids), skip_special_tokens=True)
        return text.strip()

    @cached_property
    def _wants_space(self) -> bool:
        splitting = json.loads(self._tokenizer.to_str()).get("pre_tokenizer") or {}
        steps = splitting.get("pretokenizers", [splitting])
        return any(s.get("type") == "ByteLevel" and not s.get("add_prefix_space") for s in steps)

    @cached_property
    def _tokenizer(self) -> Tokenizer:
        tokenizers = library(f"tokenizer {str(self.files[0])!r} needs")
        names = [str(file) for file in self.files]
        try:
            if len(names) == 2:
                made: Tokenizer = tokenizers.ByteLevelBPETokenizer(*names)._tokenizer
            elif names[0].endswith(".txt"):
                made = tokenizers.BertWordPieceTokenizer(names[0])._tokenizer
            else:
                made = tokenizers.Tokenizer.from_file(names[0])
        except Exception as error:  # the library raises bare exceptions
            raise ValueError(f"tokenizer {names[0]!r} cannot be read: {error}") from error
        made.no_truncation()
        made.no_padding()
        # "</s>" in a text is text: only the code that lays out a row writes special tokens.
        made.encode_special_tokens = True
        return made

    def __getstate__(self) -> dict[str, Any]:
        """Leave out what was read: another process reads it again."""
        return {key: value for key, value in self.__dict__.items() if key != "_tokenizer"}


def library(who: str) -> Any:
    """Return the `tokenizers` library.

    Raises:
        ImportError: It is not installed; the message begins with `who`.
    """
    try:
        import tokenizers
    except ImportError as error:
        raise ImportError(
            f"{who} the tokenizers library: pip install 'sparse-patterns[hf]'"
        ) from error
    return tokenizers
