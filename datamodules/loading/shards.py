"""The batches of one process, its share of the rows, and random numbers by key."""

from __future__ import annotations

import hashlib
from math import ceil
from typing import Any, NamedTuple, Protocol

import torch

__all__ = ["ALONE", "Shard", "Source", "generator"]


class Source(Protocol):
    """The batches of one process; number k of a training source goes beyond `len`, to any k."""

    def __len__(self) -> int:
        """Return the batches of one pass over the data."""

    def __getitem__(self, number: int) -> Any:
        """Return batch `number`, which depends on nothing but the number."""


class Shard(NamedTuple):
    """Which of `processes` this is, counted from 0; each takes an equal part of the rows."""

    rank: int = 0
    processes: int = 1

    def rows(self, total: int) -> range:
        """Return the rows of this process; those from `total` on are there to keep parts equal."""
        each = ceil(total / self.processes)
        return range(self.rank * each, (self.rank + 1) * each)


ALONE = Shard()
"""The only process."""


def generator(*key: int | str) -> torch.Generator:
    """Return random numbers that are a function of the key alone."""
    digest = hashlib.blake2b(repr(key).encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "little") >> 1)
