"""Bits per byte, character or token, and nats per token, with exact sums."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torchmetrics import Metric

__all__ = ["BITS_NAMES", "BitsPerUnit", "NatsPerToken", "bits_name"]

BITS_NAMES = {"byte": "bpb", "character": "bpc", "token": "bpt"}
"""What bits per unit are called, by unit."""


def bits_name(unit: str) -> str:
    """Return what bits per `unit` are called.

    Raises:
        ValueError: There is no such unit.
    """
    if unit not in BITS_NAMES:
        raise ValueError(f"unit must be one of {', '.join(BITS_NAMES)}, got {unit!r}")
    return BITS_NAMES[unit]


class NatsPerToken(Metric):
    """Total nats by total tokens: the mean loss over a data set, however it is cut into batches.

    A mean of batch means would weigh a short last batch like a full one. Sums are float64 and
    int64, and are added over processes.
    """

    full_state_update = False
    higher_is_better = False
    is_differentiable = False
    nats: Tensor
    count: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("nats", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("count", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, nats: Tensor, count: Tensor | int) -> None:
        """Add a batch.

        Args:
            nats: Sum of the cross-entropy over the scored tokens of the batch, in nats.
            count: What it is divided by: the scored tokens, or the units they stand for.
        """
        self.nats += nats.detach().to(self.nats.dtype)
        self.count += torch.as_tensor(count, device=self.count.device)

    def compute(self) -> Tensor:
        """Return the mean so far; NaN before anything was scored."""
        return (self.nats / self.count).to(torch.get_default_dtype())


class BitsPerUnit(NatsPerToken):
    """Total bits by total units, where a unit is a byte, a character or a token."""

    def compute(self) -> Tensor:
        """Return bits per unit; NaN before anything was scored."""
        return (self.nats / math.log(2) / self.count).to(torch.get_default_dtype())
