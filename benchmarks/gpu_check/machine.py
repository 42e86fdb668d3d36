"""The card, the libraries, what each kernel says, and the two ceilings of the hardware."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch

import sparse_patterns as sp
from benchmarks.gpu_check.place import Place, missing_libraries
from benchmarks.gpu_check.records import MISSING, RIGHT, TOLD, Item, Record
from benchmarks.timing import interleave, medians

PART = "machine"


def items(place: Place) -> list[Item]:
    """The items of the part."""
    return [
        Item("card", lambda: _card(place)),
        Item("libraries", _libraries),
        Item("kernels", lambda: _kernels(place)),
        Item("bfloat16 product", lambda: _product(place)),
        Item("copy", lambda: _copy(place)),
    ]


def _card(place: Place) -> Iterator[Record]:
    about = place.about()
    yield Record(PART, "card", TOLD, ", ".join(f"{k} {v}" for k, v in about.items()), about)


def _libraries() -> Iterator[Record]:
    for name, missing in missing_libraries().items():
        if missing:
            yield Record(PART, name, MISSING, "is not installed; only what needs it is left out")


def _kernels(place: Place) -> Iterator[Record]:
    for kernel in place.kernels:
        for dtype in place.half_types(kernel)[:1]:
            told = sp.explain(
                sp.Window(1024, 1024),
                place.sizes.window_length,
                heads=4,
                dtype=dtype,
                device=place.device,
                needs_grad=True,
            )
            [verdict] = [one for one in told.verdicts if one.kernel == kernel]
            reasons = "; ".join(verdict.reasons)
            yield Record(PART, kernel, MISSING if reasons else RIGHT, reasons or "can serve")


def _seconds(place: Place, call: Callable[[], object]) -> float:
    times = interleave({"call": place.finished(call)}, place.sizes.effort)
    return medians(times)["call"]


def _product(place: Place) -> Iterator[Record]:
    size = place.sizes.product
    a, b = torch.randn(2, size, size, device=place.device, dtype=torch.bfloat16)
    rate = 2 * size**3 / _seconds(place, lambda: a @ b)
    place.found["product"] = rate
    figure = f"{rate / 1e12:,.1f} TFLOP/s at {size} x {size}"
    yield Record(PART, "bfloat16 product", TOLD, figure, {"flop_rate": rate})


def _copy(place: Place) -> Iterator[Record]:
    source = torch.zeros(place.sizes.copied // 4, device=place.device)
    target = torch.empty_like(source)
    rate = 2 * place.sizes.copied / _seconds(place, lambda: target.copy_(source))
    figure = f"{rate / 1e9:,.0f} GB/s read and written"
    yield Record(PART, "copy", TOLD, figure, {"byte_rate": rate})
