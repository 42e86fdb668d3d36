"""Stacks hold every head once, each with a key head of its own."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch

import sparse_patterns as sp
from sparse_patterns.kernels.base import Call, Request
from sparse_patterns.kernels.tiles.stacks import (
    joins_examples,
    lanes_of,
    slices_of_heads,
    stacks_of,
)
from sparse_patterns.lowering.plan import Plan

TWO = sp.PerHead(sp.Window(3, 3), sp.Window(5, 0))


def call_of(
    pattern: sp.Pattern, kv_heads: int, *, transposed: bool = False, **changes: Any
) -> tuple[Call, Plan]:
    q, k = torch.randn(2, 4, 20, 8), torch.randn(2, kv_heads, 20, 8)
    if transposed:
        q, k = (x.transpose(1, 2).contiguous().transpose(1, 2) for x in (q, k))
    request = Request(pattern, 0, 1, 2, 4, kv_heads, 20, 20, 0, 8, q.dtype, "cpu", **changes)
    return Call(request, q, k, k, None, None, None, None, 1.0, 0), request.plan


@pytest.mark.parametrize("threads", [1, 2, 3, 9])
@pytest.mark.parametrize("kv_heads", [4, 2, 1])
@pytest.mark.parametrize("pattern", [sp.Window(3, 3), TWO])
def test_every_head_is_in_one_stack(pattern: sp.Pattern, kv_heads: int, threads: int) -> None:
    call, plan = call_of(pattern, kv_heads)
    share, found = 4 // kv_heads, Counter[tuple[int, int]]()
    stacks = list(stacks_of(call, plan, False, threads))
    for stack in stacks:
        heads, kv = list(range(4))[stack.heads], list(range(kv_heads))[stack.kv_heads]
        assert kv == [head // share for head in heads]
        assert len(set(kv)) == len(kv)
        assert set(heads) <= set(stack.group.heads)
        found.update((stack.example, head) for head in heads)
    assert found == Counter((example, head) for example in range(2) for head in range(4))
    lanes = lanes_of(stacks)
    assert sorted(map(id, stacks)) == sorted(id(stack) for lane in lanes for stack in lane)
    keys = [
        {(one.example, head) for one in lane for head in range(kv_heads)[one.kv_heads]}
        for lane in lanes
    ]
    assert len(set().union(*keys)) == sum(map(len, keys)), "a key head is in one lane"
    # One for each key head of each of two examples, at most.
    assert len(lanes) >= min(threads, 2 * kv_heads)


@pytest.mark.parametrize(
    ("heads", "most", "times", "sizes"),
    [
        (12, 7, 1, [6, 6]),
        (12, 5, 1, [4, 4, 4]),
        (12, 5, 2, [3, 3, 3, 3]),
        (12, 100, 2, [6, 6]),
        (12, 100, 5, [3, 3, 3, 3]),
        (3, 100, 8, [1, 1, 1]),
    ],
)
def test_slices_are_a_multiple_of_the_threads(
    heads: int, most: int, times: int, sizes: list[int]
) -> None:
    slices = slices_of_heads(range(heads), 1, most, times)
    assert [own.stop - own.start for own, _ in slices] == sizes


def test_examples_that_see_the_same_are_so_many_more_heads() -> None:
    call, plan = call_of(sp.Window(3, 3), 4)
    assert joins_examples(call, plan, call.q, call.k)
    (stack,) = stacks_of(call, plan, True)
    assert (stack.example, stack.heads) == (0, slice(0, 8, 1))


@pytest.mark.parametrize(
    ("pattern", "kv_heads", "changes"),
    [
        (TWO, 4, {}),
        (sp.Window(3, 3), 2, {}),
        (sp.Window(3, 3), 4, {"dropout_p": 0.5}),
        (sp.Window(3, 3), 4, {"transposed": True}),
        (sp.Window(3, 3) | sp.BatchGlobal(), 4, {}),
    ],
)
def test_other_examples_stay_apart(
    pattern: sp.Pattern, kv_heads: int, changes: dict[str, Any]
) -> None:
    call, plan = call_of(pattern, kv_heads, **changes)
    assert not joins_examples(call, plan, call.q, call.k)
