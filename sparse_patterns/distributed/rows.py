"""The rows of global tokens: every rank computes all of them on its own keys."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from sparse_patterns.distributed.merging import merged, summed
from sparse_patterns.distributed.parts import Parts, add, take
from sparse_patterns.distributed.strips import Positions, Strip


class Rows:
    """The rows of global tokens: every rank computes all of them on its own keys."""

    def __init__(self, parts: Parts) -> None:
        self.parts = parts
        self.counts = [one.at.shape[1] for one in parts.rows]
        self.k, self.v = parts.row_inputs[1:]
        own = parts.rows[parts.rank]
        self.at = own.at - parts.start
        valid = own.valid if own.valid is not None else torch.ones_like(own.at, dtype=torch.bool)
        shape = (parts.given.q.shape[0], own.at.shape[1])
        self.at, self.valid = self.at.expand(shape), valid.expand(shape)

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
        return [
            one[0]
            for one in self._spread("share the queries of global tokens", self.parts.row_inputs[0])
        ]

    def _spread(self, step: str, *tensors: Tensor) -> list[list[Tensor]]:
        """Give the own rows of tensors to all ranks; return those of each rank's."""
        shapes = [[(*x.shape[:2], n, x.shape[3]) for x in tensors] for n in self.counts]
        return self.parts.tree.spread(step, [take(x, self.at) for x in tensors], shapes)

    def overwrite(self, out: Tensor, lse: Tensor) -> None:
        """Write these rows over those of the own stretch."""
        if not any(self.counts):
            return
        found = []
        for owner, q in enumerate(self.queries()):
            rows, logs = self.strip(owner).forward(q, self.k, self.v)
            found.append([rows, logs[..., None]])
        step = "send back the rows of global tokens"
        rows, logs = self.parts.tree.collect(step, found, merged)
        for example, head, place, number in self._flagged():
            out[example, head, place] = rows[example, head, number].to(out.dtype)
            lse[example, head, place] = logs[example, head, number, 0]

    def _flagged(self) -> Iterator[tuple[int, Tensor, Tensor, Tensor]]:
        """Yield example, heads, rows of the stretch and which of the own rows they are."""
        flags = self.parts.overwritten
        for example in range(0 if flags is None else flags.shape[0]):
            assert flags is not None
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
        given = (grad_out.to(lse.dtype), delta[..., None], lse[..., None])
        upstream = self._spread("share the gradients of global tokens", *given)
        found = []
        for owner, (q, one) in enumerate(zip(self.queries(), upstream, strict=True)):
            grads = self.strip(owner).backward(
                q, self.k, self.v, one[0], one[1][..., 0], one[2][..., 0]
            )
            found.append([grads[0]])
            for total, grad in zip(totals[1:], grads[1:], strict=True):
                total += grad
        step = "send back the gradients of global tokens"
        (grad,) = self.parts.tree.collect(step, found, summed)
        add(totals[0], self.at, grad)
