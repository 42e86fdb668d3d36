"""Which examples make up batch number k of a task: pure functions, the same in every process."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from math import ceil
from typing import Any

import torch

from datamodules.loading.shards import ALONE, Shard, generator
from datamodules.tasks.rows import Example

__all__ = ["EvaluationExamples", "ShuffledExamples"]

Collate = Callable[[Sequence[Example]], Any]


@dataclass
class ShuffledExamples:
    """Training batches: all examples in a new order each pass, pass after pass.

    The batches run through the passes without a break, so that all have `batch_size` examples and
    no example is left out: a batch may hold the end of one pass and the beginning of the next.

    Args:
        examples: The examples of the split.
        collate: Makes a batch of some.
        batch_size: Examples of a batch over all processes.
        seed: The seed of the run.
        stage: The stage, which has orders of its own.
        shard: This process.
        shuffle: Whether the order changes; otherwise it is that of the files.
    """

    examples: Sequence[Example]
    collate: Collate
    batch_size: int
    seed: int
    stage: int = 0
    shard: Shard = ALONE
    shuffle: bool = True
    _order: tuple[int, list[int]] = field(default=(-1, []), repr=False)

    def __len__(self) -> int:
        """Return the batches that begin in one pass."""
        return max(1, ceil(len(self.examples) / self.batch_size))

    def __getitem__(self, number: int) -> Any:
        """Return batch `number`."""
        first = number * self.batch_size
        places = [first + row for row in self.shard.rows(self.batch_size)]
        return self.collate([self.examples[self._index(place)] for place in places])

    def _index(self, place: int) -> int:
        turn, within = divmod(place, len(self.examples))
        if not self.shuffle:
            return within
        if self._order[0] != turn:
            random = generator("examples", self.seed, self.stage, turn)
            order = torch.randperm(len(self.examples), generator=random).tolist()
            self._order = (turn, order)
        return self._order[1][within]


@dataclass
class EvaluationExamples:
    """Batches of validation and test: each example once, over all processes together.

    All processes have equally many batches, of sizes as equal as possible. A process for which no
    example is left takes the first one again, in a batch marked `filler`.

    Args:
        examples: The examples of the split.
        collate: Makes a batch of some.
        batch_size: The most examples of a batch over all processes.
        shard: This process.
    """

    examples: Sequence[Example]
    collate: Collate
    batch_size: int
    shard: Shard = ALONE

    def __len__(self) -> int:
        """Return the number of batches."""
        each = ceil(self.batch_size / self.shard.processes)
        return ceil(len(self.examples) / (each * self.shard.processes))

    def __getitem__(self, number: int) -> Any:
        """Return batch `number`."""
        parts = len(self) * self.shard.processes
        part = number * self.shard.processes + self.shard.rank
        total = len(self.examples)
        mine = range(part * total // parts, (part + 1) * total // parts)
        batch = self.collate([self.examples[i] for i in mine] or [self.examples[0]])
        if not mine:
            batch["filler"] = True
        return batch
