"""Planning for a long sequence: the first call of a shape, and every one after it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial

import torch

import sparse_patterns as sp
from benchmarks.gpu_check.place import Place
from benchmarks.gpu_check.records import RIGHT, TOLD, Item, Record
from sparse_patterns.kernels.base import Call, Request
from sparse_patterns.kernels.block_sparse import passes as block_sparse
from sparse_patterns.kernels.flex.lists import lists_of
from sparse_patterns.kernels.fused.select import choose_partials
from sparse_patterns.kernels.fused.views import key_view, query_view
from sparse_patterns.lowering import forms, plan
from sparse_patterns.lowering.blocks.lists import variant_of
from sparse_patterns.lowering.plan import Plan
from sparse_patterns.lowering.tiles import lower
from sparse_patterns.lowering.tiles.known_masks import forget_masks

PART = "planning"
HEADS, ROUNDS = 16, 5
FIRST_GOAL, LATER_GOAL = 50e-3, 1e-3
"""Seconds of the plan and the mask of a static pattern, at first and later."""

PATTERNS: dict[str, sp.Pattern] = {
    "window": sp.Window(1024, 1024),
    "dilation": sp.Window(1024, 1024, (*[1] * (HEADS - 2), 2, 2)),
    "globals": sp.Window(1024, 1024) | sp.Global(tuple(range(16))),
    "batch globals": sp.Window(1024, 1024) | sp.BatchGlobal(),
    "documents": sp.Window(1024, 1024) & sp.SameDocument(),
}


def items(place: Place) -> list[Item]:
    """The items of the part."""
    return [
        Item(f"{name} {kernel}", partial(_plan, place, name, kernel))
        for name in PATTERNS
        for kernel in place.kernels
        if kernel in MADE
    ]


def call_of(pattern: sp.Pattern, length: int, device: str, dtype: torch.dtype) -> Call:
    """Return a call on tensors of a size that costs nothing."""
    request = Request(
        pattern=pattern,
        layer=0,
        layers=1,
        batch=1,
        heads=HEADS,
        kv_heads=HEADS,
        q_len=length,
        kv_len=length,
        q_offset=0,
        head_dim=8,
        dtype=dtype,
        device=device,
    )
    x = torch.empty(1, HEADS, length, 8, device=device, dtype=dtype)
    at = torch.arange(length, device=device)[None]
    marks = at < 16 if request.plan.groups[0].batch_rows else None
    ids = at // 2048 if request.plan.groups[0].forms.takes_example_tensors else None
    request = replace(request, global_mask=marks is not None, segment_ids=ids is not None)
    return Call(request, x, x, x, None, None, marks, None if marks is not None else ids, 1.0, 0)


def forget() -> None:
    """Forget every plan, as a new process has none."""
    plan._plan.cache_clear()
    forms.forms_of.cache_clear()
    lower._interval_part.cache_clear()
    forget_masks()
    variant_of.cache_clear()


def _flex(call: Call, made: Plan) -> object:
    request = call.request
    variant = variant_of(request.pattern, request.heads, request.layers, request.kv_len)
    return lists_of(call, made, variant.uniform)


def _fused(call: Call, made: Plan) -> object:
    device = call.q.device
    return [
        (query_view(partial, device), key_view(partial, device))
        for group in made.groups
        for partial in choose_partials(call, group).partials
    ]


def _blocks(call: Call, made: Plan) -> object:
    return [one.layout for one in block_sparse.passes(call, made)]


MADE: dict[str, Callable[[Call, Plan], object]] = {
    "flex": _flex,
    "xformers_fused": _fused,
    "xformers_blocks": _blocks,
}
"""What a kernel makes of a plan and of the masks of a batch, before it computes anything."""


def seconds(call: Call, made: Callable[[Call, Plan], object], finish: Callable[[], None]) -> float:
    """Return the time of the plan and of what a kernel makes of it."""
    start = time.perf_counter()
    made(call, call.request.plan)
    finish()
    return time.perf_counter() - start


def _plan(place: Place, name: str, kernel: str) -> Iterator[Record]:
    dtype = torch.bfloat16
    first, later = [], []
    for _ in range(ROUNDS):
        call = call_of(PATTERNS[name], place.sizes.plan_length, place.device, dtype)
        forget()
        first.append(seconds(call, MADE[kernel], place.finish))
        # The backward pass makes another call of the same tensors.
        later.append(seconds(replace(call), MADE[kernel], place.finish))
    numbers = {"first": min(first), "later": min(later)}
    figure = f"first {min(first) * 1e3:.1f} ms, later {min(later) * 1e3:.2f} ms"
    met = min(first) <= FIRST_GOAL and min(later) <= LATER_GOAL
    yield Record(PART, f"{name} {kernel}", RIGHT if met else TOLD, figure, numbers)
