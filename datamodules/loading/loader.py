"""The iterable a Trainer reads batches from."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch.utils.data import DataLoader

from datamodules.loading.shards import Source

__all__ = ["Batches", "Numbers"]


class Numbers(NamedTuple):
    """Which batches an epoch consists of.

    Attributes:
        behind: Batches of the epoch that were done before it was interrupted.
        ahead: The numbers of those that are left.
    """

    behind: int
    ahead: range


class Batches:
    """Yields the batches of a source, from the one on that comes next.

    It is not a torch `DataLoader`, though one does the work: Lightning would put a distributed
    sampler into that, but the source has the rows of this process already.

    Args:
        source: The batches by number.
        numbers: Called at the beginning of each epoch; tells where it begins and ends.
        num_workers: Processes that prepare batches ahead; 0 prepares them in this one.
        pin_memory: Whether batches are put where a GPU can fetch them by itself.
    """

    def __init__(
        self,
        source: Source,
        numbers: Callable[[], Numbers],
        num_workers: int = 0,
        pin_memory: bool = False,
    ) -> None:
        self.source = source
        self.num_workers = num_workers
        self.pin_memory = pin_memory
        self._numbers = numbers
        self._now = numbers()

    def __len__(self) -> int:
        """Return the batches of the whole epoch, as Lightning counts: with those already done."""
        return self._now.behind + len(self._now.ahead)

    def __iter__(self) -> Iterator[Any]:
        """Begin at the next batch; workers start when it is asked for."""
        # Set here, not in the generator: `len` is read before the first batch.
        self._now = self._numbers()
        return self._read(self._now.ahead)

    def _read(self, numbers: range) -> Iterator[Any]:
        yield from DataLoader(
            self.source,  # type: ignore[arg-type]
            sampler=numbers,
            batch_size=None,
            num_workers=self.num_workers,
            pin_memory=self.pin_memory,
            collate_fn=_as_it_is,
            # Its own: making a loader draws a number, which would disturb the model's.
            generator=torch.Generator(),
        )

    def state_dict(self) -> dict[str, Any]:
        """Return nothing: the position is in the state of the data module.

        That there is such a method tells Lightning that an epoch can be resumed in its middle.
        """
        return {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take nothing."""


def _as_it_is(batch: Any) -> Any:
    """Return a batch; torch would turn its tuples into lists."""
    return batch
