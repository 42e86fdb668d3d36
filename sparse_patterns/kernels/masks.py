"""What every pair of a call sees, for several examples at once.

The oracle takes examples one at a time. Here, what does not depend on the example is asked of it
once, and only marks and segments are compared for each.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from functools import reduce
from threading import Lock
from typing import Any, TypeVar, cast

import torch
from torch import Tensor

from sparse_patterns.kernels.base import Call, accumulation_dtype
from sparse_patterns.lowering.plan import Plan
from sparse_patterns.spec.algebra import takes_example_tensors
from sparse_patterns.spec.atoms import BatchGlobal, SameDocument
from sparse_patterns.spec.base import Complement, Intersection, Pattern, Union
from sparse_patterns.spec.oracle import ExampleContext, visible

__all__ = ["additive_mask", "global_rows", "pair_mask"]

CACHE_BYTES = 1 << 26
"""Masks kept between calls, in bytes; the one not used for longest goes first."""

_kept: OrderedDict[tuple[object, ...], tuple[Any, int]] = OrderedDict()
_lock = Lock()

T = TypeVar("T")


def pair_mask(call: Call, plan: Plan, some: slice) -> Tensor:
    """Return what each head of some examples sees.

    Args:
        call: The call.
        plan: Its plan.
        some: Which examples.

    Returns:
        bool `(examples or 1, heads or 1, q_len, kv_len)`.
    """
    groups = [_of_group(group.pattern, call, some) for group in plan.groups]
    if len(groups) == 1:
        mask = groups[0][:, None]
    else:
        count = max(group.shape[0] for group in groups)
        request = call.request
        shape = (count, request.heads, request.q_len, request.kv_len)
        mask = torch.empty(shape, dtype=torch.bool, device=call.q.device)
        for group, seen in zip(plan.groups, groups, strict=True):
            mask[:, list(group.heads)] = seen[:, None]
    examples = call.examples
    if examples.key_mask is not None and examples.padded_rows is not None:
        real, padded = examples.key_mask[some], examples.padded_rows[some]
        mask = mask & real[:, None, None] & ~padded[:, None, :, None]
    return mask


def additive_mask(call: Call, plan: Plan, some: slice) -> tuple[Tensor, Tensor | None]:
    """Return what to add to the scores of some examples, and which rows see nothing.

    Args:
        call: The call.
        plan: Its plan.
        some: Which examples.

    Returns:
        0 where visible, else -inf, in the accumulation type, `(examples or 1, heads or 1, q_len,
        kv_len)`; and bool `(examples or 1, heads or 1, q_len)`, or None where every row sees a key.
    """
    dtype = accumulation_dtype(call.q.dtype)

    def make() -> tuple[Tensor, Tensor | None]:
        seen = pair_mask(call, plan, some)
        mask = torch.zeros(seen.shape, dtype=dtype, device=seen.device)
        empty = ~seen.any(-1)
        return mask.masked_fill_(~seen, -torch.inf), empty if bool(empty.any()) else None

    of_batch = any(takes_example_tensors(group.pattern) for group in plan.groups)
    if of_batch or call.examples.key_mask is not None:
        return make()
    key = (plan, call.q.device, dtype)
    return _kept_or(key, make, lambda made: made[0].nbytes)


def global_rows(call: Call, plan: Plan, some: slice) -> Tensor:
    """Return which rows are those of real global tokens, bool `(examples, heads, q_len)`."""
    request = call.request
    shape = (some.stop - some.start, request.heads, request.q_len)
    rows = torch.zeros(shape, dtype=torch.bool, device=call.q.device)
    for group in plan.groups:
        own = call.examples.global_rows(group)
        if own is not None:
            rows[:, list(group.heads)] = own[some][:, None]
    return rows


def _of_group(pattern: Pattern, call: Call, some: slice) -> Tensor:
    """Return what a bound pattern sees, bool `(examples or 1, q_len, kv_len)`."""
    if not takes_example_tensors(pattern):
        return _of_every_example(pattern, call)
    examples = call.examples
    if isinstance(pattern, BatchGlobal):
        if examples.global_mask is None:
            shape = (1, call.request.q_len, call.request.kv_len)
            return torch.zeros(shape, dtype=torch.bool, device=call.q.device)
        marks = examples.global_mask[some]
        columns = marks[:, None].expand(-1, call.request.q_len, -1)
        rows = examples.at_queries(marks, outside=False)
        return columns | rows[..., None] if pattern.rows else columns
    if isinstance(pattern, SameDocument):
        assert examples.documents is not None
        documents = examples.documents[some]
        own = examples.at_queries(documents, outside=-1)
        return own[..., None] == documents[:, None]
    parts = [_of_group(part, call, some) for part in pattern.children()]
    if isinstance(pattern, Union):
        return reduce(torch.logical_or, parts)
    if isinstance(pattern, Intersection):
        return reduce(torch.logical_and, parts)
    assert isinstance(pattern, Complement)
    return ~parts[0]


def _of_every_example(pattern: Pattern, call: Call) -> Tensor:
    request = call.request
    device = call.q.device

    def make() -> Tensor:
        q = torch.arange(request.q_len, device=device)[:, None] + request.q_offset
        k = torch.arange(request.kv_len, device=device)[None]
        seen = visible(pattern, q, k, ExampleContext(request.kv_len))
        return seen.expand(request.q_len, request.kv_len)[None].contiguous()

    key = (pattern, request.q_len, request.kv_len, request.q_offset, device)
    return _kept_or(key, make, lambda seen: seen.nbytes)


def _kept_or(key: tuple[object, ...], make: Callable[[], T], size: Callable[[T], int]) -> T:
    """Return what was made for a key before, or make it now; `size` is in bytes."""
    with _lock:
        if key in _kept:
            _kept.move_to_end(key)
            return cast(T, _kept[key][0])
    made = make()
    if size(made) <= CACHE_BYTES:
        with _lock:
            _kept[key] = (made, size(made))
            while sum(own for _, own in _kept.values()) > CACHE_BYTES:
                _kept.popitem(last=False)
    return made
