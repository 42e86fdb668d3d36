"""Running partials for one run of heads: gather, call the operator, merge; and backward."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from sparse_patterns.kernels.base import Call, accumulation_dtype
from sparse_patterns.kernels.fused import pieces
from sparse_patterns.kernels.fused.merge import Merge, Sum
from sparse_patterns.kernels.fused.operator import Operator
from sparse_patterns.kernels.fused.select import Chosen
from sparse_patterns.kernels.fused.views import key_view, query_view, shape_of
from sparse_patterns.lowering.fused.partials import Partial

ALIGNMENT = 8
"""Head sizes that operators take are multiples of it."""

LSE_COLUMNS = 3
"""Columns that carry a gradient of the log-sum-exp: three half numbers hold 24 bits."""

Triple = tuple[Tensor, Tensor, Tensor]


def head_runs(heads: tuple[int, ...], share: int) -> list[tuple[slice, slice]]:
    """Cut heads to slices that need no copy: neighbours of whole key heads, or of one key head.

    Args:
        heads: Query heads, ascending.
        share: Query heads that use one key head.

    Returns:
        Query heads and their key heads, for each run.
    """
    runs: list[list[int]] = []
    for head in heads:
        if runs and head == runs[-1][1]:
            runs[-1][1] += 1
        else:
            runs.append([head, head + 1])
    cut: list[tuple[int, int]] = []
    for start, stop in runs:
        while start < stop:
            whole = (stop - start) // share * share if start % share == 0 else 0
            end = start + whole if whole else min(stop, start - start % share + share)
            cut.append((start, end))
            start = end
    return [(slice(a, b), slice(a // share, (b - 1) // share + 1)) for a, b in cut]


def local_triple(call: Call, run: tuple[slice, slice]) -> Triple:
    """Return `q, k, v` of a run of heads as `(batch, length, heads, head_dim)`."""
    return _triple((call.q, call.k, call.v), run)


def row_triple(call: Call, run: tuple[slice, slice]) -> Triple:
    """Return what the rows of global tokens are computed from, laid out likewise."""
    return _triple(call.global_qkv or (call.q, call.k, call.v), run)


def _triple(inputs: Triple, run: tuple[slice, slice]) -> Triple:
    q, k, v = inputs
    queries, keys = run
    return q[:, queries].transpose(1, 2), k[:, keys].transpose(1, 2), v[:, keys].transpose(1, 2)


def run_forward(
    call: Call, chosen: Chosen, run: tuple[slice, slice], operator: Operator
) -> tuple[Tensor, Tensor]:
    """Return output `(batch, q_len, heads, head_dim)` and log-sum-exp `(batch, heads, q_len)`."""
    local = local_triple(call, run)
    device = call.q.device
    merge = Merge(local[0], accumulation_dtype(call.q.dtype))
    for partial in chosen.partials:
        rows = query_view(partial, device)
        merge.add(rows, *_operate(local, partial, operator, call.scale))
    if chosen.overwritten is not None:
        merge.clear(chosen.overwritten.on(device))
        for partial in chosen.row_partials:
            rows = query_view(partial, device)
            merge.replace(rows, *_operate(row_triple(call, run), partial, operator, call.scale))
    if chosen.padded is not None:
        merge.clear(chosen.padded.on(device))
    return merge.out, merge.lse.transpose(1, 2)


def _operate(
    inputs: Triple, partial: Partial, operator: Operator, scale: float
) -> tuple[Tensor, Tensor]:
    q, k, v = (_aligned(x) for x in _take(inputs, partial))
    out, lse = operator.forward(q, k, v, shape_of(partial), scale)
    return out[..., : inputs[0].shape[3]], lse


def _take(inputs: Triple, partial: Partial) -> Triple:
    queries = query_view(partial, inputs[0].device)
    keys = key_view(partial, inputs[0].device)
    return queries.take(inputs[0]), keys.take(inputs[1]), keys.take(inputs[2])


def _aligned(x: Tensor, more: int = 0) -> Tensor:
    """Return a tensor that operators take, with zeros for what is missing of the head size.

    Args:
        x: `(batch, length, heads, head_dim)`.
        more: Columns to add whatever the size.
    """
    missing = more + -(x.shape[3] + more) % ALIGNMENT
    if missing:
        return functional.pad(x, (0, missing))
    strides = (*x.stride()[:-1], x.data_ptr() // x.element_size())
    straight = x.stride(3) == 1 and not any(stride % ALIGNMENT for stride in strides)
    return x if straight else x.contiguous()


def run_backward(
    call: Call,
    chosen: Chosen,
    run: tuple[slice, slice],
    operator: Operator,
    outcome: Triple,
    grad_lse: Tensor | None,
) -> tuple[Tensor, ...]:
    """Return the gradients `(batch, length, heads, head_dim)` of `q, k, v` and of `global_qkv`.

    Args:
        call: The call.
        chosen: The partials.
        run: Query heads and key heads.
        operator: The operator.
        outcome: Gradient of the output, output `(batch, heads, q_len, head_dim)` and log-sum-exp
            `(batch, heads, q_len)` of all heads.
        grad_lse: Gradient of the log-sum-exp or None.
    """
    device, dtype = call.q.device, accumulation_dtype(call.q.dtype)
    grad, out = (x[:, run[0]].transpose(1, 2) for x in outcome[:2])
    lse = outcome[2][:, run[0]].transpose(1, 2)
    lse = lse.masked_fill(lse == -torch.inf, torch.inf)
    column = None if grad_lse is None else grad_lse[:, run[0]].transpose(1, 2)
    local = local_triple(call, run)
    sums = [Sum(x, dtype) for x in local]
    own, own_sums = row_triple(call, run), sums
    if call.global_qkv is not None:
        own_sums = [Sum(x, dtype) for x in own]
    main = lse
    if chosen.overwritten is not None:
        # Rows of global tokens take nothing from the other partials.
        main = lse.clone(memory_format=torch.contiguous_format)
        main.flatten(0, 1).index_fill_(0, chosen.overwritten.on(device), torch.inf)
    jobs = [(partial, local, sums, main) for partial in chosen.partials]
    jobs += [(partial, own, own_sums, lse) for partial in chosen.row_partials]
    for partial, inputs, totals, logs in jobs:
        queries, keys = query_view(partial, device), key_view(partial, device)
        upstream, result = queries.take(grad), queries.take(out)
        more = 0
        if column is not None:
            # A column of ones beside the gradient, and of -grad_lse beside the output: the sum of
            # `grad * out` over a row becomes the one that the log-sum-exp's gradient asks for.
            more = LSE_COLUMNS
            upstream = torch.cat([upstream, upstream.new_ones((*upstream.shape[:3], more))], 3)
            result = torch.cat([result, _halves(-queries.take(column), result.dtype)], 3)
        q, k, v = (_aligned(x, more) for x in _take(inputs, partial))
        grads = pieces.backward(
            operator,
            _aligned(upstream),
            _aligned(result),
            queries.take(logs).transpose(1, 2).contiguous(),
            q,
            k,
            v,
            shape_of(partial),
            call.scale,
        )
        size = call.q.shape[3]
        for total, lines, value in zip(totals, (queries, keys, keys), grads, strict=True):
            total.add(lines, value[..., :size])
    results = [*sums, *(own_sums if call.global_qkv is not None else ())]
    return tuple(total.total for total in results)


def _halves(x: Tensor, dtype: torch.dtype) -> Tensor:
    """Return numbers of `dtype` that add up to `x`, in a new last dimension."""
    parts = []
    for _ in range(LSE_COLUMNS):
        part = x.to(dtype)
        parts.append(part)
        x = x - part.to(x.dtype)
    return torch.stack(parts, -1)
