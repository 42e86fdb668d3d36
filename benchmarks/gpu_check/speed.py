"""Speed: share of the ideal, forward and both, beside FlexAttention written by hand; memory.

The ideal is the time of dense flash attention times the share of pairs that is visible.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch

from benchmarks.baselines import Unavailable, check_equal
from benchmarks.contenders import DIRECTIONS, Contender
from benchmarks.cuda.contenders import ours
from benchmarks.cuda.shapes import BATCH, HEADS, PATTERNS, CudaShape, share_of_ideal
from benchmarks.gpu_check.place import Place
from benchmarks.gpu_check.records import MISSING, TOLD, WRONG, Item, Record
from benchmarks.gpu_check.worker import told
from benchmarks.table import mebibytes, milliseconds
from benchmarks.timing import interleave, medians

PART = "speed"
TOLERANCE = 4e-2
"""Of two bfloat16 outputs of unit inputs."""

SLOW = ("xformers_blocks",)
"""Kernels that are timed last."""


def items(place: Place) -> list[Item]:
    """The items: dense attention, our kernels, what they are timed beside, and the slow ones."""
    shapes = [CudaShape(name, place.sizes.speed_length, place.sizes.head_dim) for name in PATTERNS]
    found = [Item("dense", partial(_dense, place, shapes[0]))]
    quick = [kernel for kernel in place.kernels if kernel not in SLOW]
    slow = [kernel for kernel in place.kernels if kernel in SLOW]
    for kernels, rivals in ((quick, place.rivals), (slow, {})):
        # The pattern of the goals is timed with all, before the other patterns.
        for some in (shapes[1:2], shapes[:1] + shapes[2:]):
            for kernel in kernels:
                found += [
                    Item(f"{one.name} {kernel}", partial(_ours, place, one, kernel)) for one in some
                ]
            for rival in rivals:
                found += [
                    Item(f"{one.name} {rival} by hand", partial(_rival, place, one, rival))
                    for one in some
                ]
    return found


def _seconds(place: Place, contender: Contender, direction: str) -> float:
    call = place.finished(contender.run(direction))
    return medians(interleave({"call": call}, place.sizes.effort))["call"]


def _timed(
    place: Place, name: str, contender: Contender, density: float
) -> Iterator[tuple[str, str, dict[str, object]]]:
    """Yield direction, figure and numbers, and keep the seconds in the place."""
    for direction in DIRECTIONS:
        seconds = _seconds(place, contender, direction)
        place.found[f"{name} {direction}"] = seconds
        numbers: dict[str, object] = {"seconds_of": {f"{name} {direction}": seconds}}
        figure = f"{direction} {milliseconds(seconds)}"
        whole = place.found.get(f"dense {direction}")
        if whole is not None:
            share = share_of_ideal(whole, density, seconds)
            numbers["share"] = share
            figure += f", {share:.2f} of the ideal"
        memory = place.peak_bytes(contender.run(direction))
        if memory is not None:
            numbers["bytes"] = memory
            figure += f", {mebibytes(memory)}"
        yield direction, figure, numbers


def _dense(place: Place, shape: CudaShape) -> Iterator[Record]:
    contender = place.dense(shape)
    for direction, figure, numbers in _timed(place, "dense", contender, 1.0):
        yield Record(PART, f"dense {direction}", TOLD, figure, numbers)


def _ours(place: Place, shape: CudaShape, kernel: str) -> Iterator[Record]:
    name = f"{shape.name} {kernel}"
    try:
        contender = ours(shape, kernel, place.device)
    except Unavailable as error:
        yield Record(PART, name, MISSING, str(error))
        return
    density = shape.density
    for direction, figure, numbers in _timed(place, name, contender, density):
        flops = 4 * BATCH * HEADS * shape.length**2 * density * shape.head_dim
        about = {"kernel": kernel, "pattern": shape.name, "direction": direction, "flops": flops}
        yield Record(PART, f"{name} {direction}", TOLD, figure, {**numbers, **about})
    _empty(place)


def _rival(place: Place, shape: CudaShape, rival: str) -> Iterator[Record]:
    name = f"{shape.name} {rival} by hand"
    # First ours: the rival makes torch forget what was compiled.
    mine_of = {
        kernel: ours(shape, kernel, place.device).forward()
        for kernel in place.kernels
        if f"{shape.name} {kernel} forward" in place.found
    }
    try:
        contender = place.rivals[rival](shape)
        result = contender.forward()
    except Exception as error:  # a rival that does not run says nothing against our kernels
        yield Record(PART, name, MISSING, told(error))
        return
    for kernel, mine_result in mine_of.items():
        try:
            check_equal(mine_result, result, tolerance=TOLERANCE)
        except ValueError as error:
            yield Record(PART, f"{name} beside {kernel}", WRONG, str(error))
    mine_of.clear()
    del result
    for direction, figure, numbers in _timed(place, name, contender, shape.density):
        seconds = place.found[f"{name} {direction}"]
        for kernel in place.kernels:
            mine = place.found.get(f"{shape.name} {kernel} {direction}")
            if mine is not None:
                numbers[f"times faster: {kernel}"] = seconds / mine
                figure += f", {kernel} is {seconds / mine:.2f} times faster"
        yield Record(PART, f"{name} {direction}", TOLD, figure, numbers)
    _empty(place)


def _empty(place: Place) -> None:
    if place.on_gpu:
        torch.cuda.empty_cache()
