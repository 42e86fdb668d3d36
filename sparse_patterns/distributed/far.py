"""Keys that nothing but the order of tokens bounds: one stretch of another rank at a time.

In round `t` a rank takes what it needs from the rank `t` places before it, while it computes what
came in the round before. No more than two stretches are held at once.
"""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor

from sparse_patterns.distributed.exchange import Transfer
from sparse_patterns.distributed.layout import Interval
from sparse_patterns.distributed.local import piece_of
from sparse_patterns.distributed.merging import Upstream, share_of
from sparse_patterns.distributed.parts import Parts
from sparse_patterns.distributed.relocation import alignment, keeps_rows_apart
from sparse_patterns.distributed.strips import Positions, Strip
from sparse_patterns.kernels.operator.attend import compute, gradients


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
