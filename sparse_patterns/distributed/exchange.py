"""What travels between the processes of a group, and when that fails.

Keys, values and gradients go from the process that has them to one that needs them, in one message
for each pair of processes; masks and lengths are few and are given to all.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
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
