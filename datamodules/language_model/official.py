"""What text8 and enwik8 have in common: 100 million characters and an official split."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from lightning.pytorch.utilities import rank_zero_warn

from datamodules.files.cache import cache_root
from datamodules.files.documents import Section
from datamodules.files.locate import find_corpus
from datamodules.files.splitting import SplitName
from datamodules.language_model.text import TextData

__all__ = ["OFFICIAL_SIZES", "OfficialCorpus"]

OFFICIAL_SIZES: Mapping[SplitName, int] = {
    "train": 90_000_000,
    "val": 5_000_000,
    "test": 5_000_000,
}
"""Bytes of each split, in the order in which they lie in the file."""


class OfficialCorpus(TextData):
    """One file, cut into train, validation and test.

    Args:
        path: The file, plain or compressed, or its folder.
        split: How a file of another size than the official one is taken.
        **kwargs: As in `TextData`.
    """

    def __init__(
        self, path: str, split: Literal["official", "proportional"], **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        if split not in ("official", "proportional"):
            raise ValueError(f"split must be 'official' or 'proportional', got {split!r}")
        self.path = path
        self.split_by = split

    @property
    @abstractmethod
    def official_name(self) -> str:
        """The name of the official file."""

    def sections(self) -> Mapping[SplitName, Sequence[Section]]:
        """Return the official split, or one of the same shares.

        Raises:
            FileNotFoundError: There is no such file.
            ValueError: The file has another size than the official one and `split` is "official".
        """
        document = find_corpus(
            self.path,
            self.official_name,
            f"get {self.official_name}.zip from http://mattmahoney.net/dc/textdata.html",
        )
        size = document.size(cache_root(self.cache_dir))
        whole = sum(OFFICIAL_SIZES.values())
        if size != whole:
            seen = f"{document} has {size:,} bytes, the official {self.official_name} {whole:,}"
            if self.split_by == "official":
                raise ValueError(
                    f"{seen}: it is cut short or another file; "
                    "split='proportional' takes 90, 5 and 5 % of it all the same"
                )
            rank_zero_warn(f"{seen}; it is split 90/5/5 %: figures cannot be compared")
        cuts = [0]
        for share in OFFICIAL_SIZES.values():
            cuts.append(cuts[-1] + share)
        cuts = [cut * size // whole for cut in cuts]
        return {
            split: [Section(document, start, stop)]
            for split, start, stop in zip(OFFICIAL_SIZES, cuts, cuts[1:], strict=False)
        }
