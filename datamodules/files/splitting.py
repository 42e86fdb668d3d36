"""Dividing documents among training, validation and test."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

from datamodules.files.documents import Document, Section

__all__ = ["SplitName", "by_file", "by_fraction", "check_fractions"]

SplitName = Literal["train", "val", "test"]


def check_fractions(val_fraction: float, test_fraction: float) -> None:
    """Refuse fractions that leave nothing to train on.

    Raises:
        ValueError: A fraction is negative, or they add up to 1 or more.
    """
    for name, value in (("val_fraction", val_fraction), ("test_fraction", test_fraction)):
        if not 0 <= value < 1:
            raise ValueError(f"{name} must be >= 0 and < 1, got {value}")
    if val_fraction + test_fraction >= 1:
        raise ValueError(
            f"val_fraction {val_fraction} and test_fraction {test_fraction} "
            "leave nothing to train on"
        )


def by_file(
    documents: Sequence[Document], val_fraction: float, test_fraction: float
) -> dict[SplitName, list[Section]]:
    """Put each document as a whole into one split, by a hash of its name.

    A document stays in its split whatever other documents come or go, so held-out text never gets
    into training. The fractions hold on average.

    Raises:
        ValueError: A split that is wanted gets no document.
    """
    splits: dict[SplitName, list[Section]] = {"train": []}
    if val_fraction:
        splits["val"] = []
    if test_fraction:
        splits["test"] = []
    for document in documents:
        place = name_hash(document.name)
        split: SplitName = "train"
        if place < val_fraction:
            split = "val"
        elif place < val_fraction + test_fraction:
            split = "test"
        splits[split].append(Section(document))
    for split, sections in splits.items():
        if not sections:
            raise ValueError(
                f"splitting by file leaves the {split} split without one of the {len(documents)} "
                "files; give more files, other fractions, or split by fraction"
            )
    return splits


def by_fraction(
    documents: Sequence[Document], val_fraction: float, test_fraction: float, cache: Path
) -> dict[SplitName, list[Section]]:
    """Cut the documents, one after the other, into a beginning, a middle and an end.

    A cut is moved to the next beginning of a UTF-8 character.
    """
    sizes = [document.size(cache) for document in documents]
    whole = sum(sizes)
    shares: Mapping[SplitName, float] = {
        "train": 1 - val_fraction - test_fraction,
        "val": val_fraction,
        "test": test_fraction,
    }
    splits: dict[SplitName, list[Section]] = {}
    passed = 0.0
    begin = 0
    for split, share in shares.items():
        passed += share
        if not share:
            continue
        end = whole if passed > 1 - 1e-9 else round(whole * passed)
        end = _next_character(documents, sizes, end)
        splits[split] = _sections(documents, sizes, begin, end)
        begin = end
    return splits


def name_hash(name: str) -> float:
    """Return a number in [0, 1) that depends on the name alone."""
    digest = hashlib.blake2b(name.encode("utf-8", "surrogateescape"), digest_size=8).digest()
    return int.from_bytes(digest, "little") / 2**64


def _sections(
    documents: Sequence[Document], sizes: Sequence[int], begin: int, end: int
) -> list[Section]:
    sections = []
    offset = 0
    for document, size in zip(documents, sizes, strict=True):
        start, stop = max(begin - offset, 0), min(end - offset, size)
        if start < stop:
            sections.append(Section(document, start, stop))
        offset += size
    return sections


def _next_character(documents: Sequence[Document], sizes: Sequence[int], cut: int) -> int:
    """Return the first place from `cut` on that is not inside a UTF-8 character."""
    for section in _sections(documents, sizes, cut, cut + 3)[:1]:
        for byte in b"".join(section.pieces()):
            if byte & 0xC0 != 0x80:  # not a continuation byte
                break
            cut += 1
    return cut
