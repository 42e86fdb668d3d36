"""The forward and the backward pass of one rank.

The forward pass merges what the rows see in several sets of keys by log-sum-exp. The backward pass
asks for the same keys again and sends their gradients back, so that between the passes nothing is
kept but the arguments and results of the call.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sparse_patterns.distributed.exchange import Transfer
from sparse_patterns.distributed.far import Far
from sparse_patterns.distributed.layout import EMPTY
from sparse_patterns.distributed.local import Columns, Near
from sparse_patterns.distributed.merging import Upstream, merge, share_of
from sparse_patterns.distributed.parts import Parts, add
from sparse_patterns.distributed.rows import Rows


def forward(parts: Parts, has_parts: bool) -> tuple[Tensor, Tensor, int, Tensor, Tensor]:
    """Return output, log-sum-exp, number of the kernel, and results over the near keys.

    Args:
        parts: The call.
        has_parts: Whether there may be more than the near keys.
    """
    given = parts.given
    moved = Transfer(
        "exchange keys", parts.group, parts.outgoing(given.k, given.v), parts.incoming(), given.k
    )
    received = moved.wait()
    number = 0
    out = torch.zeros_like(given.q)
    lse = torch.full(given.q.shape[:3], -torch.inf, dtype=parts.dtype, device=given.q.device)
    if given.q.shape[2]:
        out, lse, number = Near(parts, received).forward()
    if not has_parts:
        return out, lse, number, out.new_empty(0), lse.new_empty(0)
    total, logs = out.to(parts.dtype), lse
    columns = Columns(parts, received)
    if columns.spans:
        total, logs = merge(total, logs, *columns.forward())
    for _, _, chunk in Far(parts).chunks():
        if chunk is not None:
            total, logs = merge(total, logs, *chunk.forward())
    if total is out or logs is lse:
        total, logs = total.clone(), logs.clone()
    Rows(parts).overwrite(total, logs)
    if parts.whole.key_mask is not None:
        padded = ~parts.whole.key_mask[:, None, parts.start : parts.stop]
        total = total.masked_fill(padded[..., None], 0)
        logs = logs.masked_fill(padded, -torch.inf)
    result = torch.empty_like(given.q)
    return result.copy_(total), logs, number, out, lse


def backward(
    parts: Parts,
    has_parts: bool,
    number: int,
    results: tuple[Tensor, Tensor, Tensor, Tensor],
    grad_out: Tensor,
    grad_lse: Tensor | None,
) -> list[Tensor]:
    """Return the gradients of the inputs.

    Args:
        parts: The call.
        has_parts: As in `forward`.
        number: Number of the kernel of the near keys.
        results: Output and log-sum-exp over all keys, and over the near ones (empty if these are
            all).
        grad_out: Gradient of the output.
        grad_lse: Gradient of the log-sum-exp, or None.
    """
    given = parts.given
    out, lse, near_out, near_lse = results
    moved = Transfer(
        "exchange keys", parts.group, parts.outgoing(given.k, given.v), parts.incoming(), given.k
    )
    received = moved.wait()
    inputs = (given.q, given.k, given.v)
    back: dict[int, list[Tensor]] = {}
    for rank, shapes in parts.incoming().items():
        back[rank] = [given.k.new_zeros(shape) for shape in shapes]

    whole_delta = (grad_out.to(parts.dtype) * out).sum(-1)
    if grad_lse is not None:
        whole_delta = whole_delta - grad_lse
    whole_lse = lse.masked_fill(lse == -torch.inf, torch.inf)
    upstream = Upstream(grad_out, whole_delta, whole_lse)
    if parts.overwritten is not None:
        upstream = Upstream(
            grad_out.masked_fill(parts.overwritten[..., None], 0),
            whole_delta.masked_fill(parts.overwritten, 0),
            whole_lse.masked_fill(parts.overwritten, torch.inf),
        )

    if not given.q.shape[2]:
        totals = [torch.zeros(x.shape, dtype=parts.dtype, device=x.device) for x in inputs]
    else:
        own_grads: tuple[Tensor, Tensor | None] = (grad_out, grad_lse)
        if has_parts:
            own_grads = share_of(upstream, near_out, near_lse)
        else:
            near_out, near_lse = out, lse
        grad_q, of_ranks = Near(parts, received).backward(number, near_out, near_lse, *own_grads)
        totals = [x.to(parts.dtype) for x in (grad_q, *of_ranks.pop(parts.rank))]
        for rank, pair in of_ranks.items():
            back[rank][:2] = pair
    if has_parts:
        for rank, (grad_k, grad_v) in Columns(parts, received).backward(upstream, totals).items():
            back[rank][2:] = [grad_k, grad_v]
    _return_far(parts, upstream, totals)
    own = totals
    if given.global_q is not None:
        own = [torch.zeros_like(x) for x in totals]
    Rows(parts).add_gradients(grad_out, whole_delta, whole_lse, (own[0], own[1], own[2]))
    _return_near(parts, back, totals)
    found = totals if own is totals else [*totals, *own]
    wanted = [x for x in given[:6] if x is not None]
    return [_laid_out(grad, x) for grad, x in zip(found, wanted, strict=True)]


def _laid_out(grad: Tensor, x: Tensor) -> Tensor:
    """Return a gradient in the type and layout of its tensor, which compiled programs rely on."""
    if grad.dtype == x.dtype and grad.stride() == x.stride():
        return grad
    return torch.empty_like(x).copy_(grad)


def _return_near(parts: Parts, back: dict[int, list[Tensor]], totals: list[Tensor]) -> None:
    """Send gradients of near keys and columns to their ranks, and add those of the own ones."""
    k = parts.given.k
    shapes: dict[int, list[tuple[int, ...]]] = {
        rank: [tuple(x.shape) for x in message] for rank, message in parts.outgoing(k, k).items()
    }
    received = Transfer("send gradients back", parts.group, back, shapes, k).wait()
    for rank in sorted(received):
        start, stop = (x - parts.start for x in parts.near_of(rank, parts.rank))
        columns = (parts.columns_of(rank, parts.rank) - parts.start)[None]
        near_k, near_v, column_k, column_v = received[rank]
        for total, near, single in ((totals[1], near_k, column_k), (totals[2], near_v, column_v)):
            if near.shape[2]:
                total[:, :, start:stop] += near
            if single.shape[2]:
                add(total, columns, single)


def _return_far(parts: Parts, upstream: Upstream, totals: list[Tensor]) -> None:
    """Compute far keys again, and send their gradients to the ranks that have them."""
    k = parts.given.k
    for to, source, chunk in Far(parts).chunks():
        send: dict[int, list[Tensor]] = {}
        if chunk is not None:
            grad_q, *grads = chunk.backward(upstream)
            totals[0] += grad_q
            send[source] = grads
        start, stop = parts.far_of(to, parts.rank)
        shape = parts.of_keys(stop - start)
        shapes = {to: [shape, shape]} if (start, stop) != EMPTY else {}
        received = Transfer("send gradients back", parts.group, send, shapes, k).wait()
        for grad_k, grad_v in received.values():
            own = slice(start - parts.start, stop - parts.start)
            totals[1][:, :, own] += grad_k
            totals[2][:, :, own] += grad_v
