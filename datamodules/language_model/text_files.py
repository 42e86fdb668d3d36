"""Your own text: any files, folders or globs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from datamodules.files.cache import cache_root
from datamodules.files.documents import Section
from datamodules.files.locate import find_documents
from datamodules.files.splitting import SplitName, by_file, by_fraction, check_fractions
from datamodules.language_model.text import TextData, tokenizer_for
from datamodules.registry import register
from datamodules.tokenizers.text import Tokenizer

__all__ = ["TextFiles"]


@register("text-files")
class TextFiles(TextData):
    """Any text files, as bytes or in the tokens of a `tokenizers` file.

    Args:
        files: Files, folders (everything below them) and globs; .gz, .bz2, .xz and .zip are
            decompressed.
        tokenizer: A JSON file of the `tokenizers` library; None takes bytes.
        split: "fraction" cuts all text, in the order of `files`, into a beginning, a middle and an
            end; "file" puts each file as a whole into one split, by a hash of its name.
        val_fraction: Share of the validation split; 0 for none.
        test_fraction: Share of the test split; 0 for none.
        val_files: Files, folders and globs of the validation split, if it is separate.
        test_files: The same of the test split.
        separator: Text between two files, or the name of a special token of the tokenizer.
        **kwargs: As in `TextData`.
    """

    def __init__(
        self,
        files: str | list[str],
        tokenizer: str | None = None,
        split: Literal["fraction", "file"] = "fraction",
        val_fraction: float = 0.05,
        test_fraction: float = 0.05,
        val_files: str | list[str] | None = None,
        test_files: str | list[str] | None = None,
        separator: str = "\n",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        check_fractions(val_fraction, test_fraction)
        if split not in ("fraction", "file"):
            raise ValueError(f"split must be 'fraction' or 'file', got {split!r}")
        self.files = files
        self.split_by = split
        self.val_files = val_files
        self.test_files = test_files
        # Files of its own take the place of a share of the others.
        self.val_fraction = 0.0 if val_files else val_fraction
        self.test_fraction = 0.0 if test_files else test_fraction
        self._tokenizer = tokenizer_for(tokenizer)
        self._separator = separator

    @property
    def tokenizer(self) -> Tokenizer:
        """How text becomes tokens."""
        return self._tokenizer

    @property
    def separator(self) -> str:
        """What stands between two files."""
        return self._separator

    def sections(self) -> Mapping[SplitName, Sequence[Section]]:
        """Return the parts of the files that make up each split.

        Raises:
            FileNotFoundError: An entry names no file.
            ValueError: A file is in two splits, or a split is left without one.
        """
        separate: dict[SplitName, list[Section]] = {}
        taken = {}
        for split, files in (("val", self.val_files), ("test", self.test_files)):
            if files:
                found = find_documents(files)
                separate[split] = [Section(document) for document in found]  # type: ignore[index]
                for document in found:
                    place = (document.path.resolve(), document.member)
                    if place in taken:
                        raise ValueError(f"{document} is in val_files and in test_files")
                    taken[place] = split
        # A glob over everything may well include what is held out: it stays out of training.
        rest = [
            document
            for document in find_documents(self.files)
            if (document.path.resolve(), document.member) not in taken
        ]
        if not rest:
            raise ValueError(f"files {self.files!r} leave nothing to train on: all are held out")
        if self.split_by == "file":
            return {**by_file(rest, self.val_fraction, self.test_fraction), **separate}
        cache = cache_root(self.cache_dir)
        return {**by_fraction(rest, self.val_fraction, self.test_fraction, cache), **separate}
