"""What travels between the processes of a group, and when that fails.

Keys, values and gradients go from the process that has them to one that needs them, in one message
for each pair of processes; masks and lengths are few and are given to all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, distributed

Shapes = Mapping[int, Sequence[tuple[int, ...]]]
"""What comes from each rank: the shapes of the parts of its message."""


@contextmanager
def told(step: str, group: Any) -> Iterator[None]:
    """Say which step failed when a process of the group died or does not answer.

    Raises:
        RuntimeError: In place of the error of the library.
    """
    try:
        yield
    except RuntimeError as error:
        rank, ranks = distributed.get_rank(group), distributed.get_world_size(group)
        raise RuntimeError(
            f"distributed attention: rank {rank} of {ranks} could not {step}; another process "
            "died, took another path through the program, or took longer than the group's timeout: "
            f"{str(error).splitlines()[0] if str(error) else type(error).__name__}"
        ) from error


class Transfer:
    """Messages on their way; `wait` returns those that come in."""

    def __init__(
        self,
        step: str,
        group: Any,
        send: Mapping[int, Sequence[Tensor]],
        receive: Shapes,
        like: Tensor,
    ) -> None:
        self.step, self.group, self.receive = step, group, receive
        self.buffers: dict[int, Tensor] = {}
        operations = []
        # Sent tensors are kept until the messages are through.
        self.sent: list[Tensor] = []
        for rank in sorted({*send, *receive}):
            parts = [x.reshape(-1) for x in send.get(rank, ()) if x.numel()]
            if parts:
                message = torch.cat([x.to(like.dtype) for x in parts])
                self.sent.append(message)
                operations.append(self._operation(distributed.isend, message, rank))
            size = sum(_size(shape) for shape in receive.get(rank, ()))
            if size:
                buffer = torch.empty(size, dtype=like.dtype, device=like.device)
                self.buffers[rank] = buffer
                operations.append(self._operation(distributed.irecv, buffer, rank))
        with told(step, group):
            self.works = distributed.batch_isend_irecv(operations) if operations else []

    def _operation(self, kind: Any, tensor: Tensor, rank: int) -> distributed.P2POp:
        return distributed.P2POp(kind, tensor, group=self.group, group_peer=rank)

    def wait(self) -> dict[int, list[Tensor]]:
        """Return the parts of each message, of the shapes that were announced."""
        with told(self.step, self.group):
            for work in self.works:
                work.wait()
        self.sent.clear()
        found = {}
        for rank, shapes in self.receive.items():
            sizes = [_size(shape) for shape in shapes]
            buffer = self.buffers.get(rank)
            if buffer is None:
                continue
            parts = buffer.split(sizes)
            found[rank] = [part.reshape(shape) for part, shape in zip(parts, shapes, strict=True)]
        return found


def _size(shape: Sequence[int]) -> int:
    size = 1
    for one in shape:
        size *= one
    return size


Parts = list[Tensor]
"""The tensors of one message."""


class Tree:
    """Tensors of one rank for all others, and what they make of them back to that rank.

    They pass through a binomial tree, so that nobody sends them more often than the logarithm of
    the number of ranks. The trees of all ranks that have something grow at the same time.
    """

    def __init__(self, group: Any) -> None:
        self.group = group
        self.rank, self.ranks = distributed.get_rank(group), distributed.get_world_size(group)

    def spread(
        self, step: str, own: Parts, shapes: Sequence[Sequence[tuple[int, ...]]]
    ) -> list[Parts]:
        """Give the own tensors to all; return those of each rank.

        Args:
            step: What this is for, for the error message.
            own: Tensors of this rank.
            shapes: Of the tensors of each rank.
        """
        held = [own if rank == self.rank else [] for rank in range(self.ranks)]
        owners = _with_something(shapes)
        for distance in reversed(self._distances()):
            send, wanted = self._roles(owners, distance)
            message = [tensor for owner in send for tensor in held[owner]]
            expected = [shape for owner in wanted for shape in shapes[owner]]
            came = self._swap(step, distance, message, expected, own[0])
            for owner in wanted:
                held[owner] = [came.pop(0) for _ in shapes[owner]]
        return [
            parts or [own[0].new_empty(shape) for shape in of_rank]
            for parts, of_rank in zip(held, shapes, strict=True)
        ]

    def collect(
        self, step: str, each: Sequence[Parts], join: Callable[[Parts, Parts], Parts]
    ) -> Parts:
        """Give results for each rank to it, joined on the way; return those for the own one.

        Args:
            step: What this is for, for the error message.
            each: The results for each rank.
            join: Joins the results of two ranks, always in the same order.
        """
        held = list(each)
        shapes = [[tuple(tensor.shape) for tensor in parts] for parts in each]
        owners = _with_something(shapes)
        like = each[self.rank][0]
        for distance in self._distances():
            wanted, send = self._roles(owners, distance)
            message = [tensor for owner in send for tensor in held[owner]]
            expected = [shape for owner in wanted for shape in shapes[owner]]
            came = self._swap(step, -distance, message, expected, like)
            for owner in wanted:
                held[owner] = join(held[owner], [came.pop(0) for _ in shapes[owner]])
        return held[self.rank]

    def _distances(self) -> list[int]:
        return [1 << bit for bit in range((self.ranks - 1).bit_length())]

    def _roles(self, owners: list[int], distance: int) -> tuple[list[int], list[int]]:
        """Return for whose trees this rank is the upper end of an edge, and for whose the lower."""
        upper, lower = [], []
        for owner in owners:
            place = (self.rank - owner) % self.ranks
            if place % (2 * distance) == 0 and place + distance < self.ranks:
                upper.append(owner)
            elif place % (2 * distance) == distance:
                lower.append(owner)
        return upper, lower

    def _swap(
        self,
        step: str,
        distance: int,
        message: Parts,
        expected: list[tuple[int, ...]],
        like: Tensor,
    ) -> Parts:
        """Send to the rank at a distance, and receive from the one at that distance before."""
        to, source = (self.rank + distance) % self.ranks, (self.rank - distance) % self.ranks
        send = {to: message} if message else {}
        receive = {source: expected} if expected else {}
        return Transfer(step, self.group, send, receive, like).wait().get(source, [])


def _with_something(shapes: Sequence[Sequence[tuple[int, ...]]]) -> list[int]:
    """Return the ranks that have something, the same on all of them."""
    return [rank for rank, some in enumerate(shapes) if any(_size(shape) for shape in some)]


def gather(step: str, tensor: Tensor, lengths: Sequence[int], group: Any) -> Tensor:
    """Return the stretches of all ranks, joined along the last dimension.

    Args:
        step: What this is for, for the error message.
        tensor: int64 or uint8 `(batch, own length)`.
        lengths: Length of each rank's stretch.
        group: The group.
    """
    longest = max(lengths)
    own = tensor.new_zeros(*tensor.shape[:-1], longest)
    own[..., : tensor.shape[-1]] = tensor
    parts = [torch.empty_like(own) for _ in lengths]
    with told(step, group):
        distributed.all_gather(parts, own, group=group)
    return torch.cat([x[..., :n] for x, n in zip(parts, lengths, strict=True)], -1)


def group_of(name: str) -> Any:
    """Return the group of a name, by which compiled programs know it."""
    # There is no such module in a torch that was built without torch.distributed.
    from torch.distributed import distributed_c10d

    return distributed_c10d._resolve_process_group(name)  # type: ignore[attr-defined,arg-type]
