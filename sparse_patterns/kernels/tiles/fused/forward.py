"""The forward pass of the tiled kernel by torch's fused attention for the CPU.

The operator is given all tiles of a strip, in some heads at once, as one batch of overlapping views
of `q`, `k` and `v`, with one mask for all heads. Strips that see the same rows are put together by
their log-sum-exp. A mask must be of the type of the queries, or its bytes are misread, and empty
inputs must not reach the operator: they end the process.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from sparse_patterns.kernels.base import Call
from sparse_patterns.kernels.scores.terms import Distances
from sparse_patterns.kernels.threads import share_out, workers_for
from sparse_patterns.kernels.tiles.fused.bias import Bias, masked
from sparse_patterns.kernels.tiles.fused.cells import cells_of
from sparse_patterns.kernels.tiles.fused.strips import strips_of
from sparse_patterns.kernels.tiles.head import Workspace
from sparse_patterns.kernels.tiles.listed import Box, Listed, lists_of
from sparse_patterns.kernels.tiles.selection import Selection, select
from sparse_patterns.kernels.tiles.stacks import Round, rounds_of
from sparse_patterns.lowering.plan import Plan
from sparse_patterns.lowering.tiles.runs import PlanPart, TileRun

ELEMENTS_AT_ONCE = 1 << 21
"""Elements of the queries of the heads that are computed at once, which bounds the memory."""

LISTED_AT_ONCE = 1 << 21
"""Elements of listed keys that are gathered at once, unless tiles need more."""

LISTED_ROWS = 512
"""Rows that are computed at once where they and their keys are listed, about."""


def serves(call: Call) -> bool:
    """Return whether the operator can compute a call.

    It is for the CPU, has no dropout and caps no scores; a bias by distance is a mask.
    """
    if call.q.device.type != "cpu" or not call.q.numel():
        return False
    return not call.request.dropout_p and call.scores.softcap is None


def forward(call: Call, plan: Plan, out: Tensor, lse: Tensor) -> None:
    """Write output and log-sum-exp of all rows, all but the rows of parts of their own.

    Args:
        call: The call, which `serves` allows.
        plan: Its plan.
        out: Of the shape of the queries.
        lse: `(batch, heads, q_len)`, in the accumulation type.
    """
    request = call.request
    # The operator shares its work between torch's threads well, if it is not much.
    products = request.batch * plan.computed * request.head_dim / 2
    threads = workers_for(request.batch * request.heads, call.q.device, products)
    distances = Distances.of_call(call)

    def compute(strands: Iterator[_Strand]) -> None:
        space = Workspace(lse.dtype, lse.device)
        for one in strands:
            out_of, lse_of = one.results
            attend(*one.inputs, one.at, call.scale, out_of, lse_of, space, one.bias, one.written)

    rounds = list(rounds_of(plan, share_parts=out.dtype == lse.dtype))
    for written in (False, True):
        # What is computed first may be heads that are gone through again; others are not.
        some = [one for one in rounds if one.written is written]
        strands = [
            strand
            for one in some
            for strand in _strands(call, one, (out, lse), distances, -(-threads // len(some)))
        ]
        share_out(strands, compute, min(threads, len(strands)))


@dataclass(frozen=True)
class _Strand:
    """Some heads that follow on each other, of one example or of all, over some parts.

    Attributes:
        inputs: Queries, keys and values.
        results: Where output and log-sum-exp are written.
        at: The parts.
        bias: See `attend`.
        written: See `attend`.
    """

    inputs: tuple[Tensor, Tensor, Tensor]
    results: tuple[Tensor, Tensor]
    at: Selection
    bias: Bias | None
    written: bool


def _strands(
    call: Call,
    some_parts: Round,
    results: tuple[Tensor, Tensor],
    distances: Distances | None,
    threads: int,
) -> Iterator[_Strand]:
    """Yield what a round computes, in equal shares for some threads where heads are enough."""
    request, group = call.request, some_parts.group
    tensors = (call.q, call.k, call.v, *results)
    share = request.heads // request.kv_heads
    batch = (
        request.batch > 1
        and share == 1
        and len(some_parts.heads) == request.heads
        and call.examples.key_mask is None
        and not group.forms.takes_example_tensors
        and (distances is None or distances.values.shape[0] == 1)
        and all(x.stride(0) == request.heads * x.stride(1) for x in tensors)
    )
    # Examples that see the same are so many more heads.
    every = [x.flatten(0, 1)[None] for x in tensors] if batch else tensors
    heads = tuple(range(request.batch * request.heads)) if batch else some_parts.heads
    examples = every[0].shape[0]
    for example in range(examples):
        at = select(call, group, example)
        at = replace(at, parts=some_parts.parts_of(at.parts))
        bias = None
        if distances is not None:
            table = distances.of(example).repeat(request.batch if batch else 1, 1)
            bias = Bias(table, distances.origin - distances.q_offset)
        size = rows_at_once(at.parts, request.q_len) * request.head_dim
        for some in heads_at_once(heads, share, size, -(-threads // examples)):
            own = slice(some.start // share, -(-some.stop // share))
            q, out_of, lse_of = (x[example, some] for x in (every[0], *every[3:]))
            k, v = (x[example, own] for x in every[1:3])
            of_some = None if bias is None else Bias(bias.table[some], bias.origin)
            yield _Strand((q, k, v), (out_of, lse_of), at, of_some, some_parts.written)


def rows_at_once(parts: Sequence[PlanPart], q_len: int) -> int:
    """Return the rows of a head that are computed at once: few where they and all keys are listed.

    Args:
        parts: The parts that are computed.
        q_len: Number of queries.
    """
    lists = [some for part in parts for some in lists_of(part)]
    listed = all(some is not None and some.boxes is not None for some in lists)
    return min(q_len, LISTED_ROWS) if listed else q_len


def listed_at_once(heads: int, head_dim: int) -> int:
    """Return how many listed keys of some key heads are gathered at once, about."""
    return max(1, LISTED_AT_ONCE // (heads * head_dim))


def heads_at_once(heads: tuple[int, ...], share: int, size: int, times: int = 1) -> Iterator[slice]:
    """Yield the heads of a group, some following on each other at a time.

    Args:
        heads: Query heads, ascending.
        share: Query heads that share one key head; only such heads come together if more than 1.
        size: Elements of the queries of one head.
        times: Heads that follow on each other make a multiple of so many slices if they are enough.
    """
    most = max(1, ELEMENTS_AT_ONCE // max(1, size))
    first = 0
    while first < len(heads):
        stop = first + 1
        while (
            stop < len(heads)
            and heads[stop] == heads[stop - 1] + 1
            and (share == 1 or heads[stop] // share == heads[first] // share)
        ):
            stop += 1
        count = stop - first
        each = math.ceil(count / min(count, times * math.ceil(count / (most * times))))
        for some in range(heads[first], heads[stop - 1] + 1, each):
            yield slice(some, min(some + each, heads[stop - 1] + 1))
        first = stop


def attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    at: Selection,
    scale: float,
    out: Tensor,
    lse: Tensor,
    space: Workspace,
    bias: Bias | None = None,
    written: bool = False,
) -> None:
    """Compute all rows of some heads over the parts of a selection.

    Args:
        q: `(heads, q_len, head_dim)`.
        k: `(heads or 1, kv_len, head_dim)`.
        v: Of the shape of `k`.
        at: The parts, disjoint, and what the masks of the example are.
        scale: Factor of the scores.
        out: Where to write the output, of the shape of `q`; zeros for rows that see nothing.
        lse: Where to write the log-sum-exp `(heads, q_len)`, in the accumulation type, -inf for
            rows that see nothing.
        space: Buffers.
        bias: What is added to the scores by distance.
        written: Whether output and log-sum-exp hold the result of other parts, to be put together
            with this one; then they are of one type.
    """
    dtype = lse.dtype
    if q.dtype != dtype or q.stride(-1) != 1:
        q = space.get("q", *q.shape).copy_(q)
    k, v = _packed("k", k, space), _packed("v", v, space)
    total = out if out.dtype == dtype else space.get("out", *out.shape)
    for part in at.parts:
        _add_part(q, k, v, part, at, scale, total, lse, space, bias, written)
        written = True
    if not written:
        _clear(total, lse)
    if total is not out:
        out.copy_(total)


def _add_part(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    part: PlanPart,
    at: Selection,
    scale: float,
    total: Tensor,
    lse: Tensor,
    space: Workspace,
    bias: Bias | None,
    written: bool,
) -> None:
    """Compute all rows over a part, and put them together with what was found before if anything.

    See `attend`.
    """
    rows = q.shape[1] if part.order is None else part.order.numel()
    strips = strips_of(part, q.shape[0], rows, lse.dtype)
    cells = cells_of(part, strips, listed_at_once(k.shape[0], k.shape[2]))
    gathered = cells[0].queries
    fresh = strips.whole and (gathered is not None or not written)
    if not written and (rows < q.shape[1] or not fresh):
        _clear(total, lse)
    own, into, into_lse = q, total, lse
    if gathered is not None:
        shape = (q.shape[0], rows, q.shape[2])
        own = gathered.gather(q, space.get("rows", *shape))
        into, into_lse = space.get("rows out", *shape), space.get("rows lse", *shape[:2])
        if not fresh:
            _clear(into, into_lse)
    for cell in cells:
        keys, values = k, v
        if cell.keys is not None:
            shape = (k.shape[0], cell.keys.index.numel(), k.shape[2])
            keys = cell.keys.gather(k, space.get("keys", *shape))
            values = cell.keys.gather(v, space.get("values", *shape))
        for strip in cell.strips:
            tile = 0
            for run, mask, empty in masked(strip, at, part, bias):
                place = strip.place and strip.place.of_tiles(tile, tile + run.tiles)
                tile += run.tiles
                run = replace(run, k_start=run.k_start - cell.k_first) if cell.k_first else run
                _add(own, keys, values, run, place, mask, empty, scale, into, into_lse, fresh)
    if gathered is not None:
        _put_back(gathered, into, into_lse, total, lse, written)


def _packed(name: str, x: Tensor, space: Workspace) -> Tensor:
    """Return keys or values row-contiguous and in the type of the buffers (see `head.packed`)."""
    own = x.dtype == space.dtype and (x.shape[0] == 1 or x.stride(0) >= x[0].numel())
    return x if own and x[0].is_contiguous() else space.get(name, *x.shape).copy_(x)


def _clear(total: Tensor, lse: Tensor) -> None:
    """Write what rows have that see nothing."""
    total.zero_()
    lse.fill_(-torch.inf)


def _put_back(
    order: Listed, found: Tensor, logs: Tensor, total: Tensor, lse: Tensor, written: bool
) -> None:
    """Write listed rows, or put them together with what was found.

    Args:
        order: The rows, none twice.
        found: `(heads, rows, head_dim)`.
        logs: `(heads, rows)`.
        total: `(heads, q_len, head_dim)`, where to write.
        lse: `(heads, q_len)`, where to write.
        written: Whether something was found before.
    """
    if written:
        before, before_logs = order.gather(total), order.gather(lse)
        _merge(before, before_logs, found, logs)
        found, logs = before, before_logs
    order.put(total, found)
    order.put(lse, logs)


def _add(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    run: TileRun,
    place: Box | None,
    added: Tensor | None,
    empty: Tensor | None,
    scale: float,
    total: Tensor,
    lse: Tensor,
    fresh: bool,
) -> None:
    """Compute a run and write it to output and log-sum-exp, or put it together with theirs."""
    if place is None:
        q, into, into_logs = (
            _tiles(x, run.q_start, run.tiles, run.rows, run.q_tile, run.q_step)
            for x in (q, total, lse)
        )
    else:
        q, into, into_logs = (place.rows(x) for x in (q, total, lse))
        q = q.reshape(q.shape[0], run.tiles, run.rows, q.shape[-1])
    keys, values = (
        _tiles(x, run.k_start, run.tiles, run.keys, run.k_tile, run.k_step).expand(
            q.shape[0], -1, -1, -1
        )
        for x in (k, v)
    )
    mask = None if added is None else added.to(q.dtype)
    if mask is not None:
        mask = mask.expand(-1, -1, run.rows, run.keys)
    found, logs = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
        q, keys, values, 0.0, False, attn_mask=mask, scale=scale
    )
    if empty is not None:
        logs = logs.masked_fill(empty, -torch.inf)
    if place is not None:
        found, logs = (x.unflatten(2, place.sizes[1:]) for x in (found, logs))
    if fresh:
        into.copy_(found)
        into_logs.copy_(logs)
        return
    _merge(into, into_logs, found, logs)


def _merge(into: Tensor, into_logs: Tensor, found: Tensor, logs: Tensor) -> None:
    """Put two results of the same rows over other keys together, in place."""
    both = torch.logaddexp(into_logs, logs)
    share = logs.sub_(both.masked_fill(both == -torch.inf, 0)).exp_()
    into.lerp_(found, share[..., None])
    into_logs.copy_(both)


def _tiles(x: Tensor, start: int, tiles: int, rows: int, tile_step: int, row_step: int) -> Tensor:
    """View rows of `x` `(heads, n, ...)` as `(heads, tiles, rows, ...)`."""
    step = x.stride(1)
    size = (x.shape[0], tiles, rows, *x.shape[2:])
    stride = (x.stride(0), tile_step * step, row_step * step, *x.stride()[2:])
    return x.as_strided(size, stride, x.storage_offset() + start * step)
