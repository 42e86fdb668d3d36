"""Stacks hold every head once, each with a key head of its own."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch

import sparse_patterns as sp
from sparse_patterns.kernels.base import Call, Request
from sparse_patterns.kernels.tiles.stacks import joins_examples, stacks_of
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


@pytest.mark.parametrize("most", [1, 3, None])
@pytest.mark.parametrize("kv_heads", [4, 2, 1])
@pytest.mark.parametrize("pattern", [sp.Window(3, 3), TWO])
def test_every_head_is_in_one_stack(pattern: sp.Pattern, kv_heads: int, most: int | None) -> None:
    call, plan = call_of(pattern, kv_heads)
    share, found = 4 // kv_heads, Counter[tuple[int, int]]()
    for stack in stacks_of(call, plan, False, most):
        heads, kv = list(range(4))[stack.heads], list(range(kv_heads))[stack.kv_heads]
        assert kv == [head // share for head in heads]
        assert len(set(kv)) == len(kv) <= (most or 4)
        assert set(heads) <= set(stack.group.heads)
        found.update((stack.example, head) for head in heads)
    assert found == Counter((example, head) for example in range(2) for head in range(4))


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
