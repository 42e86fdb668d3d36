"""What the tiled kernel does in a call, counted by kind, as its time is estimated from.

Kinds of the forward pass by torch's operator:

- "call": calls of the kernel, "back call" with a backward pass.
- "strip": calls of the operator.
- "tile": tiles that these compute.
- "product": pairs computed, times the head size.
- "pair": pairs computed.
- "mask": pairs whose scores a mask is added to.
- "make": elements of masks that are made at the call.
- "merge": elements of outputs that are put together with what other strips found.
- "copy": elements of listed or converted queries, keys, values and outputs.

Kinds where products are of our own, all but "stage" forward ("own ...") or backward ("back ..."):

- "stage": elements of queries and keys whose length is asked for.
- "stack": stacks of heads.
- "piece": pieces.
- "product", "pair", "mask", "copy": as above.
- "draw": pairs whose weights are dropped or not; "cap": pairs whose scores are capped.
- "key": keys of the pieces, times the head size.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import torch

from sparse_patterns.kernels.base import Request
from sparse_patterns.kernels.rates.work import Work
from sparse_patterns.kernels.tiles.fused.cells import cells_of
from sparse_patterns.kernels.tiles.fused.forward import heads_at_once, listed_at_once, rows_at_once
from sparse_patterns.kernels.tiles.fused.strips import strips_of
from sparse_patterns.kernels.tiles.pieces import cut, trimmed
from sparse_patterns.kernels.tiles.stacks import Round, heads_of_stack, rounds_of, slices_of_heads
from sparse_patterns.lowering.plan import Group, Plan
from sparse_patterns.lowering.tiles.runs import PlanPart

BACKWARD = 1.25
"""Time of a backward pass over that of the products and exponentials of its visible pairs: more."""

MARKED = 1
"""Tokens taken to be marked as global in an example, which the plan does not know."""


class Shape(NamedTuple):
    """What of a request decides how much work a plan is.

    Attributes:
        batch: Examples.
        share: Query heads that share one key head.
        operator: Whether the forward pass is that of torch's operator.
        backward: Whether a backward pass may follow.
        half: Whether inputs are of a half type.
        masks: Whether keys are padded or documents marked.
        apart: Whether examples cannot be taken together for another reason.
        dropout: Whether weights are dropped.
        cap: Whether scores are capped.
        marks: Whether global tokens are marked.
        bias: Whether scores get a bias by distance.
    """

    batch: int
    share: int
    operator: bool
    backward: bool
    half: bool
    masks: bool
    apart: bool
    dropout: bool
    cap: bool
    marks: bool
    bias: bool


def work_of(request: Request, plan: Plan) -> Work:
    """Return the work of a request."""
    shape = Shape(
        request.batch,
        request.heads // max(1, request.kv_heads),
        uses_operator(request),
        request.needs_grad,
        request.dtype.itemsize < 4,
        request.key_mask or request.segment_ids,
        request.global_qkv,
        bool(request.dropout_p),
        request.softcap,
        request.global_mask,
        request.distance_bias,
    )
    return _counted(plan, shape)


def least_work_of(request: Request, plan: Plan) -> Work:
    """Return what takes no longer than a request: some work on its visible pairs, or none.

    Pairs of one interval of keys follow from numbers; those of a union are counted over tiles.
    """
    conjuncts = plan.groups[0].forms.conjuncts if len(plan.groups) == 1 else ()
    if len(conjuncts) != 1 or conjuncts[0].rest or conjuncts[0].layout is not None:
        return {}
    if request.global_mask or request.segment_ids or request.key_mask:
        return {}
    pairs = float(request.batch * plan.visible)
    forward = "" if uses_operator(request) else "own "
    work = {f"{forward}product": pairs * request.head_dim, f"{forward}pair": pairs}
    if request.needs_grad:
        pairs = BACKWARD * pairs
        work |= {"back product": pairs * request.head_dim, "back pair": pairs}
    return work


def uses_operator(request: Request) -> bool:
    """Return whether the forward pass is that of torch's operator."""
    return request.device == "cpu" and not request.dropout_p and not request.softcap


def _counted(plan: Plan, shape: Shape) -> Work:
    work: Counter[str] = Counter({"call": 1, "back call": int(shape.backward)})
    if plan.q_len and plan.kv_len and shape.batch:
        if shape.operator:
            for some in rounds_of(plan, share_parts=not shape.half):
                _count_operator(work, plan, some, shape)
        for group in plan.groups:
            _count_group(work, plan, group, shape)
    return dict(work)


def _copies_and_heads(
    plan: Plan, group: Group, heads: tuple[int, ...], shape: Shape
) -> tuple[int, tuple[int, ...]]:
    """Return how often some heads are gone through, and which: examples may be so many more."""
    whole = len(heads) == plan.heads and shape.share == 1 and not group.forms.takes_example_tensors
    apart = shape.masks or shape.apart or shape.dropout
    if whole and shape.batch > 1 and not apart:
        return 1, tuple(range(shape.batch * plan.heads))
    return shape.batch, heads


def _count_group(work: Counter[str], plan: Plan, group: Group, shape: Shape) -> None:
    copies, heads = _copies_and_heads(plan, group, group.heads, shape)
    local = [part for part in group.parts if not part.whole_rows]
    rows = [part for part in group.parts if part.whole_rows]
    marked = MARKED if shape.marks and group.batch_rows else 0
    most = heads_of_stack(group.parts, plan.q_len * plan.head_dim, shape.half, shape.dropout)
    stacks = Counter(
        own.stop - own.start if shape.share == 1 else kv.stop - kv.start
        for own, kv in slices_of_heads(heads, shape.share, most)
    )
    for count, times in stacks.items():
        times = times * copies
        if shape.backward:
            _count_own(work, "back", plan, [*local, *rows], count, times, marked, shape)
        if not shape.operator:
            _count_own(work, "own", plan, [*local, *rows], count, times, marked, shape)
        elif rows or marked:
            _count_rows(work, plan, rows, count, times, marked, shape)


