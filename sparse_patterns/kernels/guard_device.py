"""What is invisible has no influence, on a device that nobody waits for.

`kernels.guard` looks at the results of a kernel and repairs them where they are not finite. To look
means to wait for a GPU. Here every call is prepared instead, whatever it holds, so that a row comes
out undefined exactly where it sees a number that is not finite, or too large for sums of products.

Forward, such a key is given NaN and its value zeros. A kernel that replaces the scores of hidden
pairs (`Kernel.replaces_hidden`) hides the NaN too; a row that sees it is NaN as a whole. This is
where a device differs from the CPU, which computes what can be computed of such a row.

Backward, all inputs are given zeros there. An undefined row is given the log-sum-exp `LOWEST`, so
that its weights `exp(score - lse)` are infinite for the keys it sees, and 0 for all others: no
gradient of its query, or of a key it sees, is finite, and no other gradient changes.

That costs a copy of each input: a forward pass reads queries, keys and values twice more and writes
them once, a backward pass does so with the output and its gradient too.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from sparse_patterns.kernels.base import Call, Kernel, accumulation_dtype
from sparse_patterns.kernels.scores import sinks
from sparse_patterns.lowering.plan import Plan

LOWEST = -1e30
"""Log-sum-exp of a row that is undefined; that of a row which sees nothing is -inf."""


def serves(kernel: Kernel, call: Call) -> bool:
    """Return whether a call is to be prepared, and not looked at."""
    return kernel.replaces_hidden and call.q.device.type != "cpu"


def forward(kernel: Kernel, call: Call, plan: Plan, harmless: float) -> tuple[Tensor, Tensor]:
    """Return output and log-sum-exp, both NaN in rows that are undefined; see `Kernel.forward`.

    Args:
        kernel: The kernel.
        call: The call.
        plan: Its plan.
        harmless: As `guard.HARMLESS`.
    """
    if not call.q.numel() or not call.k.numel():
        return sinks.corrected(*kernel.forward(call, plan), call.scores.sinks)
    inputs: list[Tensor] = []
    for (q, k, v), (q_fine, k_fine, v_fine) in _triples(call, harmless):
        fine = k_fine & v_fine
        inputs += [_only(q, q_fine, torch.nan), _only(k, fine, torch.nan), _only(v, fine, 0)]
    out, lse = kernel.forward(_with(call, inputs), plan)
    out, lse = sinks.corrected(out, lse, call.scores.sinks)
    # Some operators tell a row without keys and a row of NaN by the same log-sum-exp.
    return out, lse.masked_fill_(out[..., 0].isnan(), torch.nan)


def backward(
    kernel: Kernel,
    call: Call,
    plan: Plan,
    out: Tensor,
    lse: Tensor,
    grad_out: Tensor,
    grad_lse: Tensor | None,
    harmless: float,
) -> tuple[Tensor, ...]:
    """Return the gradients; see `Kernel.backward`.

    Args:
        kernel: The kernel of the forward pass.
        call: The call.
        plan: Its plan.
        out: The output of the forward pass.
        lse: Its log-sum-exp.
        grad_out: Gradient of the output.
        grad_lse: Gradient of the log-sum-exp, or None.
        harmless: As `guard.HARMLESS`.
    """
    if not call.q.numel() or not call.k.numel():
        return kernel.backward(call, plan, out, lse, grad_out, grad_lse)
    inputs: list[Tensor] = []
    queries: list[Tensor] = []
    for triple, finite in _triples(call, harmless):
        inputs += [_only(x, rows, 0) for x, rows in zip(triple, finite, strict=True)]
        queries.append(finite[0])
    fine: Tensor = queries[0]
    if len(queries) > 1:
        fine = torch.where(_own(call, plan), queries[1], queries[0])
    fine = fine & ~lse.isnan() & _within(grad_out, _bound(call, harmless))
    if grad_lse is not None:
        fine = fine & grad_lse.isfinite()
        grad_lse = grad_lse.masked_fill(~fine, 0)
    undefined = (lse != -torch.inf) & ~fine
    grads = kernel.backward(
        _with(call, inputs),
        plan,
        _only(out, fine, 0),
        lse.masked_fill(undefined, LOWEST),
        # Ones: an infinite weight times 0 would be NaN as well, but not every kernel multiplies.
        torch.where(fine[..., None], grad_out, undefined[..., None].to(grad_out.dtype)),
        grad_lse,
    )
    return grads


def _bound(call: Call, harmless: float) -> float:
    return float(torch.finfo(accumulation_dtype(call.q.dtype)).max) ** harmless


def _triples(
    call: Call, harmless: float
) -> Iterable[tuple[tuple[Tensor, ...], tuple[Tensor, ...]]]:
    """Yield queries, keys and values, and which of their rows are fine; of `global_qkv` too."""
    bound = _bound(call, harmless)
    scaled = bound / max(1.0, abs(call.scale))
    for triple in ((call.q, call.k, call.v), call.global_qkv):
        if triple is not None:
            yield triple, tuple(map(_within, triple, (scaled, bound, bound)))


def _within(x: Tensor, bound: float) -> Tensor:
    """Return which rows `(batch, heads, n)` hold neither NaN nor numbers beyond a bound."""
    # By its largest element, which is NaN if one is.
    largest: Tensor = torch.linalg.vector_norm(x, torch.inf, -1)
    return largest <= min(bound, torch.finfo(x.dtype).max)


def _only(x: Tensor, rows: Tensor, other: float) -> Tensor:
    """Return `x` with another number in all but some rows, laid out like `x`."""
    instead = torch.full((), other, dtype=x.dtype, device=x.device)
    # By itself the result would be laid out like the marks.
    return torch.where(rows[..., None], x, instead, out=torch.empty_like(x))


def _with(call: Call, inputs: list[Tensor]) -> Call:
    q, k, v, *own = inputs
    given: dict[str, Any] = {"q": q, "k": k, "v": v}
    if own:
        given["global_qkv"] = tuple(own)
    return replace(call, **given)


def _own(call: Call, plan: Plan) -> Tensor:
    """Return which rows are computed from `global_qkv`, bool `(batch, heads, q_len)`."""

    def make() -> Tensor:
        here = call.examples.on_cpu()
        rows = torch.zeros(call.q.shape[:3], dtype=torch.bool, device="cpu")
        for group in plan.groups:
            of_group = here.global_rows(group)
            if of_group is not None:
                rows[:, list(group.heads)] = of_group[:, None]
        return rows.to(call.q.device)

    return call.examples.keep(("rows of projections of their own", plan), make)
