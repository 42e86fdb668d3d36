"""Which tokens make up batch number k of a masked language model: pure functions of the number."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil
from typing import NamedTuple

import torch
from torch import Tensor

from datamodules.language_model.batch import IGNORE, MaskedBatch
from datamodules.loading.draws import (
    batches_that_cover,
    batches_that_hold,
    places_in_order,
    random_places,
)
from datamodules.loading.shards import ALONE, Shard, generator
from datamodules.masked.masking import Masking
from datamodules.tokenizers.token_file import TokenFile

__all__ = ["MaskedEvaluation", "MaskedRows", "MaskedWindows", "Packed"]


class Packed(NamedTuple):
    """The documents of a split, one after the other, each followed by the separator.

    Attributes:
        tokens: All tokens.
        units: Characters of text of each token; 0 for separators.
        begins: 1 where a word begins.
    """

    tokens: TokenFile
    units: TokenFile
    begins: TokenFile


@dataclass(frozen=True)
class MaskedRows:
    """How a row is made: first token, a part of the packed documents, separator.

    Attributes:
        packed: The documents.
        length: Tokens of a row, the two around it included.
        masking: What is masked.
        pad_id: What fills a row that is shorter.
        first_id: The token that begins a row.
        separator_id: The token that ends a document and a row.
        segments: Whether rows say which document each token is of.
    """

    packed: Packed
    length: int
    masking: Masking
    pad_id: int
    first_id: int
    separator_id: int
    segments: bool = False

    @property
    def body(self) -> int:
        """Tokens of the documents in a row."""
        return self.length - 2

    def batch(self, starts: Sequence[int], keys: Sequence[torch.Generator]) -> MaskedBatch:
        """Return a batch.

        Args:
            starts: Where each row begins in the packed documents; beyond their end it is empty.
            keys: What decides the masks of each row.
        """
        rows, length = len(starts), self.length
        input_ids = torch.full((rows, length), self.pad_id)
        labels = torch.full((rows, length), IGNORE)
        segments = torch.zeros(rows, length, dtype=torch.int64)
        units = torch.zeros(rows, dtype=torch.int64)
        key_mask = torch.zeros(rows, length, dtype=torch.bool)
        total = len(self.packed.tokens)
        for row, (start, key) in enumerate(zip(starts, keys, strict=True)):
            stop = min(start + self.body, total)
            if start >= stop:
                continue
            ids = self.packed.tokens.read(start, stop)
            characters = self.packed.units.read(start, stop)
            read, wanted = self.masking(ids, self.packed.begins.read(start, stop).bool(), key)
            inside = slice(1, 1 + len(ids))
            input_ids[row, 0], input_ids[row, 1 + len(ids)] = self.first_id, self.separator_id
            input_ids[row, inside], labels[row, inside] = read, wanted
            units[row] = characters[wanted != IGNORE].sum()
            key_mask[row, : len(ids) + 2] = True
            segments[row] = self._documents(ids, characters)
        batch = MaskedBatch(input_ids=input_ids, labels=labels, units_scored=units)
        if not bool(key_mask.all()):
            batch["key_mask"] = key_mask
        if self.segments:
            batch["segment_ids"] = segments
        return batch

    def _documents(self, ids: Tensor, characters: Tensor) -> Tensor:
        """Return which document each token of a row is of, counted from 0; a separator ends one."""
        # The text may hold the separator's name; the separator itself has no characters.
        ends = (ids == self.separator_id) & (characters == 0)
        before = ends.long().cumsum(0) - ends.long()
        documents = torch.empty(self.length, dtype=torch.int64)
        documents[0], documents[1 : 1 + len(ids)] = 0, before
        documents[1 + len(ids) :] = before[-1]
        return documents


@dataclass(frozen=True)
class MaskedWindows:
    """Rows that begin anywhere, places and masks drawn anew for each batch.

    Args:
        rows: How a row is made.
        count: Rows of a batch over all processes.
        seed: The seed of the run.
        stage: The stage, which draws rows of its own.
        shard: This process.
    """

    rows: MaskedRows
    count: int
    seed: int
    stage: int = 0
    shard: Shard = ALONE

    def __len__(self) -> int:
        """Return the batches that hold as many tokens as the split."""
        return batches_that_hold(len(self.rows.packed.tokens), self.rows.body * self.count)

    def __getitem__(self, number: int) -> MaskedBatch:
        """Return batch `number`."""
        key = (self.seed, self.stage, number)
        places = len(self.rows.packed.tokens) - self.rows.body + 1
        starts = random_places(places, self.count, self.shard, "masked windows", *key)
        masks = [generator("masks", *key, row) for row in self.shard.rows(self.count)]
        return self.rows.batch(starts, masks)


@dataclass(frozen=True)
class MaskedEvaluation:
    """Rows that cover a split one after the other, with masks that are always the same.

    Args:
        rows: How a row is made.
        count: Rows of a batch over all processes.
        split: Name of the split, which decides the masks together with the place of a row.
        shard: This process.
    """

    rows: MaskedRows
    count: int
    split: str
    shard: Shard = ALONE

    @property
    def windows(self) -> int:
        """How many rows cover the split."""
        return ceil(len(self.rows.packed.tokens) / self.rows.body)

    def __len__(self) -> int:
        """Return the number of batches; the last may have fewer rows."""
        return batches_that_cover(self.windows, self.count)

    def __getitem__(self, number: int) -> MaskedBatch:
        """Return batch `number`; rows beyond the end of the split are empty."""
        places = places_in_order(number, self.windows, self.count, self.shard)
        starts = [place * self.rows.body for place in places]
        # By the place and not the number of a row: another batch size masks the same.
        return self.rows.batch(starts, [generator("masks", self.split, s) for s in starts])
