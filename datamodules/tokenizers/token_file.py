"""Token files: the tokens of a split on disk, read through a memory map and never as a whole."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

__all__ = ["TokenFile", "width_for"]

_TYPES = {1: torch.uint8, 2: torch.uint16, 4: torch.uint32}


def width_for(count: int) -> int:
    """Return the bytes that one of `count` different numbers takes: 1, 2 or 4."""
    return next(width for width in _TYPES if count <= 256**width)


class TokenFile:
    """A file of unsigned numbers of `width` bytes each, in the byte order of the machine.

    It may be sent to another process: that one opens the map anew.
    """

    def __init__(self, path: Path, width: int) -> None:
        self.path = path
        self.width = width
        self._length = path.stat().st_size // width
        self._map: Tensor | None = None

    def __len__(self) -> int:
        """Return the number of tokens."""
        return self._length

    def read(self, start: int, stop: int) -> Tensor:
        """Return the tokens `start` to `stop` (not included), int64 (stop - start,)."""
        if self._length == 0:
            return torch.empty(0, dtype=torch.int64)
        if self._map is None:
            self._map = torch.from_file(
                str(self.path), shared=False, size=self._length, dtype=_TYPES[self.width]
            )
        return self._map[start:stop].long()

    def read_around(self, start: int, count: int) -> Tensor:
        """Return `count` tokens from `start` on, going on at the beginning after the end."""
        start %= self._length
        parts = []
        while count > 0:
            part = self.read(start, min(start + count, self._length))
            parts.append(part)
            count -= len(part)
            start = 0
        return torch.cat(parts)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_map": None}
