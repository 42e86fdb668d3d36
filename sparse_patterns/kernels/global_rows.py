"""The rows of global tokens: few, and each sees nearly every key, so they are computed densely.

Kernels that work block by block leave these rows out of their tables (a single one would make all
blocks of its row visible) and let this file overwrite them. It is also the one place where
`global_qkv` enters.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from sparse_patterns.kernels.adding import add_to
from sparse_patterns.kernels.base import Call, accumulation_dtype
from sparse_patterns.kernels.dropout import Dropout
from sparse_patterns.kernels.examples import Examples
from sparse_patterns.kernels.scores.distances import add_at
from sparse_patterns.kernels.scores.terms import Distances
from sparse_patterns.lowering.plan import Group, Plan
from sparse_patterns.spec.oracle import visible

SCORES_AT_ONCE = 1 << 26
"""Scores held at once; with more, heads are taken some at a time."""


@dataclass(frozen=True, eq=False)
class RowBlock:
    """The global rows of one example and some of the heads of a group.

    Attributes:
        example: Index of the example.
        heads: int64 `(heads,)`, query heads.
        numbers: The same heads as numbers, for which a GPU need not be waited for.
        kv_heads: int64 `(heads,)`, key head of each.
        rows: int64 `(rows,)`, query rows.
        mask: bool `(rows, kv_len)`, what each sees.
        number: Counts these, for the seed of the dropout.
    """

    example: int
    heads: Tensor
    numbers: tuple[int, ...]
    kv_heads: Tensor
    rows: Tensor
    mask: Tensor
    number: int


class GlobalRows:
    """The rows that overwrite those of the main pass: of global tokens and padded queries.

    Attributes:
        overwritten: bool `(batch, heads, q_len)`, the rows whose result in the main pass is to be
            dropped: those of global tokens and of padded queries; None where there are none.
    """

    def __init__(self, call: Call, plan: Plan, distances: Distances | None = None) -> None:
        self.call = call
        self.distances = distances
        self.plan = plan
        self.dtype = accumulation_dtype(call.q.dtype)
        self.examples = call.examples
        self.overwritten = self._find()

    def overwrite(self, out: Tensor, lse: Tensor) -> None:
        """Write output and log-sum-exp of these rows over those of the main pass."""
        if self.overwritten is None:
            return
        out.masked_fill_(self.overwritten[..., None], 0)
        lse.masked_fill_(self.overwritten, -torch.inf)
        for some in self._each():
            q, k, v = self._inputs(some)
            weights, logs = self._weights(some, q, k)
            factors = self._factors(some, weights)
            weights = weights if factors is None else weights * factors
            at = (some.example, some.heads[:, None], some.rows)
            out[at] = (weights @ v).to(out.dtype)
            lse[at] = logs

    def shut(self, lse: Tensor) -> Tensor:
        """Return the log-sum-exp, +inf for empty and overwritten rows.

        So `exp(score - lse)` is 0 there.
        """
        empty = lse == -torch.inf
        closed = empty if self.overwritten is None else empty | self.overwritten
        return lse.masked_fill(closed, torch.inf)

    def add_gradients(
        self,
        out: Tensor,
        lse: Tensor,
        grad_out: Tensor,
        grad_lse: Tensor | None,
        results: tuple[Tensor, ...],
    ) -> None:
        """Add the gradients of these rows to `results`: of `q, k, v` and of `global_qkv` if given.

        Args:
            out: The output of the whole call.
            lse: Its log-sum-exp.
            grad_out: Gradient of the output.
            grad_lse: Gradient of the log-sum-exp, or None.
            results: Tensors of the shapes of the inputs; the last three take the gradients.
        """
        if self.overwritten is None:
            return
        scale = self.call.scale
        grad_q, grad_k, grad_v = results[-3:]
        for some in self._each():
            q, k, v = self._inputs(some)
            at = (some.example, some.heads[:, None], some.rows)
            weights, slope = self._scores(some, q, k)
            logs = lse[at].masked_fill(lse[at] == -torch.inf, torch.inf)
            weights = weights.sub_(logs[..., None]).exp_()
            upstream = grad_out[at].to(self.dtype)
            delta = (upstream * out[at]).sum(-1, keepdim=True)
            if grad_lse is not None:
                delta = delta - grad_lse[at][..., None]
            grad = upstream @ v.mT
            factors = self._factors(some, weights)
            dropped = weights
            if factors is not None:
                grad, dropped = grad * factors, weights * factors
            grad = grad.sub_(delta).mul_(weights)
            if slope is not None:
                grad.mul_(slope)
            if self.distances is not None and self.distances.grad is not None:
                index = self.distances.index(some.rows)
                for head, of_head in zip(some.numbers, grad, strict=True):
                    add_at(self.distances.grad[some.example, head], index, of_head)
            grad_q[at] += (grad @ k * scale).to(grad_q.dtype)
            # Several query heads may share a key head. The queries are scaled already.
            for total, own in ((grad_k, grad.mT @ q), (grad_v, dropped.mT @ upstream)):
                add_to(total[some.example], [some.kv_heads], own.to(total.dtype))

    def _find(self) -> Tensor | None:
        """Return the rows to overwrite, `(batch, heads, q_len)`."""
        here = self.examples.on_cpu()
        return self.examples.keep(
            ("overwritten rows", self.plan),
            lambda: _moved(self._find_on(here), self.examples.device),
        )

    def _find_on(self, examples: Examples) -> Tensor | None:
        request, padded = self.call.request, examples.padded_rows
        rows = [examples.global_rows(group) for group in self.plan.groups]
        if padded is None and all(one is None for one in rows):
            return None
        shape = (request.batch, request.heads, request.q_len)
        overwritten = torch.zeros(shape, dtype=torch.bool, device=examples.device)
        for group, own in zip(self.plan.groups, rows, strict=True):
            for some in (own, padded):
                if some is not None:
                    overwritten[:, list(group.heads)] |= some[:, None]
        return overwritten

    def _each(self) -> Iterator[RowBlock]:
        """Yield the rows of every example and group, some heads at a time."""
        request, device = self.call.request, self.call.q.device
        share = request.heads // max(1, request.kv_heads)
        number = -1
        for group in self.plan.groups:
            for example, rows in enumerate(self.examples.global_row_lists(group)):
                number += 1
                if not rows.numel():
                    continue
                mask = self._mask(group, example, rows)
                heads = self.examples.keep(
                    ("heads", group.heads), partial(torch.tensor, group.heads, device=device)
                )
                at_once = max(1, SCORES_AT_ONCE // mask.numel())
                for first, some in enumerate(heads.split(at_once)):
                    numbers = group.heads[first * at_once :][:at_once]
                    yield RowBlock(example, some, numbers, some // share, rows, mask, number)

    def _mask(self, group: Group, example: int, rows: Tensor) -> Tensor:
        """Return what the rows see, bool `(rows, kv_len)`."""
        examples = self.examples.on_cpu()

        def make() -> Tensor:
            keys = torch.arange(examples.kv_len, device="cpu")
            own = examples.global_row_lists(group)[example]
            q = examples.positions[own][:, None]
            mask = visible(group.pattern, q, keys, examples.context(example))
            mask = mask.expand(rows.numel(), examples.kv_len)
            if examples.key_mask is not None:
                mask = mask & examples.key_mask[example]
            return mask.to(rows.device)

        return self.examples.keep(("rows of global tokens", group.forms, example), make)

    def _inputs(self, some: RowBlock) -> tuple[Tensor, Tensor, Tensor]:
        """Return scaled queries, keys and values of these rows in the accumulation type."""
        q, k, v = self.call.global_qkv or (self.call.q, self.call.k, self.call.v)
        q = q[some.example, some.heads[:, None], some.rows].to(self.dtype) * self.call.scale
        at = (some.example, some.kv_heads)
        return q, k[at].to(self.dtype), v[at].to(self.dtype)

    def _scores(self, some: RowBlock, q: Tensor, k: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return masked scores of these rows, and their derivative by the products, None for 1."""
        bias = None
        if self.distances is not None:
            index = self.distances.index(some.rows)
            bias = self.distances.of(some.example)[some.heads][:, index]
        scores = q @ k.mT
        slope = self.call.scores.change(scores, bias)
        return scores.masked_fill_(~some.mask, -torch.inf), slope

    def _weights(self, some: RowBlock, q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
        scores, _ = self._scores(some, q, k)
        logs = scores.logsumexp(-1)
        shift = logs.masked_fill(logs == -torch.inf, 0)
        return scores.sub_(shift[..., None]).exp_(), logs

    def _factors(self, some: RowBlock, like: Tensor) -> Tensor | None:
        """Draw the dropout of these rows."""
        number = -1 - some.number * self.call.request.heads - some.numbers[0]
        return Dropout(self.call, number).draw(torch.empty_like(like))


def _moved(x: Tensor | None, device: torch.device) -> Tensor | None:
    return None if x is None else x.to(device)
