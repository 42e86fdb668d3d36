"""Each kernel on one window, forward and gradients, against float64: the first thing to know."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch

import sparse_patterns as sp
from benchmarks.gpu_check.cases import make_case
from benchmarks.gpu_check.comparing import Difference, difference, refusal
from benchmarks.gpu_check.place import Place
from benchmarks.gpu_check.records import MISSING, RIGHT, WRONG, Item, Record
from sparse_patterns.kernels.dispatch import KERNELS

PART = "window"
HEAD_DIM = 64
PATTERN = sp.Window(100, 60)


def name_of(kernel: str, dtype: torch.dtype) -> str:
    """Return the name of a kernel in a type."""
    return f"{kernel} {str(dtype).removeprefix('torch.')}"


def items(place: Place) -> list[Item]:
    """The items of the part: every kernel in its first type, then in the others."""
    pairs = [
        (number, kernel, dtype)
        for kernel in place.kernels
        for number, dtype in enumerate(place.half_types(kernel))
    ]
    pairs.sort(key=lambda one: one[0])
    return [
        Item(name_of(kernel, dtype), partial(_hold, place, kernel, dtype))
        for _, kernel, dtype in pairs
    ]


def _hold(place: Place, kernel: str, dtype: torch.dtype) -> Iterator[Record]:
    case = make_case(PATTERN, place.sizes.window_length, heads=4, kv_heads=2, batch=1)
    name = name_of(kernel, dtype)
    reasons = refusal(kernel, case, dtype, place.device, HEAD_DIM)
    if reasons:
        yield Record(PART, name, MISSING, "; ".join(reasons))
        return
    yield judged(PART, name, kernel, dtype, difference(kernel, case, dtype, place.device, HEAD_DIM))


def judged(
    part: str, name: str, kernel: str, dtype: torch.dtype, found: Difference, more: str = ""
) -> Record:
    """Return a record of a difference, by the tolerance of the kernel."""
    allowed = KERNELS[kernel].tolerances[dtype]
    share = found.share(allowed)
    numbers = {
        "kernel": kernel,
        "dtype": str(dtype).removeprefix("torch."),
        "forward": found.forward,
        "gradient": found.gradient,
    }
    figure = (
        f"forward {found.forward:.2g} of {allowed.forward:.2g}, "
        f"gradients {found.gradient:.2g} of {allowed.gradient:.2g}"
    )
    state = RIGHT if share <= 1 else WRONG
    return Record(part, name, state, (found.problem or figure) + more, numbers)
