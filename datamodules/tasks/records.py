"""Records of a task from its files: which file is of which split, and what is read from it."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from types import MappingProxyType
from typing import Any

from datamodules.files.archives import Files, split_files
from datamodules.files.cache import cache_root
from datamodules.files.documents import Document
from datamodules.files.records import Record, RecordError
from datamodules.files.splitting import SplitName, check_fractions, name_hash
from datamodules.loading.resumable import ResumableData, check_at_least

__all__ = ["RecordData"]


class RecordData(ResumableData):
    """Reads records: the first part of `datamodules.tasks.base.TaskData`.

    Attributes:
        official: Names or globs of the files of each split in the official release, the preferred
            first.

    Args:
        path: A folder or an archive (zip, tar, tgz, ...) with the files as they are released; or a
            single file: that of the split whose official name it has, else of training.
        train: Files of the training split (a file, folder, glob, or a list of them; .gz, .bz2, .xz
            and .zip are decompressed), where they are not in `path` under their official names.
        val: The same of the validation split.
        test: The same of the test split.
        val_fraction: Share of the training records, chosen by a hash, to validate on where there
            are no files for that.
        test_fraction: The same for the test split.
        limit: The first so many records of each split, for a quick trial; None takes all.
        skip_bad_records: Leave out records that are not as they should be, and tell; otherwise the
            first one is an error.
        cache_dir: Where encoded examples and unpacked archives are kept; None takes the user's
            cache folder.
        **kwargs: As in `ResumableData`: batch_size (in examples), eval_batch_size, seed,
            num_workers.
    """

    official: Mapping[SplitName, Sequence[str]] = MappingProxyType(
        {"train": (), "val": (), "test": ()}
    )

    def __init__(
        self,
        *,
        path: str | None = None,
        train: str | list[str] | None = None,
        val: str | list[str] | None = None,
        test: str | list[str] | None = None,
        val_fraction: float = 0.0,
        test_fraction: float = 0.0,
        limit: int | None = None,
        skip_bad_records: bool = False,
        cache_dir: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        check_fractions(val_fraction, test_fraction)
        if limit is not None:
            check_at_least(1, limit=limit)
        self.path = path
        self.files: dict[SplitName, Files] = {"train": train, "val": val, "test": test}
        self.fractions: dict[SplitName, float] = {"val": val_fraction, "test": test_fraction}
        self.limit = limit
        self.skip_bad_records = skip_bad_records
        self.cache_dir = cache_dir
        self._documents: dict[SplitName, list[Document]] | None = None

    @abstractmethod
    def read(self, document: Document, split: SplitName) -> Iterator[Record | RecordError]:
        """Yield the records of one file, as they stand in it.

        A record that is not as it should be is a `RecordError`, yielded so that the next one can be
        read, or raised where that is not possible (truncated JSON).
        """

    def split_key(self, record: Any) -> str:
        """Return what decides the split of a record under `val_fraction`; records share it or not.

        For texts by few authors, the author: then nobody is in two splits.
        """
        return str(record.id)

    def references(self, split: SplitName) -> Iterator[tuple[str, Any]]:
        """Yield (id, gold answer) of a split from its files, for the evaluation of predictions.

        What a gold answer is depends on the task: a list of accepted answers, a class, ...
        """
        raise NotImplementedError(f"{type(self).__name__} has no reference answers")

    def verified_references(self, split: SplitName) -> Iterator[tuple[str, Any]]:
        """Yield those of `references` that people have verified, which are also scored apart.

        A data set that has none yields nothing.
        """
        yield from ()

    def documents(self) -> dict[SplitName, list[Document]]:
        """Return the files of each split.

        Raises:
            FileNotFoundError: There is no such file.
            ValueError: No file is named.
        """
        if self._documents is None:
            cache = cache_root(self.cache_dir)
            self._documents = split_files(self.path, self.files, self.official, cache)
        return self._documents

    def splits(self) -> list[SplitName]:
        """Return the splits there are, those taken from the training records included."""
        there = list(self.documents())
        if "train" in there:
            there += [s for s in self.parts() if s not in there]
        return there

    def parts(self) -> dict[SplitName, float]:
        """Return the splits that are parts of the training records, and the share of each.

        Files of its own go before; then a split is no part.
        """
        return {split: share for split, share in self.fractions.items() if share}

    def part_of(self, record: Any, shares: Mapping[SplitName, float]) -> SplitName:
        """Return the split of a record of the training files.

        Args:
            record: The record.
            shares: The splits to be taken from them, as in `parts`.
        """
        return _share_of(self.split_key(record), shares)

    def records(self, split: SplitName) -> Iterator[Record | RecordError]:
        """Yield the records of a split from its files, each id once.

        Raises:
            RecordError: A file cannot be read on, or an id is there twice (yielded where bad
                records are skipped).
        """
        documents = self.documents()
        own = split in documents
        shares = {s: p for s, p in self.parts().items() if s not in documents}
        seen: dict[str, str] = {}
        for document in documents[split] if own else documents["train"]:
            for record in self.read(document, split):
                if isinstance(record, RecordError):
                    # Which part it would go to cannot be told; it is counted once, in training.
                    if own or split == "train":
                        yield record
                    continue
                if record.id in seen:
                    where = f"is there twice, first in {seen[record.id]}"
                    if own or split == "train":
                        yield RecordError(record.source, record.id, "id", where)
                    continue
                seen[record.id] = record.source
                if split in ("train", *shares) and self.part_of(record, shares) != split:
                    continue
                yield record

    def good_records(
        self, split: SplitName, bad: dict[str, list[str]] | None = None
    ) -> Iterator[Any]:
        """Yield the records of a split that are as they should be, at most `limit`.

        Args:
            split: The split.
            bad: Takes the ids of those that are left out, under what is wrong with them.

        Raises:
            RecordError: A record is wrong, and bad records are not to be skipped.
        """
        return islice(self._good(split, bad if bad is not None else {}), self.limit)

    def _good(self, split: SplitName, bad: dict[str, list[str]]) -> Iterator[Record]:
        for record in self.records(split):
            if not isinstance(record, RecordError):
                yield record
            elif self.skip_bad_records:
                bad.setdefault(f"left out: {record.field}: {record.problem}", []).append(
                    record.record
                )
            else:
                raise record


def _share_of(key: str, shares: Mapping[SplitName, float]) -> SplitName:
    """Return the split a record goes to, by a hash: the same whatever other records there are."""
    place = name_hash(key)
    for split, share in shares.items():
        if place < share:
            return split
        place -= share
    return "train"
