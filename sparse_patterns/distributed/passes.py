"""The forward and the backward pass of one rank.

The forward pass merges what the rows see in several sets of keys by log-sum-exp. The backward pass
asks for the same keys again and sends their gradients back, so that between the passes nothing is
kept but the arguments and results of the call.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sparse_patterns.config.handles import intern
from sparse_patterns.distributed.exchange import Transfer
from sparse_patterns.distributed.layout import EMPTY, Interval
from sparse_patterns.distributed.parts import Parts, add, join, take
from sparse_patterns.distributed.relocation import alignment, keeps_rows_apart, relocate
from sparse_patterns.distributed.strips import Positions, Strip
from sparse_patterns.functional import Given as Call
from sparse_patterns.functional import compute, gradients


def merge(out: Tensor, lse: Tensor, more: Tensor, logs: Tensor) -> tuple[Tensor, Tensor]:
    """Return output and log-sum-exp over two sets of keys, from those over each."""
    total = torch.logaddexp(lse, logs)
    shift = total.masked_fill(total == -torch.inf, 0)
    first, second = (lse - shift).exp(), (logs - shift).exp()
    return out * first[..., None] + more * second[..., None], total


@dataclass(frozen=True, eq=False)
class Upstream:
    """What the gradients of all sets of keys are made of.

    Attributes:
        grad_out: Gradient of the output, zeros in the rows of global tokens.
        delta: `(batch, heads, rows)`: output times its gradient, less that of the log-sum-exp.
        lse: Log-sum-exp over all keys; +inf for rows that see nothing or are computed elsewhere.
    """

    grad_out: Tensor
    delta: Tensor
    lse: Tensor


class Near:
    """The own keys and those near to them, as one call of a kernel."""

    def __init__(self, parts: Parts, received: dict[int, list[Tensor]]) -> None:
        self.parts = parts
        given = parts.given
        keys, values = [], []
        self.spans: list[tuple[int, int]] = []
        for rank in range(parts.layout.ranks):
            start, stop = parts.near_of(parts.rank, rank)
            if start == stop:
                continue
            self.spans.append((rank, stop - start))
            keys.append(given.k if rank == parts.rank else received[rank][0])
            values.append(given.v if rank == parts.rank else received[rank][1])
        self.given = piece_of(parts, parts.near, join(keys, given.k), join(values, given.v))

    def forward(self) -> tuple[Tensor, Tensor, int]:
        """Return output, log-sum-exp and the number of the kernel."""
        return compute(self.given)

    def backward(
        self, number: int, out: Tensor, lse: Tensor, grad_out: Tensor, grad_lse: Tensor | None
    ) -> tuple[Tensor, dict[int, tuple[Tensor, Tensor]]]:
        """Return the gradient of the queries, and those of keys and values for each rank."""
        grad_q, grad_k, grad_v = gradients(self.given, number, out, lse, grad_out, grad_lse)
        sizes = [size for _, size in self.spans]
        pieces = zip(grad_k.split(sizes, 2), grad_v.split(sizes, 2), strict=True)
        return grad_q, {rank: pair for (rank, _), pair in zip(self.spans, pieces, strict=True)}


def piece_of(parts: Parts, keys: Interval, k: Tensor, v: Tensor) -> Call:
    """Return the arguments of a kernel for the own rows and an interval of keys."""
    given, whole = parts.given, parts.whole
    pattern = relocate(
        parts.layout.pattern, *keys, parts.layout.length, given.q.shape[1], given.layer
    )
    marks = whole.cut("global_mask", *keys)
    return Call(
        given.q,
        k,
        v,
        None,
        None,
        None,
        whole.cut("key_mask", *keys),
        marks,
        whole.cut("segment_ids", *keys),
        None,
        intern(pattern),
        given.layer,
        given.layers,
        parts.start - keys[0],
        given.scale,
        0.0,
        given.kernel,
        given.needs_grad,
    )


class Columns:
    """Single keys of other ranks that the own rows see."""

    def __init__(self, parts: Parts, received: dict[int, list[Tensor]]) -> None:
        self.parts = parts
        given = parts.given
        self.spans: list[tuple[int, int]] = []
        keys, values, places = [], [], []
        for rank in parts.others:
            columns = parts.columns_of(parts.rank, rank)
            count = columns.at.shape[1]
            if count and rank in received:
                self.spans.append((rank, count))
                keys.append(received[rank][2])
                values.append(received[rank][3])
                places.append(columns)
        self.k, self.v = join(keys, given.k), join(values, given.v)
        self.strip = Strip(
            parts.layout.groups,
            parts.whole,
            Positions.between(parts.start, parts.stop, given.q.device),
            _joined(places, given.q),
            given.scale,
        )

    def forward(self) -> tuple[Tensor, Tensor]:
        """Return output and log-sum-exp over these keys."""
        return self.strip.forward(self.parts.given.q, self.k, self.v)

    def backward(self, upstream: Upstream) -> tuple[Tensor, dict[int, tuple[Tensor, Tensor]]]:
        """Return the gradient of the queries, and those of keys and values for each rank."""
        grad_q, grad_k, grad_v = self.strip.backward(
            self.parts.given.q, self.k, self.v, upstream.grad_out, upstream.delta, upstream.lse
        )
        sizes = [size for _, size in self.spans]
        pieces = zip(grad_k.split(sizes, 2), grad_v.split(sizes, 2), strict=True)
        return grad_q, {rank: pair for (rank, _), pair in zip(self.spans, pieces, strict=True)}


def _joined(places: list[Positions], like: Tensor) -> Positions:
    """Return positions joined, of each example if those of some are."""
    if not places:
        return Positions(torch.empty(1, 0, dtype=torch.int64, device=like.device))
    if all(one.valid is None for one in places):
        return Positions(torch.cat([one.at for one in places], 1))
    batch = like.shape[0]
    at = torch.cat([one.at.expand(batch, -1) for one in places], 1)
    valid = [
        torch.ones_like(one.at, dtype=torch.bool) if one.valid is None else one.valid
        for one in places
    ]
    return Positions(at, torch.cat([one.expand(batch, -1) for one in valid], 1))


class Far:
    """Keys that nothing but the order of tokens bounds: one stretch at a time."""

    def __init__(self, parts: Parts) -> None:
        self.parts = parts
        pattern = parts.layout.pattern
        self.apart = keeps_rows_apart(pattern)
        self.align = alignment(pattern)

    def chunks(self) -> Iterator[tuple[int, int, Chunk | None]]:
        """Yield whom to serve, whom to take from, and what came, while the next one travels."""
        parts = self.parts
        rounds = range(1, parts.layout.ranks) if parts.layout.is_far else ()
        following: tuple[int, int, Interval, Transfer] | None = None
        for step in rounds:
            current, following = following, self._start(step)
            if current is not None:
                yield self._finish(*current)
        if following is not None:
            yield self._finish(*following)

    def _start(self, step: int) -> tuple[int, int, Interval, Transfer]:
        parts = self.parts
        ranks = parts.layout.ranks
        to, source = (parts.rank + step) % ranks, (parts.rank - step) % ranks
        start, stop = parts.far_of(parts.rank, source)
        sent = [x - parts.start for x in parts.far_of(to, parts.rank)]
        own = slice(max(0, sent[0]), max(0, sent[1]))
        k, v = parts.given.k, parts.given.v
        shape = parts.of_keys(stop - start)
        moved = Transfer(
            "pass keys on",
            parts.group,
            {to: [k[:, :, own], v[:, :, own]]},
            {source: [shape, shape]},
            k,
        )
        return to, source, (start, stop), moved

    def _finish(
        self, to: int, source: int, keys: Interval, moved: Transfer
    ) -> tuple[int, int, Chunk | None]:
        received = moved.wait()
        if keys[0] == keys[1] or source not in received:
            return to, source, None
        apart = self.apart and keys[0] % self.align == 0
        return to, source, Chunk(self.parts, keys, received[source][0], received[source][1], apart)


class Chunk:
    """Far keys of one rank."""

    def __init__(self, parts: Parts, keys: Interval, k: Tensor, v: Tensor, apart: bool) -> None:
        self.parts, self.k, self.v = parts, k, v
        given = parts.given
        self.given = piece_of(parts, keys, k, v) if apart else None
        device = given.q.device
        self.strip = Strip(
            parts.layout.groups,
            parts.whole,
            Positions.between(parts.start, parts.stop, device),
            Positions.between(*keys, device),
            given.scale,
        )

    def forward(self) -> tuple[Tensor, Tensor]:
        """Return output and log-sum-exp over these keys."""
        if self.given is None:
            return self.strip.forward(self.parts.given.q, self.k, self.v)
        out, lse, _ = compute(self.given)
        return out.to(self.parts.dtype), lse

    def backward(self, upstream: Upstream) -> tuple[Tensor, Tensor, Tensor]:
        """Return what these keys add to the gradients."""
        if self.given is None:
            return self.strip.backward(
                self.parts.given.q, self.k, self.v, upstream.grad_out, upstream.delta, upstream.lse
            )
        out, lse, number = compute(self.given)
        own = share_of(upstream, out, lse)
        grads = gradients(self.given, number, out, lse, *own)
        return grads[0], grads[1], grads[2]


def share_of(upstream: Upstream, out: Tensor, lse: Tensor) -> tuple[Tensor, Tensor]:
    """Return the gradients of the output and log-sum-exp over some of the keys."""
    weight = (lse - upstream.lse).exp()
    grad = upstream.grad_out.to(lse.dtype)
    grad_lse = weight * ((grad * out).sum(-1) - upstream.delta)
    return (grad * weight[..., None]).to(out.dtype), grad_lse


class Rows:
    """The rows of global tokens: every rank computes all of them on its own keys."""

    def __init__(self, parts: Parts) -> None:
        self.parts = parts
        self.counts = [one.at.shape[1] for one in parts.rows]
        self.k, self.v = parts.row_inputs[1:]
        own = parts.rows[parts.rank]
        self.own_count = own.at.shape[1]
        self.at = own.at - parts.start
        valid = own.valid if own.valid is not None else torch.ones_like(own.at, dtype=torch.bool)
        shape = (parts.given.q.shape[0], self.own_count)
        self.at, self.valid = self.at.expand(shape), valid.expand(shape)

    def send_own(self, step: str, *tensors: Tensor) -> list[list[Tensor]]:
        """Give tensors of the own rows to all; return those of the rows of each rank."""
        parts = self.parts
        if not any(self.counts):
            return [list(tensors) for _ in self.counts]
        shapes: dict[int, list[tuple[int, ...]]] = {
            rank: [(*x.shape[:2], self.counts[rank], *x.shape[3:]) for x in tensors]
            for rank in parts.others
        }
        send = {rank: list(tensors) for rank in parts.others} if self.own_count else {}
        received = Transfer(step, parts.group, send, shapes, tensors[0]).wait()
        received[parts.rank] = list(tensors)
        return [
            received.get(rank, [x[:, :, :0] for x in tensors]) for rank in range(len(self.counts))
        ]

    def send_back(self, step: str, each: list[list[Tensor]]) -> list[list[Tensor]]:
        """Give the results for each rank's rows to it; return those of the own rows, by rank."""
        parts = self.parts
        own = each[parts.rank]
        if not any(self.counts):
            return [own]
        send = {rank: each[rank] for rank in parts.others if self.counts[rank]}
        shapes = {rank: [tuple(x.shape) for x in own] for rank in parts.others}
        received = Transfer(
            step, parts.group, send, shapes if self.own_count else {}, own[0]
        ).wait()
        received[parts.rank] = own
        return [received[rank] for rank in sorted(received)]

    def strip(self, owner: int) -> Strip:
        """Return the rows of an owner against the own keys."""
        parts = self.parts
        return Strip(
            parts.layout.groups,
            parts.whole,
            parts.rows[owner],
            Positions.between(parts.start, parts.stop, self.k.device),
            parts.given.scale,
            parts.is_row,
        )

    def queries(self) -> list[Tensor]:
        """Return the queries of the rows of each rank."""
        own = take(self.parts.row_inputs[0], self.at)
        return [one[0] for one in self.send_own("send the queries of global tokens", own)]

    def overwrite(self, out: Tensor, lse: Tensor) -> None:
        """Write these rows over those of the own stretch."""
        if not any(self.counts):
            return
        found = []
        for owner, q in enumerate(self.queries()):
            found.append(list(self.strip(owner).forward(q, self.k, self.v)))
        every = self.send_back("send back the rows of global tokens", found)
        if not self.own_count:
            return
        rows, logs = every[0]
        for more, its_logs in every[1:]:
            rows, logs = merge(rows, logs, more, its_logs)
        for example, head, place, number in self._flagged():
            out[example, head, place] = rows[example, head, number].to(out.dtype)
            lse[example, head, place] = logs[example, head, number]

    def _flagged(self) -> Iterator[tuple[int, Tensor, Tensor, Tensor]]:
        """Yield example, heads, rows of the stretch and which of the own rows they are."""
        flags = self.parts.overwritten
        assert flags is not None
        for example in range(flags.shape[0]):
            chosen = flags[example][:, self.at[example]] & self.valid[example]
            head, number = chosen.nonzero(as_tuple=True)
            yield example, head, self.at[example][number], number

    def add_gradients(
        self, grad_out: Tensor, delta: Tensor, lse: Tensor, totals: tuple[Tensor, Tensor, Tensor]
    ) -> None:
        """Add the gradients of these rows.

        Args:
            grad_out: Gradient of the output of the own stretch.
            delta: Of all own rows.
            lse: Log-sum-exp of all own rows, +inf for those that see nothing.
            totals: Where the gradients of queries, keys and values go.
        """
        if not any(self.counts):
            return
        parts = self.parts
        own = (
            take(grad_out.to(parts.dtype), self.at),
            take(delta[..., None], self.at),
            take(lse[..., None], self.at),
        )
        queries = self.queries()
        upstream = self.send_own("send the gradients of global tokens", *own)
        found = []
        for owner, (q, given) in enumerate(zip(queries, upstream, strict=True)):
            grads = self.strip(owner).backward(
                q, self.k, self.v, given[0], given[1][..., 0], given[2][..., 0]
            )
            found.append([grads[0]])
            for total, grad in zip(totals[1:], grads[1:], strict=True):
                total += grad
        every = self.send_back("send back the gradients of global tokens", found)
        for (grad,) in every:
            if self.own_count:
                add(totals[0], self.at, grad)


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
    number: int,
    results: tuple[Tensor, Tensor, Tensor, Tensor],
    grad_out: Tensor,
    grad_lse: Tensor | None,
) -> list[Tensor]:
    """Return the gradients of the inputs.

    Args:
        parts: The call.
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
    totals = [torch.zeros(x.shape, dtype=parts.dtype, device=x.device) for x in inputs]
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

    if given.q.shape[2]:
        own_grads: tuple[Tensor, Tensor | None] = (grad_out, grad_lse)
        if near_out.numel():
            own_grads = share_of(upstream, near_out, near_lse)
        else:
            near_out, near_lse = out, lse
        grad_q, of_ranks = Near(parts, received).backward(number, near_out, near_lse, *own_grads)
        totals[0] += grad_q
        for rank, (grad_k, grad_v) in of_ranks.items():
            if rank == parts.rank:
                totals[1] += grad_k
                totals[2] += grad_v
            else:
                back[rank][:2] = [grad_k, grad_v]
    columns = Columns(parts, received)
    if columns.spans:
        grad_q, of_ranks = columns.backward(upstream)
        totals[0] += grad_q
        for rank, (grad_k, grad_v) in of_ranks.items():
            back[rank][2:] = [grad_k, grad_v]
    _return_far(parts, upstream, totals)
    own = totals
    if given.global_q is not None:
        own = [torch.zeros_like(x) for x in totals]
    Rows(parts).add_gradients(grad_out, whole_delta, whole_lse, (own[0], own[1], own[2]))
    _return_near(parts, back, totals)
    found = totals if own is totals else [*totals, *own]
    return [x.to(given.q.dtype) for x in found]


def _return_near(parts: Parts, back: dict[int, list[Tensor]], totals: list[Tensor]) -> None:
    """Send gradients of near keys and columns to their ranks, and add those of the own ones."""
    k = parts.given.k
    shapes: dict[int, list[tuple[int, ...]]] = {
        rank: [tuple(x.shape) for x in message] for rank, message in parts.outgoing(k, k).items()
    }
    received = Transfer("send gradients back", parts.group, back, shapes, k).wait()
    for rank in sorted(received):
        start, stop = (x - parts.start for x in parts.near_of(rank, parts.rank))
        columns = parts.columns_of(rank, parts.rank).at - parts.start
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


def group_of(name: str) -> Any:
    """Return the group of a name, under which compiled programs know it."""
    from torch.distributed.distributed_c10d import _resolve_process_group

    return _resolve_process_group(name)
