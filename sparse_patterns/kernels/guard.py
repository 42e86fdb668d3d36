"""What is invisible has no influence: every kernel is run through this file.

Kernels hide a pair by the weight 0 or by adding -inf to its score. That is not enough for NaN and
infinity, and for scores that overflow: 0 * NaN and inf - inf are NaN, in every row of the tile. But
then the results of the kernel are not all finite, which their sum tells at little cost, and only
then the call is repaired:

1. Queries, keys and values with numbers that spoil sums are replaced by zeros, and the kernel is
   run on these: right for all rows that see none of them.
2. Which rows see one is asked of the kernel itself: with equal scores, the output of a row is
   positive where a key of value 1 is visible.
3. Those rows are computed one by one in float64 (see `kernels.exact`), except rows that are known
   to be NaN. So a call with NaN everywhere costs no more than a few runs of the kernel.

Which rows are computed in which way follows from the inputs alone. With dropout, where the rows of
step 3 have a random stream of their own, inputs are looked at whatever the results are: otherwise
the forward pass and the backward pass could decide differently.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from sparse_patterns.kernels import exact, guard_device
from sparse_patterns.kernels.base import Call, Kernel, accumulation_dtype
from sparse_patterns.kernels.dropout import Dropout
from sparse_patterns.kernels.scores import sinks
from sparse_patterns.kernels.scores.distances import add_at
from sparse_patterns.kernels.scores.terms import PLAIN, Distances
from sparse_patterns.lowering.plan import Group, Plan
from sparse_patterns.spec.oracle import visible

HARMLESS = 0.4
"""Numbers up to the largest one of the accumulation type, to this power, never overflow in pairs.

