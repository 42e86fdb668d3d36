"""Python's own standard library as text: always there, nothing to download."""

from __future__ import annotations

import sysconfig
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from datamodules.files.cache import cache_root
from datamodules.files.documents import Document, Section
from datamodules.files.splitting import SplitName, by_file, check_fractions, name_hash
from datamodules.language_model.base import check_at_least
from datamodules.language_model.text import TextData, tokenizer_for
from datamodules.registry import register
from datamodules.tokenizers.text import Tokenizer

__all__ = ["StandardLibrary"]

# Tests are large and odd, idlelib is an application, and what is installed beside differs from
# machine to machine.
_EXCLUDED = {"test", "tests", "idlelib", "idle_test", "site-packages", "dist-packages"}


@register("standard-library")
class StandardLibrary(TextData):
    """The source text of this Python's standard library, split by file.

    Which split a file belongs to depends on its relative path alone. Of files with the same
    content one is kept.

    Args:
        max_bytes: Take files up to this many bytes, chosen evenly; None takes all.
        val_fraction: Share of the files in the validation split; 0 for none.
        test_fraction: Share of the files in the test split; 0 for none.
        tokenizer: A JSON file of the `tokenizers` library; None takes bytes.
        **kwargs: As in `TextData`.
    """

    separator = "\n"

    def __init__(
        self,
        max_bytes: int | None = None,
        val_fraction: float = 0.05,
        test_fraction: float = 0.05,
        tokenizer: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        check_fractions(val_fraction, test_fraction)
        if max_bytes is not None:
            check_at_least(1, max_bytes=max_bytes)
        self.max_bytes = max_bytes
        self.val_fraction = val_fraction
        self.test_fraction = test_fraction
        self._tokenizer = tokenizer_for(tokenizer)

    @property
    def tokenizer(self) -> Tokenizer:
        """How text becomes tokens."""
        return self._tokenizer

    def sections(self) -> Mapping[SplitName, Sequence[Section]]:
        """Return the files of each split.

        Raises:
            FileNotFoundError: This Python comes without its source text.
            ValueError: `max_bytes` leaves a split without a file.
        """
        root = Path(sysconfig.get_path("stdlib"))
        documents = self._chosen(_source_files(root))
        if not documents:
            raise FileNotFoundError(
                f"no Python source text in {root}"
                + (f" of at most {self.max_bytes} bytes" if self.max_bytes else "")
                + "; give text of your own with the data set text-files"
            )
        return by_file(documents, self.val_fraction, self.test_fraction)

    def _chosen(self, documents: Sequence[Document]) -> list[Document]:
        """Drop copies, and what goes beyond the size; the rest stays in the order of the names."""
        cache = cache_root(self.cache_dir)
        first: dict[str, Document] = {}
        for document in documents:
            first.setdefault(document.digest(cache), document)
        if self.max_bytes is None:
            return list(first.values())
        left = self.max_bytes
        chosen = []
        # In the order of a hash other than that of the split, so that both shares stay as they are.
        for document in sorted(first.values(), key=lambda d: name_hash(f"choice {d.name}")):
            size = document.path.stat().st_size
            if size <= left:
                left -= size
                chosen.append(document)
        return sorted(chosen, key=lambda d: d.name)


def _source_files(root: Path) -> list[Document]:
    found = []
    for path in root.rglob("*.py"):
        name = path.relative_to(root)
        if not _EXCLUDED.intersection(name.parts) and path.stat().st_size:
            found.append(Document(path, name.as_posix()))
    return sorted(found, key=lambda d: d.name)
