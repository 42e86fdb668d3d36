"""Keys that are held all at once: the own ones, those near to them, and single columns."""

from __future__ import annotations

import torch
from torch import Tensor

from sparse_patterns.config.handles import intern
from sparse_patterns.distributed.layout import Interval
from sparse_patterns.distributed.merging import Upstream, summed
from sparse_patterns.distributed.parts import Parts, add, join, take
from sparse_patterns.distributed.relocation import relocate
from sparse_patterns.distributed.strips import Positions, Strip
from sparse_patterns.kernels.operator.attend import compute, gradients
from sparse_patterns.kernels.operator.given import Given as Call


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
        parts.layout.pattern,
        *keys,
        parts.layout.length,
        given.q.shape[1],
        given.layer,
        given.layers,
    )
    marks = whole.cut("global_mask", *keys)
    return Call(
        q=given.q,
        k=k,
        v=v,
        global_q=None,
        global_k=None,
        global_v=None,
        sinks=None,
        distance_bias=None,
        key_mask=whole.cut("key_mask", *keys),
        global_mask=marks,
        segment_ids=whole.cut("segment_ids", *keys),
        seed=None,
        pattern=intern(pattern),
        layer=given.layer,
        layers=given.layers,
        q_offset=parts.start - keys[0],
        scale=given.scale,
        dropout_p=0.0,
        kernel=given.kernel,
        needs_grad=given.needs_grad,
        softcap=None,
        bias_grad=False,
    )


class Columns:
    """Single keys of other ranks that the own rows see.

    Those of `Layout.columns_of` come from each rank by itself, global tokens by way of all ranks.
    """

    def __init__(self, parts: Parts, received: dict[int, list[Tensor]]) -> None:
        self.parts = parts
        given = parts.given
        shared = self._spread()
        # What each span of the keys is: whether it is shared, the rank that has it, and its size.
        self.spans: list[tuple[bool, int, int]] = []
        keys, values, places = [], [], []
        for rank in parts.others:
            columns = parts.columns_of(parts.rank, rank)
            for is_shared, at, message in (
                (False, Positions(columns[None]), received.get(rank, [])[2:]),
                (True, parts.unknown(parts.shared[rank]), shared[rank]),
            ):
                if at.at.shape[1]:
                    self.spans.append((is_shared, rank, at.at.shape[1]))
                    keys.append(message[0])
                    values.append(message[1])
                    places.append(at)
        self.k, self.v = join(keys, given.k), join(values, given.v)
        self.strip = Strip(
            parts.layout.groups,
            parts.whole,
            Positions.between(parts.start, parts.stop, given.q.device),
            _joined(places, given.q),
            given.scale,
        )

    def _spread(self) -> list[list[Tensor]]:
        """Return keys and values of the global tokens of each rank."""
        parts, given = self.parts, self.parts.given
        at = parts.shared[parts.rank].at - parts.start
        shapes = [[parts.of_keys(one.at.shape[1])] * 2 for one in parts.shared]
        own = [take(given.k, at), take(given.v, at)]
        return parts.tree.spread("share the keys of global tokens", own, shapes)

    def forward(self) -> tuple[Tensor, Tensor]:
        """Return output and log-sum-exp over these keys."""
        return self.strip.forward(self.parts.given.q, self.k, self.v)

    def backward(
        self, upstream: Upstream, totals: list[Tensor]
    ) -> dict[int, tuple[Tensor, Tensor]]:
        """Return the gradients of keys and values of each rank.

        Args:
            upstream: Where the gradients come from.
            totals: Where those of the queries, and of the own global tokens, are added.
        """
        parts = self.parts
        grad_q, grad_k, grad_v = self.strip.backward(
            parts.given.q, self.k, self.v, upstream.grad_out, upstream.delta, upstream.lse
        )
        totals[0] += grad_q
        sizes = [size for _, _, size in self.spans]
        found = {}
        shared = [
            [grad_k.new_zeros(parts.of_keys(one.at.shape[1])) for _ in range(2)]
            for one in parts.shared
        ]
        pieces = zip(grad_k.split(sizes, 2), grad_v.split(sizes, 2), strict=True)
        for (is_shared, rank, _), pair in zip(self.spans, pieces, strict=True):
            if is_shared:
                shared[rank] = list(pair)
            else:
                found[rank] = pair
        own = parts.tree.collect("send back the gradients of global tokens", shared, summed)
        for total, grad in zip(totals[1:], own, strict=True):
            add(total, parts.shared[parts.rank].at - parts.start, grad)
        return found


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