That is 2.6e15 for float32, and leaves a factor of 5e7 for the size of a head.
"""

PAIRS_AT_ONCE = 1 << 20
"""Pairs of repaired rows that are computed at once."""

PRECISE = (torch.float32, torch.float64)
"""Types whose sums are held in the type itself."""

STREAMS = 1 << 40
"""Numbers of random streams from here on are those of repaired rows."""


def forward(kernel: Kernel, call: Call, plan: Plan) -> tuple[Tensor, Tensor]:
    """Run a kernel forward; see `Kernel.forward`.

    Args:
        kernel: The kernel.
        call: The call.
        plan: Its plan.
    """
    if guard_device.serves(kernel, call):
        return guard_device.forward(kernel, call, plan, HARMLESS)
    if _unguarded(call):
        return _run(kernel, call, plan)
    found: tuple[Tensor, Tensor] | None = None
    if not call.request.dropout_p:
        found = _run(kernel, call, plan)
        if not _suspicious(call, *found):
            return found
    repair = _Repair(kernel, call, plan)
    if repair.needed:
        return repair.forward()
    return _run(kernel, call, plan) if found is None else found


def backward(
    kernel: Kernel,
    call: Call,
    plan: Plan,
    out: Tensor,
    lse: Tensor,
    grad_out: Tensor,
    grad_lse: Tensor | None,
) -> tuple[Tensor, ...]:
    """Run a kernel backward; see `Kernel.backward`. The gradient of the sinks is not in it.

    Args:
        kernel: The kernel of the forward pass.
        call: The call.
        plan: Its plan.
        out: The output of the forward pass.
        lse: Its log-sum-exp.
        grad_out: Gradient of the output.
        grad_lse: Gradient of the log-sum-exp, or None.
    """
    outcome = (out, lse, grad_out, grad_lse)
    if guard_device.serves(kernel, call):
        return guard_device.backward(kernel, call, plan, *outcome, HARMLESS)
    if _unguarded(call):
        return kernel.backward(call, plan, *outcome)
    grads: tuple[Tensor, ...] | None = None
    if not call.request.dropout_p and _total([lse]) < torch.inf:
        grads = kernel.backward(call, plan, *outcome)
        if math.isfinite(_total(grads)):
            return grads
    repair = _Repair(kernel, call, plan, grad_out, grad_lse)
    if repair.needed:
        return repair.backward()
    return kernel.backward(call, plan, *outcome) if grads is None else grads


def _run(kernel: Kernel, call: Call, plan: Plan) -> tuple[Tensor, Tensor]:
    """Run a kernel forward, and add the sinks to what it returns."""
    return sinks.corrected(*kernel.forward(call, plan), call.scores.sinks)


def _unguarded(call: Call) -> bool:
    """Return whether nothing is there, or a CUDA graph is recorded, which allows no decision."""
    if not call.q.numel() or not call.k.numel():
        return True
    return call.q.is_cuda and torch.cuda.is_current_stream_capturing()


def _sum(x: Tensor) -> Tensor:
    """Return the sum of all elements, which is not finite if one of them is not."""
    return x.sum() if x.dtype in PRECISE else x.sum(dtype=torch.float32)


def _total(results: Iterable[Tensor]) -> float:
    """Return the sum of all elements of all results, read at once from another device."""
    first, *others = (_sum(x) for x in results)
    if first.is_cpu:
        return sum((one.item() for one in others), first.item())
    return float(sum(others, first))


def _suspicious(call: Call, out: Tensor, lse: Tensor) -> bool:
    """Return whether the results of a forward pass call for a look at the inputs."""
    # Of a short call, every operation here is a part that can be measured.
    sums = _sum(out), _sum(lse)
    total, logs = (sums[0].item(), sums[1].item()) if out.is_cpu else torch.stack(sums).tolist()
    if math.isfinite(total + logs):
        return False
    if logs != -torch.inf or not math.isfinite(total):
        return True
    # The log-sum-exp holds -inf and numbers only. Are these rows padded, or do they see nothing but
    # scores of -inf?
    examples = call.examples
    padded = examples.keep(
        "number of padded rows",
        lambda: 0 if examples.padded_rows is None else int(examples.padded_rows.sum()),
    )
    return int((lse == -torch.inf).sum()) > padded * call.request.heads


@dataclass
class _Rows:
    """Rows of one head that are computed one by one: `(rows,)`, and what they see."""

    example: int
    head: int
    kv_head: int
    rows: Tensor
    own: bool
    mask: Tensor
    factors: Tensor | None


class _Repair:
    """A call whose inputs hold numbers that spoil sums.

    Attributes:
        needed: Whether there are any.
    """

    def __init__(
        self,
        kernel: Kernel,
        call: Call,
        plan: Plan,
        grad_out: Tensor | None = None,
        grad_lse: Tensor | None = None,
    ) -> None:
        self.kernel, self.call, self.plan = kernel, call, plan
        self.grad_out, self.grad_lse = grad_out, grad_lse
        self.inputs = (call.q, call.k, call.v, *(call.global_qkv or ()))
        bound = float(torch.finfo(accumulation_dtype(call.q.dtype)).max) ** HARMLESS
        scaled = bound / max(1.0, abs(call.scale))
        self.spoiled = [
            _beyond(x, bound if number % 3 else scaled) for number, x in enumerate(self.inputs)
        ]
        self.rows_given_nothing = torch.zeros_like(self.spoiled[0])
        self.rows_given_much = torch.zeros_like(self.spoiled[0])
        if grad_out is not None:
            self.rows_given_nothing = ~grad_out.isfinite().all(-1)
            if not call.request.dropout_p:
                self.rows_given_much = _beyond(grad_out, bound)
        if grad_lse is not None:
            self.rows_given_nothing = self.rows_given_nothing | ~grad_lse.isfinite()
        troubles = (*self.spoiled, self.rows_given_nothing, self.rows_given_much)
        self.needed = bool(torch.stack([trouble.any() for trouble in troubles]).any())

    def forward(self) -> tuple[Tensor, Tensor]:
        """Return output and log-sum-exp."""
        out, lse = _run(self.kernel, self._clean(), self.plan)
        undefined, computed = self._rows(lse > -torch.inf)
        out.masked_fill_(undefined[..., None], torch.nan)
        lse.masked_fill_(undefined, torch.nan)
        for some in self._each(computed):
            inputs = self._inputs(some)
            values, logs, _ = exact.attend(
                *inputs, some.mask, self.call.scale, some.factors, self._terms(some)
            )
            at = (some.example, some.head, some.rows)
            out[at], lse[at] = values.to(out.dtype), logs.to(lse.dtype)
        return out, lse

    def backward(self) -> tuple[Tensor, ...]:
        """Return the gradients of the inputs."""
        assert self.grad_out is not None
        clean = self._clean()
        out, lse = _run(self.kernel, clean, self.plan)
        seen = lse > -torch.inf
        undefined, computed = self._rows(seen)
        shut = undefined | computed | ~seen
        upstream = self.grad_out.masked_fill(shut[..., None], 0)
        of_lse = None if self.grad_lse is None else self.grad_lse.masked_fill(shut, 0)
        found = self.kernel.backward(clean, self.plan, out, lse, upstream, of_lse)
        totals = [grad.to(accumulation_dtype(grad.dtype), copy=True) for grad in found]
        distances = Distances.of_call(self.call, backward=True)
        for some in self._each(computed):
            at = (some.example, some.head, some.rows)
            grad_q, grad_k, grad_v, grad_scores = exact.gradients(
                *self._inputs(some),
                some.mask,
                self.call.scale,
                self.grad_out[at],
                None if self.grad_lse is None else self.grad_lse[at],
                some.factors,
                self._terms(some),
            )
            count = len(self.inputs)
            into_q, into_k, into_v = totals[count - 3 : count] if some.own else totals[:3]
            into_q[at] = grad_q.to(into_q.dtype)
            into_k[some.example, some.kv_head] += grad_k.to(into_k.dtype)
            into_v[some.example, some.kv_head] += grad_v.to(into_v.dtype)
            if distances is not None and distances.grad is not None:
                total = distances.grad[some.example, some.head]
                add_at(total, distances.index(some.rows), grad_scores.to(total.dtype))
        if distances is not None and distances.grad is not None:
            totals[-1] += distances.table()
        if bool(undefined.any()):
            self._spread(undefined, totals)
        return tuple(total.to(x.dtype) for total, x in zip(totals, found, strict=True))

    def _clean(self) -> Call:
        """Return the call with zeros for the rows of its inputs that spoil sums."""
        return self._with(
            self.call,
            [
                x.masked_fill(spoiled[..., None], 0)
                for x, spoiled in zip(self.inputs, self.spoiled, strict=True)
            ],
        )

    def _blank(self, marks: list[Tensor] | None = None) -> Call:
        """Return the call with plain scores, no dropout, and zeros for all but marked values.

        Args:
            marks: bool `(batch, kv_heads, kv_len)`, of the values and, if there are any, of those
                of the rows of global tokens.
        """
        inputs = [torch.zeros_like(x) for x in self.inputs]
        for value, marked in zip(inputs[2::3], marks or (), strict=marks is not None):
            value.masked_fill_(marked[..., None], 1)
        return self._with(
            replace(self.call, request=replace(self.call.request, dropout_p=0.0), scores=PLAIN),
            inputs,
        )

    def _with(self, call: Call, inputs: list[Tensor]) -> Call:
        q, k, v, *own = inputs
        return replace(call, q=q, k=k, v=v, global_qkv=(own[0], own[1], own[2]) if own else None)

    def _rows(self, seen: Tensor) -> tuple[Tensor, Tensor]:
        """Return which rows are NaN without computing, and which are to be computed one by one.

        Args:
            seen: bool `(batch, heads, q_len)`, the rows that see a key.
        """
        nan = [x.isnan().any(-1) for x in self.inputs]
        undefined = self._of_rows(nan[::3]) | self.rows_given_nothing | self._see(nan[1::3])
        undefined &= seen
        keys = [a | b for a, b in zip(self.spoiled[1::3], self.spoiled[2::3], strict=True)]
        computed = self._of_rows(self.spoiled[::3]) | self.rows_given_much | self._see(keys)
        return undefined, computed & seen & ~undefined

    def _own(self) -> Tensor | None:
        """Return which rows are computed from `global_qkv`, bool `(batch, heads, q_len)`."""
        if self.call.global_qkv is None:
            return None
        rows = torch.zeros_like(self.spoiled[0])
        for group in self.plan.groups:
            of_group = self.call.examples.global_rows(group)
            if of_group is not None:
                rows[:, list(group.heads)] = of_group[:, None]
        return rows

    def _of_rows(self, marks: list[Tensor]) -> Tensor:
        """Return marks of queries at the rows that these queries stand for."""
        own = self._own()
        return marks[0] if own is None else torch.where(own, marks[1], marks[0])

    def _see(self, marks: list[Tensor]) -> Tensor:
        """Return which rows see a marked key, bool `(batch, heads, q_len)`."""
        if not any(bool(marked.any()) for marked in marks):
            return torch.zeros_like(self.spoiled[0])
        out, _ = self.kernel.forward(self._blank(marks), self.plan)
        return out.amax(-1) > 0

    def _spread(self, undefined: Tensor, totals: list[Tensor]) -> None:
        """Write NaN to the gradients of rows that are NaN, and of the keys that they see."""
        blank = self._blank()
        out, lse = self.kernel.forward(blank, self.plan)
        ones = undefined[..., None].expand_as(out).to(out.dtype)
        reached = self.kernel.backward(blank, self.plan, out, lse, ones, None)
        own = self._own()
        of_rows = [undefined] if own is None else [undefined & ~own, undefined & own]
        for number, rows in enumerate(of_rows):
            keys = reached[3 * number + 2].amax(-1) > 0
            for total, marks in zip(totals[3 * number :], (rows, keys, keys), strict=False):
                total.masked_fill_(marks[..., None], torch.nan)
        if self.call.scores.bias_grad:
            # Which distances these rows see is not asked for: a row may see all of them.
            totals[-1].masked_fill_(undefined.any(-1)[..., None], torch.nan)

    def _terms(self, some: _Rows) -> exact.Terms:
        """Return what changes the scores of some rows."""
        scores, distances = self.call.scores, Distances.of_call(self.call)
        bias = sink = None
        if distances is not None:
            bias = distances.of(some.example)[some.head][distances.index(some.rows)]
        if scores.sinks is not None:
            sink = scores.sinks[some.example, some.head]
        return exact.Terms(bias, scores.softcap, sink)

    def _each(self, computed: Tensor) -> Iterator[_Rows]:
        """Yield the rows to be computed one by one, of one head and some at a time."""
        request, own = self.call.request, self._own()
        share = request.heads // request.kv_heads
        at_once = max(1, PAIRS_AT_ONCE // request.kv_len)
        for group in self.plan.groups:
            for example in range(request.batch):
                for head in group.heads:
                    rows = computed[example, head]
                    kinds = [(False, rows)]
                    if own is not None:
                        special = own[example, head]
                        kinds = [(False, rows & ~special), (True, rows & special)]
                    for special_rows, marked in kinds:
                        for some in marked.nonzero().flatten().split(at_once):
                            if some.numel():
                                mask = self._mask(group, example, some)
                                factors = self._factors(example, head, some)
                                yield _Rows(
                                    example, head, head // share, some, special_rows, mask, factors
                                )

    def _mask(self, group: Group, example: int, rows: Tensor) -> Tensor:
        """Return what some rows see, bool `(rows, kv_len)`."""
        examples = self.call.examples
        keys = torch.arange(examples.kv_len, device=rows.device)
        positions = examples.positions[rows][:, None]
        mask = visible(group.pattern, positions, keys, examples.context(example))
        mask = mask.expand(rows.numel(), examples.kv_len)
        return mask if examples.key_mask is None else mask & examples.key_mask[example]

    def _inputs(self, some: _Rows) -> tuple[Tensor, Tensor, Tensor]:
        q, k, v = self.inputs[-3:] if some.own else self.inputs[:3]
        at = (some.example, some.kv_head)
        return q[some.example, some.head][some.rows], k[at], v[at]

    def _factors(self, example: int, head: int, rows: Tensor) -> Tensor | None:
        """Draw the dropout of some rows, each from a stream of its own."""
        request = self.call.request
        if not request.dropout_p:
            return None
        shape = (rows.numel(), request.kv_len)
        factors = torch.empty(shape, dtype=torch.float64, device=rows.device)
        first = STREAMS + (example * request.heads + head) * request.q_len
        for row, factor in zip(rows.tolist(), factors, strict=True):
            Dropout(self.call, first + row).draw(factor)
        return factors


def _beyond(x: Tensor, bound: float) -> Tensor:
    """Return which rows `(batch, heads, n)` hold NaN, infinity or more than a bound."""
    return ~(x.abs() <= min(bound, torch.finfo(x.dtype).max)).all(-1)
