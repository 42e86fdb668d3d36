"""The calls that the grid of `auto` holds: patterns, lengths, batches, types and passes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

import sparse_patterns as sp
from benchmarks.contenders import DIRECTIONS, HEAD_DIM, HEADS

LENGTHS = (64, 256, 1024, 4096, 16384)
EVERY_LENGTH = (64, 96, 128, 200, 256, 384, 512, 768, 1024, 1536, 2048, 4096, 8192, 16384)
BATCHES = (1, 8)
EVERY_BATCH = (1, 4, 8, 32)
TYPES = ("float32", "bfloat16")
LONGEST_BATCH = 8192
"""Tokens of all examples together; of more, only one example is measured."""


def _over_grid(length: int) -> sp.Pattern:
    """A window of 7 x 7 places over an image that is square, or twice as wide as high."""
    height = 1 << (length.bit_length() - 1) // 2
    while length % height:
        height -= 1
    return sp.GridWindow((height, length // height), (3, 3))


PATTERNS: dict[str, Callable[[int], sp.Pattern]] = {
    "window": lambda length: sp.Window(64, 64),
    "wide-window": lambda length: sp.Window(256, 256),
    "causal-window": lambda length: sp.Window(255, 0),
    "globals": lambda length: sp.Window(64, 64) | sp.Global((0,)),
    "dilated-heads": lambda length: sp.PerHead(
        *(sp.Window(64, 64, dilation=step) for step in (1, 2, 4) for _ in range(HEADS // 3))
    ),
    "longformer": lambda length: sp.get("longformer"),
    "streaming": lambda length: sp.get("streaming", window=256),
    "bigbird": lambda length: sp.get("bigbird"),
    "strided": lambda length: sp.get("sparse-transformer-strided"),
    "fixed": lambda length: sp.get("sparse-transformer-fixed"),
    "grid-window": _over_grid,
    "padded-window": lambda length: sp.Window(64, 64),
    "capped-window": lambda length: sp.Window(64, 64),
    "dropped-window": lambda length: sp.Window(64, 64),
    "full": lambda length: sp.Full(),
    "causal": lambda length: sp.Causal(),
}
"""By name, for a length in tokens."""

GIVEN: dict[str, dict[str, Any]] = {
    "longformer": {"global_mask": True},
    "padded-window": {"key_mask": True},
    "capped-window": {"softcap": True},
    "dropped-window": {"dropout_p": 0.1},
}
"""What is given besides the pattern, as `sp.explain` is told."""


@dataclass(frozen=True)
class Cell:
    """One call.

    Attributes:
        pattern: Name of the pattern.
        length: Tokens.
        batch: Examples.
        dtype: Name of the type.
        direction: "forward" or "forward+backward".
        head_dim: Size of a head.
    """

    pattern: str
    length: int
    batch: int
    dtype: str
    direction: str
    head_dim: int = HEAD_DIM

    def __str__(self) -> str:
        size = "" if self.head_dim == HEAD_DIM else f"heads of size {self.head_dim}, "
        shape = f"{self.batch} x {self.length:,} tokens"
        return f"{self.pattern}, {shape}, {size}{self.dtype}, {self.direction}"

    @property
    def type(self) -> torch.dtype:
        """The type itself."""
        found = getattr(torch, self.dtype)
        assert isinstance(found, torch.dtype)
        return found


def cells(
    patterns: Sequence[str], lengths: Sequence[int], batches: Sequence[int], types: Sequence[str]
) -> Iterator[Cell]:
    """Yield the calls of a grid, short ones first."""
    for length in sorted(set(lengths)):
        for pattern in patterns:
            for batch in sorted(set(batches)):
                if batch > 1 and batch * length > LONGEST_BATCH:
                    continue
                for dtype in types:
                    for direction in DIRECTIONS:
                        yield Cell(pattern, length, batch, dtype, direction)
