"""A tokenizer trained on the user's own text: byte-level BPE with RoBERTa's special tokens."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from datamodules.files.documents import Section
from datamodules.files.locate import find_documents
from datamodules.files.packing import Kind, texts_in
from datamodules.tokenizers.library import library
from datamodules.tokenizers.text import cut_between_words, texts_of
from sparse_patterns.config.files import whole_file

__all__ = ["SPECIAL", "Trained", "train_tokenizer"]

SPECIAL = ("<s>", "<pad>", "</s>", "<unk>", "<mask>")
"""Special tokens in the order of their numbers, which is that of RoBERTa but for the mask."""

_BYTES = 256


class Trained(NamedTuple):
    """What was made.

    Attributes:
        path: The file.
        vocabulary_size: Its tokens; fewer than asked for where the text has no more to merge.
        characters: Characters that it was trained on.
    """

    path: Path
    vocabulary_size: int
    characters: int


def train_tokenizer(
    files: str | Sequence[str],
    output: str | os.PathLike[str],
    vocabulary_size: int,
    *,
    documents: Kind = "files",
    field: str = "text",
    min_frequency: int = 2,
    progress: bool = False,
) -> Trained:
    """Train byte-level BPE, which can write any text, and save it as a JSON file.

    Args:
        files: Files, folders (everything below them) and globs, as in the data set masked-text.
        output: The file to write.
        vocabulary_size: Most tokens, special ones and single bytes included.
        documents: What a document is: files, lines or jsonl.
        field: The field of a record that holds its text.
        min_frequency: How often a pair must occur to be merged.
        progress: Show a progress bar.

    Raises:
        ValueError: The vocabulary has no room for all bytes, or the text is not UTF-8.
    """
    least = _BYTES + len(SPECIAL)
    if vocabulary_size < least:
        raise ValueError(
            f"vocabulary_size must be >= {least} (all bytes and the special tokens), "
            f"got {vocabulary_size}"
        )
    tokenizers = library("a tokenizer is trained by")
    made = tokenizers.ByteLevelBPETokenizer()
    characters = 0

    def texts() -> Iterator[str]:
        nonlocal characters
        sections = [Section(document) for document in find_documents(files)]
        for text in texts_in(sections, documents, field):
            for part in cut_between_words(texts_of(*text)):
                characters += len(part)
                yield part

    made.train_from_iterator(
        texts(),
        vocab_size=vocabulary_size,
        min_frequency=min_frequency,
        special_tokens=list(SPECIAL),
        show_progress=progress,
    )
    path = Path(output)
    with whole_file(path) as part:
        made.save(str(part))
    return Trained(path, made.get_vocab_size(), characters)
