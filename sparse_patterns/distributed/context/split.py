"""Which processes share the sequences of this one, for modules to ask."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, distributed

from sparse_patterns.distributed.context.gathering import Gather


class Split:
    """Sequences that are cut by position among the processes of a group.

    Attributes:
        group: The processes, in the order of the stretches.
        rank: This process in the group.
        ranks: Number of processes.
    """

    def __init__(self, group: Any = None) -> None:
        """Take a group; the default group of `torch.distributed` if None.

        Raises:
            RuntimeError: `torch.distributed` is not initialized, or this process is not in the
                group.
        """
        if not distributed.is_available() or not distributed.is_initialized():
            raise RuntimeError(
                "a sequence is cut among the processes of a group: call "
                "torch.distributed.init_process_group first"
            )
        self.group = distributed.group.WORLD if group is None else group
        self.rank = distributed.get_rank(self.group)
        self.ranks = distributed.get_world_size(self.group)
        if self.rank < 0:
            raise RuntimeError("this process is not in the group that was given")

    def lengths(self, length: int) -> tuple[int, ...]:
        """Return the tokens of each rank: even, the first ranks have one more if need be."""
        each, more = divmod(length, self.ranks)
        return tuple(each + (rank < more) for rank in range(self.ranks))

    def bounds(self, length: int) -> tuple[int, int]:
        """Return the first position of this process and that after its last, of a length."""
        each, more = divmod(length, self.ranks)
        start = self.rank * each + min(self.rank, more)
        return start, start + each + (self.rank < more)

    def cut(self, x: Tensor, dim: int = 1) -> Tensor:
        """Return the stretch of this process, a view of the tensor of the whole sequence.

        Args:
            x: Any tensor, the same on all processes.
            dim: Its dimension of positions.
        """
        start, stop = self.bounds(x.shape[dim])
        return x.narrow(dim, start, stop - start)

    def gather(self, x: Tensor, length: int, dim: int = 1) -> Tensor:
        """Return the whole sequence on each process, from the stretches of all.

        The gradient of a stretch is the sum of those that all processes have for it: the loss that
        is differentiated is the sum of the losses of all processes.

        Args:
            x: The stretch of this process.
            length: Of the whole sequence.
            dim: The dimension of positions.

        Raises:
            ValueError: `x` is not as long as the stretch of this process.
        """
        lengths = self.lengths(length)
        if x.shape[dim] != lengths[self.rank]:
            raise ValueError(
                f"x must be the stretch of rank {self.rank}, {lengths[self.rank]} of {length} "
                f"tokens, got {x.shape[dim]}"
            )
        if self.ranks == 1:
            return x
        out: Tensor = Gather.apply(x.transpose(0, dim), lengths, self.group)
        return out.transpose(0, dim)


# Not a context variable: activation checkpoints compute a layer again in the backward pass, which
# on an accelerator runs in a thread of its own.
_current: Split | None = None


def current_split() -> Split | None:
    """Return the split that the code runs in, or None where sequences are whole."""
    return _current


@contextmanager
def split_over(group: Any = None) -> Iterator[Split]:
    """Run modules on the stretches of a sequence that is cut among the processes of a group.

    Inside, `SparseSelfAttention` takes its input as the stretch of this process and attends over
    those of all. A process has one split at a time, over all of its threads.

    Args:
        group: The processes, in the order of the stretches, or a `Split`; the default group of
            `torch.distributed` if None.

    Raises:
        RuntimeError: As for `Split`.
    """
    split = group if isinstance(group, Split) else Split(group)
    with _use(split):
        yield split


@contextmanager
def undivided() -> Iterator[None]:
    """Run modules on whole sequences, also inside of `split_over`."""
    with _use(None):
        yield


def refuse_in_split(what: str) -> None:
    """Refuse what is there on one process only.

    Raises:
        ValueError: The code runs inside of `split_over`.
    """
    if _current is not None:
        raise ValueError(
            f"{what} cannot be computed where a sequence is cut among {_current.ranks} processes: "
            "run it on one"
        )


@contextmanager
def _use(split: Split | None) -> Iterator[None]:
    global _current
    before, _current = _current, split
    try:
        yield
    finally:
        _current = before
