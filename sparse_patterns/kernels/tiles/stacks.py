"""Stacks: heads that see the same keys, computed at once, and what each head is in the tensors."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from torch import Tensor

from sparse_patterns.kernels.base import Call
from sparse_patterns.kernels.tiles.pieces import SCORES_AT_ONCE
from sparse_patterns.lowering.plan import Group, Plan
from sparse_patterns.lowering.tiles.runs import PlanPart

STAGED_AT_ONCE = 1 << 21
"""Elements of the queries of a stack, where the tensors have to be copied for it."""


@dataclass(frozen=True)
class Stack:
    """Heads of one example, or of all, each with a key head of its own.

    Attributes:
        group: Their group.
        example: The example; 0 where all are one, as `joined_heads` views them.
        heads: The query heads.
        kv_heads: The key heads, as many.
    """

    group: Group
    example: int
    heads: slice
    kv_heads: slice

    def queries(self, x: Tensor) -> Tensor:
        """Return the part of `(examples, heads, ...)` that is of the stack."""
        return x[self.example, self.heads]

    def keys(self, x: Tensor) -> Tensor:
        """Return the part of `(examples, kv_heads, ...)` that is of the stack."""
        return x[self.example, self.kv_heads]


def joins_examples(call: Call, plan: Plan, *tensors: Tensor) -> bool:
    """Return whether all examples see the same, so that they are so many more heads.

    Args:
        call: The call.
        plan: Its plan.
        tensors: `(batch, heads, ...)`, all that have to be viewed as `(1, batch * heads, ...)`.
    """
    request = call.request
    bias = call.scores.bias
    return (
        request.batch > 1
        and len(plan.groups) == 1
        and request.heads == request.kv_heads
        # Each head of each example has a stream of dropout of its own.
        and not request.dropout_p
        and call.global_qkv is None
        and call.examples.key_mask is None
        and not plan.groups[0].forms.takes_example_tensors
        and (bias is None or not bias.stride(0))
        and all(x.stride(0) == x.shape[1] * x.stride(1) for x in tensors)
    )


def joined_heads(x: Tensor) -> Tensor:
    """View `(batch, heads, ...)` as one example with all heads."""
    return x.flatten(0, 1)[None]


def stacks_of(call: Call, plan: Plan, joined: bool, threads: int = 1) -> Iterator[Stack]:
    """Yield every head of every example in one stack.

    Args:
        call: The call.
        plan: Its plan.
        joined: Whether all examples are one, with so many more heads.
        threads: How many threads are to have equal shares of the stacks.
    """
    request = call.request
    copies = 1 if joined else request.batch
    share = request.heads // max(1, request.kv_heads)
    times = -(-threads // max(1, copies * len(plan.groups)))
    for example in range(copies):
        for group in plan.groups:
            heads = range(request.batch * request.heads) if joined else group.heads
            for own, kv in slices_of_heads(heads, share, _most(call, group.parts), times):
                yield Stack(group, example, own, kv)


def lanes_of(stacks: Iterable[Stack]) -> list[list[Stack]]:
    """Return the stacks in lists, those that share a key head of an example in the same one."""
    lanes: list[list[Stack]] = []
    example, stop = -1, 0
    for stack in sorted(stacks, key=lambda one: (one.example, one.kv_heads.start)):
        if stack.example == example and stack.kv_heads.start < stop:
            lanes[-1].append(stack)
            stop = max(stop, stack.kv_heads.stop)
        else:
            lanes.append([stack])
            example, stop = stack.example, stack.kv_heads.stop
    return lanes


def _most(call: Call, parts: Sequence[PlanPart]) -> int:
    request = call.request
    copied = request.dtype.itemsize < 4 or not call.q.is_contiguous()
    return heads_of_stack(parts, request.q_len * request.head_dim, copied, bool(request.dropout_p))


def heads_of_stack(parts: Sequence[PlanPart], size: int, copied: bool, dropout: bool) -> int:
    """Return how many heads fill a piece with one tile each.

    Args:
        parts: The parts that are computed.
        size: Elements of the queries of a head.
        copied: Whether the tensors have to be copied for a stack.
        dropout: Whether weights are dropped: each head has a stream of its own.
    """
    if dropout:
        return 1
    tile = max((min(run.rows, 64) * run.keys for part in parts for run in part.runs), default=1)
    most = SCORES_AT_ONCE // max(1, tile)
    if copied:
        most = min(most, STAGED_AT_ONCE // max(1, size))
    return max(1, most)


def slices_of_heads(
    heads: range | tuple[int, ...], share: int, most: int, times: int = 1
) -> Iterator[tuple[slice, slice]]:
    """Yield query heads and key heads: no key head twice in a slice, no gaps between them.

    Args:
        heads: Query heads, ascending.
        share: Query heads that share one key head.
        most: Heads of a slice, at most.
        times: Heads that follow on each other make a multiple of so many slices if they are enough.
    """
    for member in range(share):
        kv = [head // share for head in heads if head % share == member]
        first = 0
        for stop in range(1, len(kv) + 1):
            if stop < len(kv) and kv[stop] == kv[stop - 1] + 1:
                continue
            count = stop - first
            slices = times * math.ceil(count / (most * times))
            size = math.ceil(count / min(count, slices))
            for low in range(kv[first], kv[stop - 1] + 1, size):
                high = min(low + size, kv[stop - 1] + 1)
                own = slice(low * share + member, (high - 1) * share + member + 1, share)
                yield own, slice(low, high)
            first = stop


@dataclass(frozen=True)
class Round:
    """Parts that are computed at once for some heads.

    Attributes:
        group: A group that has the parts.
        heads: Query heads, ascending.
        shared: Identities of the parts that all groups have; empty where that does not matter.
        takes_shared: Whether this round computes those, or what the group has besides.
        written: Whether the heads have a result of other parts already.
    """

    group: Group
    heads: tuple[int, ...]
    shared: frozenset[int] = frozenset()
    takes_shared: bool = False
    written: bool = False

    def parts_of(self, parts: Iterable[PlanPart]) -> list[PlanPart]:
        """Return which of the parts of the group are computed."""
        return [part for part in parts if (id(part) in self.shared) is self.takes_shared]


def rounds_of(plan: Plan, share_parts: bool) -> Iterator[Round]:
    """Yield what is computed at once: parts that all heads have, then what each group has besides.

    Args:
        plan: The plan.
        share_parts: Whether parts may be computed for several groups at once.
    """
    every, *others = [group.parts for group in plan.groups]
    shared = frozenset(
        id(part)
        for part in every
        if not part.whole_rows
        and part.name != "batch columns"
        and all(any(part is one for one in parts) for parts in others)
    )
    if not others or not shared or not share_parts:
        for group in plan.groups:
            yield Round(group, group.heads)
        return
    heads = tuple(sorted(head for group in plan.groups for head in group.heads))
    yield Round(plan.groups[0], heads, shared, takes_shared=True)
    for group in plan.groups:
        yield Round(group, group.heads, shared, written=True)
