"""Types that are wide enough for losses, sums and figures, whatever the type of the model."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

import torch
from torch import Tensor

__all__ = ["figure_dtype", "sum_dtype", "wide_default", "widened"]


def widened(tensor: Tensor) -> Tensor:
    """Return a tensor of floats as float32 at least: half types are widened, float64 stays."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def sum_dtype(device: torch.device) -> torch.dtype:
    """Return the type of running sums on a device: float64, or float32 where it has no float64."""
    # Not the cached function first: a compiler does not look into it.
    known = device.type in ("cpu", "cuda", "meta")
    return torch.float64 if known or _has_float64(device.type) else torch.float32


def figure_dtype() -> torch.dtype:
    """Return the type of reported figures: torch's default type, but float32 at least."""
    return torch.promote_types(torch.get_default_dtype(), torch.float32)


@contextmanager
def wide_default() -> Iterator[None]:
    """Make torch's default type float32 at least, as it is not inside the steps of true halves."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(figure_dtype())
    try:
        yield
    finally:
        torch.set_default_dtype(before)


@cache
def _has_float64(kind: str) -> bool:
    try:
        torch.zeros(1, dtype=torch.float64, device=kind).add(1)
    except (TypeError, RuntimeError):
        return False
    return True
