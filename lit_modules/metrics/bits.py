"""Bits per byte, character or token, and nats per token, with exact sums."""

from __future__ import annotations

import math

from torch import Tensor

from lit_modules.metrics.exact import ExactMetric
from lit_modules.nn.precision import figure_dtype

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


class NatsPerToken(ExactMetric):
    """Total nats by total tokens: the mean loss over a data set, however it is cut into batches.

    A mean of batch means would weigh a short last batch like a full one. Sums are float64 and
    int64, and are added over processes.
    """

    higher_is_better = False
    nats: Tensor
    count: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_sum("nats")
        self.add_count("count")

    def update(self, nats: Tensor, count: Tensor | int) -> None:
        """Add a batch.

        Args:
            nats: Sum of the cross-entropy over the scored tokens of the batch, in nats.
            count: What it is divided by: the scored tokens, or the units they stand for.
        """
        self.add("nats", nats)
        self.add("count", count)

    def compute(self) -> Tensor:
        """Return the mean so far; NaN before anything was scored."""
        return self._per_count(1.0)

    def _per_count(self, unit: float) -> Tensor:
        nats = self.total("nats")
        return (nats / unit / self.count.to(nats.device)).to(figure_dtype())


class BitsPerUnit(NatsPerToken):
    """Total bits by total units, where a unit is a byte, a character or a token."""

    def compute(self) -> Tensor:
        """Return bits per unit; NaN before anything was scored."""
        return self._per_count(math.log(2))