def _count_rows(
    work: Counter[str],
    plan: Plan,
    parts: Sequence[PlanPart],
    heads: int,
    times: int,
    marked: int,
    shape: Shape,
) -> None:
    """Count the rows of global tokens by the operator, for stacks of some heads."""
    for part in parts:
        _count_parts(work, plan, [part], heads, times, False, shape)
    if marked:
        pairs = heads * times * marked * plan.kv_len
        work["strip"] += times
        work["tile"] += heads * times
        work["product"] += pairs * plan.head_dim
        work["pair"] += pairs
        if shape.masks or shape.bias:
            work["mask"] += pairs


def _count_operator(work: Counter[str], plan: Plan, some: Round, shape: Shape) -> None:
    """Count a round of the forward pass by the operator."""
    copies, heads = _copies_and_heads(plan, some.group, some.heads, shape)
    parts = [part for part in some.parts_of(some.group.parts) if not part.whole_rows]
    rows = rows_at_once(parts, plan.q_len)
    for at_once in heads_at_once(heads, shape.share, rows * plan.head_dim):
        count = at_once.stop - at_once.start
        _count_parts(work, plan, parts, count, copies, some.written, shape)


def _count_parts(
    work: Counter[str],
    plan: Plan,
    parts: Sequence[PlanPart],
    heads: int,
    copies: int,
    written: bool,
    shape: Shape,
) -> None:
    """Count what the operator and the copies around it do for some heads of each example."""
    size, times = plan.head_dim, heads * copies
    kv_heads = heads if shape.share == 1 else 1
    q_len = sum(len(part.queries) for part in parts if part.whole_rows and part.queries is not None)
    if shape.half:
        work["copy"] += times * size * 2 * ((q_len or plan.q_len) + plan.kv_len)
    for part in parts:
        rows = q_len or (plan.q_len if part.order is None else part.order.numel())
        strips = strips_of(part, heads, rows, torch.float32)
        cells = cells_of(part, strips, listed_at_once(kv_heads, size))
        gathered = cells[0].queries is not None
        listed = sum(cell.keys.index.numel() for cell in cells if cell.keys is not None)
        work["copy"] += 2 * copies * kv_heads * size * listed + 2 * gathered * times * size * rows
        fresh = strips.whole and (gathered or not written)
        if gathered and written:
            work["merge"] += times * rows * size
        runs = [(strip.run, strip.bias is not None) for cell in cells for strip in cell.strips]
        if part.name == "batch columns" and shape.marks:
            runs = [(run, True) for run in part.runs]
        for run, masked in runs:
            keys = run.keys or MARKED
            pairs = times * run.tiles * run.rows * keys
            work["strip"] += copies
            work["tile"] += times * run.tiles
            work["product"] += pairs * size
            work["pair"] += pairs
            if masked or shape.masks or shape.bias:
                work["mask"] += pairs
            if shape.masks or part.dynamic is not None:
                work["make"] += copies * run.tiles * run.rows * keys
            if shape.bias:
                work["make"] += pairs
            if not fresh:
                work["merge"] += times * run.tiles * run.rows * size
        written = True


def _count_own(
    work: Counter[str],
    name: str,
    plan: Plan,
    parts: Sequence[PlanPart],
    heads: int,
    times: int,
    marked: int,
    shape: Shape,
) -> None:
    """Count a pass by our own products, of stacks of some heads.

    Args:
        work: Where to add.
        name: "own" or "back".
        plan: The plan.
        parts: The parts.
        heads: Heads of a stack.
        times: Stacks.
        marked: Rows of tokens that the batch marks as global.
        shape: What of the request matters.
    """
    size = plan.head_dim
    work["stage"] += times * heads * size * (plan.q_len + plan.kv_len)
    work[f"{name} stack"] += times
    if shape.half:
        work[f"{name} copy"] += times * heads * size * 2 * (plan.q_len + plan.kv_len)
    if marked:
        pairs = marked * plan.kv_len
        _add_piece(work, name, times * heads, times, pairs, plan.kv_len, size, shape)
    for part in parts:
        listed = (0 if part.keys is None else part.keys.numel()) + (
            0 if part.queries is None else part.queries.numel()
        )
        work[f"{name} copy"] += times * heads * size * listed
        for run in trimmed(part):
            hidden = sum(
                factors.shape[1] > 1 and stop - start for start, stop, factors in run.slabs
            )
            for piece in cut(run, heads):
                of_heads = piece.heads.stop - (piece.heads.start or 0)
                pairs = piece.tiles * piece.rows * run.keys
                keys = run.keys if piece.shared_keys else piece.tiles * run.keys
                _add_piece(work, name, times * of_heads, times, pairs, keys, size, shape)
                work[f"{name} mask"] += times * of_heads * piece.tiles * piece.rows * hidden


def _add_piece(
    work: Counter[str],
    name: str,
    heads: int,
    times: int,
    pairs: int,
    keys: int,
    size: int,
    shape: Shape,
) -> None:
    """Count one piece of all stacks: pairs and keys are those of a head, heads those of all."""
    work[f"{name} piece"] += times
    work[f"{name} product"] += heads * pairs * size
    work[f"{name} pair"] += heads * pairs
    work[f"{name} key"] += heads * keys * size
    if shape.dropout:
        work[f"{name} draw"] += heads * pairs
    if shape.cap:
        work[f"{name} cap"] += heads * pairs
    if shape.masks:
        work["make"] += times * pairs
