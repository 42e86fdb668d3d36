"""The contract of kernels: presets, hard shapes, then random specs until the time is over."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any

import torch

from benchmarks.gpu_check import cases
from benchmarks.gpu_check.comparing import Difference, difference, refusal
from benchmarks.gpu_check.place import Place
from benchmarks.gpu_check.records import LATE, MISSING, WRONG, Item, Record
from benchmarks.gpu_check.window import judged, name_of
from benchmarks.gpu_check.worker import told
from sparse_patterns.kernels.dispatch import KERNELS

PART = "contract"
HEAD_DIM = 16
AT_ONCE, MOST_SPECS = 20, 10_000
"""Random specs of an item, and of the part."""

Named = Iterable[tuple[str, Any]]


def items(place: Place) -> Iterator[Item]:
    """The items of the part: of the first type all kernels, then of the others."""
    for number in range(3):
        for kernel in place.kernels:
            for dtype in place.half_types(kernel)[number : number + 1]:
                for what, make in (("presets", cases.presets), ("hard shapes", cases.hard_shapes)):
                    name = f"{name_of(kernel, dtype)} {what}"
                    yield Item(name, partial(_hold_all, place, name, kernel, dtype, make))
    for first in range(0, MOST_SPECS, AT_ONCE):
        for kernel in place.kernels:
            own = place.half_types(kernel)
            dtype = own[first // AT_ONCE % len(own)]
            name = f"{name_of(kernel, dtype)} specs {first} to {first + AT_ONCE - 1}"
            make = partial(cases.random_specs, first, AT_ONCE)
            yield Item(name, partial(_hold_all, place, name, kernel, dtype, make))


def _hold_all(
    place: Place, name: str, kernel: str, dtype: torch.dtype, make: Callable[[], Named]
) -> Iterator[Record]:
    worst, held, refused = Difference(), 0, 0
    reasons: list[str] = []
    left: list[str] = []
    for what, case in make():
        if place.late:
            left.append(what)
            continue
        reasons = refusal(kernel, case, dtype, place.device, HEAD_DIM)
        if reasons:
            refused += 1
            continue
        try:
            found = difference(kernel, case, dtype, place.device, HEAD_DIM)
        except (ValueError, NotImplementedError, AssertionError) as error:
            # What leaves the device as it was; anything else ends the item.
            yield Record(PART, f"{name}: {what}", WRONG, told(error))
            continue
        held += 1
        worst = worst.worse(found)
        if not found.share(KERNELS[kernel].tolerances[dtype]) <= 1:
            yield judged(PART, f"{name}: {what}", kernel, dtype, found, f" in {case}")
    if held:
        more = f"; {held} held" + (f", {refused} refused" if refused else "")
        yield judged(PART, name, kernel, dtype, worst, more)
    elif refused:
        yield Record(PART, name, MISSING, "; ".join(reasons))
    if left:
        told_of = ", ".join(itertools.islice(left, 3))
        yield Record(PART, name, LATE, f"{len(left)} not held: {told_of}, ...")
